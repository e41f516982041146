//! A claim's spec: the limiter over the driver's libraries, and the files of each share.
//!
//! An annotation holds the claim's entry of the checkpoint, so that a lost checkpoint can be made again from the specs.

use std::collections::BTreeMap;
use std::path::Path;

use vgpu_api::names;
use vgpu_share::bell;

use super::driver::{ShimPlace, shim_mounts};
use super::{CDI_VERSION, ContainerEdits, Device, Mount, Spec, claim_of, share_device};
use crate::checkpoint::PreparedClaim;
use crate::limiter::{Form, PRELOAD_FOLDER, PRELOAD_LIST, PRELOAD_OBJECT};
use crate::share_files::SharePaths;

/// Annotation with the claim's entry of the checkpoint.
const ENTRY: &str = "vgpu-dra.io/claim";

/// The spec of a claim; `None` when all its GPUs are exclusive, since a spec needs a device.
///
/// `shares` is the folder of all share files, `limiter` the folder of the installed limiter. Each device is complete in
/// itself, and repeating the limiter mounts does no harm. The limiter's form is the one its folder holds.
pub fn spec(
    uid: &str,
    claim: &PreparedClaim,
    shares: &Path,
    limiter: &Path,
    places: &[ShimPlace],
) -> Option<Spec> {
    let devices: Vec<Device> = claim
        .shares
        .iter()
        .filter(|s| !s.exclusive)
        .map(|share| {
            let paths = SharePaths::new(shares, uid, &share.share_id);
            let inside = format!("{}/{}/{}", names::SHARE_ROOT, share.uuid, share.share_id);
            let mut mounts = limiter_mounts(limiter, places);
            mounts.push(Mount::bind(&paths.limits, format!("{inside}/limits"), &["ro", "noexec"]));
            mounts.push(Mount::bind(&paths.usage, format!("{inside}/usage"), &["rw", "noexec"]));
            mounts.push(Mount::bind(&paths.bell, format!("{inside}/{}", bell::NAME), &["rw", "noexec"]));
            Device {
                name: share_device(uid, &share.share_id),
                container_edits: ContainerEdits { mounts, ..ContainerEdits::default() },
                rest: BTreeMap::new(),
            }
        })
        .collect();
    let entry = serde_json::to_string(claim).ok()?;
    (!devices.is_empty()).then(|| Spec {
        cdi_version: CDI_VERSION.into(),
        kind: names::CDI_SHARE_KIND.into(),
        annotations: BTreeMap::from([(ENTRY.to_owned(), entry)]),
        devices,
        ..Spec::default()
    })
}

fn limiter_mounts(folder: &Path, places: &[ShimPlace]) -> Vec<Mount> {
    match Form::of(folder).unwrap_or_default() {
        Form::Shim => shim_mounts(places, folder),
        Form::Preload => vec![
            Mount::bind(folder.join(PRELOAD_OBJECT), format!("{PRELOAD_FOLDER}/{PRELOAD_OBJECT}"), &["ro"]),
            Mount::bind(folder.join(PRELOAD_LIST), format!("/etc/{PRELOAD_LIST}"), &["ro"]),
        ],
    }
}

/// Claims that have a spec in `folder`, with their entries. Specs without a readable entry are left out.
pub fn recorded(folder: &Path) -> BTreeMap<String, PreparedClaim> {
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = file.file_name();
        let Some(uid) = name.to_str().and_then(claim_of) else { continue };
        let read = || -> Result<PreparedClaim, String> {
            let bytes = std::fs::read(file.path()).map_err(|e| e.to_string())?;
            let spec: Spec = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            let entry = spec.annotations.get(ENTRY).ok_or("it has no entry")?;
            serde_json::from_str(entry).map_err(|e| e.to_string())
        };
        match read() {
            Ok(claim) => drop(found.insert(uid.to_owned(), claim)),
            Err(error) => {
                tracing::warn!(path = %file.path().display(), error, "a claim's CDI spec tells nothing")
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::PreparedShare;

    #[test]
    fn a_share_gets_the_limiter_and_its_files() {
        let share = PreparedShare { uuid: "GPU-a".into(), share_id: "s1".into(), ..PreparedShare::default() };
        let whole = PreparedShare { exclusive: true, share_id: "s2".into(), ..share.clone() };
        let claim = PreparedClaim { shares: vec![share, whole], ..PreparedClaim::default() };
        let place = ShimPlace {
            soname: "libcuda.so.1",
            container_path: "/usr/lib64/libcuda.so.1".into(),
            real_host_path: "/host/libcuda.so.550".into(),
            real_container_path: "/usr/lib64/libcuda-real.so".into(),
        };
        let spec =
            spec("uid", &claim, Path::new("/run/shares"), Path::new("/var/limiter/aa"), &[place]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = super::super::claim_path(dir.path(), "uid");
        super::super::write(&crate::host::LinuxHost, &path, &spec).unwrap();
        assert_eq!(recorded(dir.path()), BTreeMap::from([("uid".to_owned(), claim)]));
        assert_eq!(spec.devices.len(), 1);
        assert_eq!(spec.devices[0].name, "uid-s1");
        let seen: Vec<String> = spec.devices[0]
            .container_edits
            .mounts
            .iter()
            .map(|m| format!("{} {} {}", m.host_path, m.container_path, m.options[0]))
            .collect();
        assert_eq!(
            seen,
            [
                "/var/limiter/aa/libcuda.so.1 /usr/lib64/libcuda.so.1 ro",
                "/host/libcuda.so.550 /usr/lib64/libcuda-real.so ro",
                "/run/shares/uid/s1/limits /run/vgpu-dra/GPU-a/s1/limits ro",
                "/run/shares/uid/s1/usage/usage /run/vgpu-dra/GPU-a/s1/usage rw",
                "/run/shares/uid/s1/bell /run/vgpu-dra/GPU-a/s1/bell rw",
            ]
        );
    }

    #[test]
    fn a_share_under_the_preload_object_keeps_the_drivers_libraries_as_they_are() {
        let share = PreparedShare { uuid: "GPU-a".into(), share_id: "s1".into(), ..PreparedShare::default() };
        let claim = PreparedClaim { shares: vec![share], ..PreparedClaim::default() };
        let limiter = tempfile::tempdir().unwrap();
        for file in Form::Preload.files() {
            std::fs::write(limiter.path().join(file), "").unwrap();
        }
        let spec = spec("uid", &claim, Path::new("/run/shares"), limiter.path(), &[]).unwrap();
        let mounts = &spec.devices[0].container_edits.mounts;
        let seen: Vec<_> =
            mounts.iter().map(|m| (m.container_path.as_str(), m.options[0].as_str())).collect();
        assert_eq!(
            seen[..3],
            [
                ("/usr/lib/vgpu-dra/libvgpu_preload.so", "ro"),
                ("/etc/ld.so.preload", "ro"),
                ("/run/vgpu-dra/GPU-a/s1/limits", "ro"),
            ]
        );
        assert_eq!(mounts[1].host_path, limiter.path().join("ld.so.preload").to_string_lossy());
    }

    #[test]
    fn a_claim_of_exclusive_gpus_needs_no_spec() {
        let whole = PreparedShare { exclusive: true, ..PreparedShare::default() };
        let claim = PreparedClaim { shares: vec![whole], ..PreparedClaim::default() };
        assert_eq!(spec("uid", &claim, Path::new("/"), Path::new("/"), &[]), None);
    }
}
