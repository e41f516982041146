//! The driver's own CDI spec, as `nvidia-ctk cdi generate` writes it: where device nodes and driver files come from.
//!
//! Host paths in it are taken as they stand. Devices are found by the device node `/dev/nvidia<minor>` they carry, because
//! their names depend on how the tool was called (index, UUID, type and index).

use std::path::{Path, PathBuf};

use super::{ContainerEdits, Mount, Spec};

/// File names of the driver's spec, and the folders looked in when no path is given.
const FILES: [&str; 2] = ["nvidia.yaml", "nvidia.json"];
const FOLDERS: [&str; 3] = ["etc/cdi", "var/run/cdi", "run/cdi"];

/// Libraries the limiter stands in for: soname, and the name the real file gets beside it (the limiter's DT_NEEDED).
pub const SHIMMED: [(&str, &str); 2] =
    [("libcuda.so.1", "libcuda-real.so"), ("libnvidia-ml.so.1", "libnvidia-ml-real.so")];

/// Why a driver's spec cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DriverSpecError {
    /// It cannot be read.
    #[error("cannot read the driver's CDI spec {}: {source}; check --driver-cdi-spec, or leave it out to describe the driver root", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not a CDI spec.
    #[error("{} is not a CDI spec: {why}; write it anew with `nvidia-ctk cdi generate`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
}

/// One place where a container finds a shimmed library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimPlace {
    /// Soname; also the limiter's file name.
    pub soname: &'static str,
    /// Path in the container that programs load: the limiter goes there.
    pub container_path: String,
    /// The real library on the host.
    pub real_host_path: String,
    /// Path in the container where the limiter looks for it.
    pub real_container_path: String,
}

/// Reads a spec, JSON or YAML by its content.
pub fn read(path: &Path) -> Result<Spec, DriverSpecError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DriverSpecError::Read { path: path.to_owned(), source })?;
    let parsed = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|e| e.to_string())
    } else {
        serde_saphyr::from_str(&text).map_err(|e| e.to_string())
    };
    parsed.map_err(|why| DriverSpecError::Parse { path: path.to_owned(), why })
}

/// The driver's spec in the usual folders of a driver root, if there is one.
pub fn find(root: &Path) -> Option<PathBuf> {
    FOLDERS.iter().flat_map(|d| FILES.map(|f| root.join(d).join(f))).find(|p| p.is_file())
}

/// The edits of the one device that carries `/dev/nvidia<minor>` and no other GPU.
pub fn device_edits(spec: &Spec, minor: i64) -> Option<&ContainerEdits> {
    let own = format!("/dev/nvidia{minor}");
    spec.devices.iter().map(|d| &d.container_edits).find(|edits| {
        let mut gpus = edits.device_nodes.iter().filter(|n| is_gpu_node(&n.path));
        gpus.next().is_some_and(|n| n.path == own) && gpus.next().is_none()
    })
}

fn is_gpu_node(path: &str) -> bool {
    path.strip_prefix("/dev/nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Where containers find the shimmed libraries, from the mounts all devices share.
///
/// A mount of the soname itself names the place. Where only a versioned file is mounted (`libcuda.so.550.163.01`; a hook
/// then makes the link), the place is the soname in that folder. 32-bit folders are left alone: the limiter is 64-bit.
pub fn shim_places(edits: &ContainerEdits) -> Vec<ShimPlace> {
    let mut places: Vec<ShimPlace> = Vec::new();
    for (soname, real) in SHIMMED {
        let (exact, versioned): (Vec<_>, Vec<_>) = edits
            .mounts
            .iter()
            .filter_map(|m| split(&m.container_path).map(|(folder, file)| (m, folder, file)))
            .filter(|(_, folder, file)| is_version_of(file, soname) && !is_32_bit(folder))
            .partition(|(_, _, file)| *file == soname);
        for (mount, folder, _) in exact.into_iter().chain(versioned) {
            let container_path = format!("{folder}/{soname}");
            if places.iter().all(|p| p.container_path != container_path) {
                places.push(ShimPlace {
                    soname,
                    container_path,
                    real_host_path: mount.host_path.clone(),
                    real_container_path: format!("{folder}/{real}"),
                });
            }
        }
    }
    places
}

/// The mounts that put the limiter in `folder` over the driver's libraries, with the real ones beside it.
pub fn shim_mounts(places: &[ShimPlace], folder: &Path) -> Vec<Mount> {
    places
        .iter()
        .flat_map(|p| {
            [
                Mount::bind(folder.join(p.soname), p.container_path.clone(), &["ro"]),
                Mount::bind(&p.real_host_path, p.real_container_path.clone(), &["ro"]),
            ]
        })
        .collect()
}

fn split(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once('/')
}

/// `libcuda.so.1` and `libcuda.so.550.163.01` for `libcuda.so.1`, but not `libcuda.so` or `libcudadebugger.so.1`.
fn is_version_of(file: &str, soname: &str) -> bool {
    let base = soname.strip_suffix('1').unwrap_or(soname);
    file.strip_prefix(base)
        .is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

fn is_32_bit(folder: &str) -> bool {
    folder.split('/').any(|part| part == "lib32" || part.starts_with("i386-") || part.starts_with("i686-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(mounts: &[(&str, &str)]) -> ContainerEdits {
        let mounts = mounts.iter().map(|(h, c)| Mount::bind(h, *c, &["ro"])).collect();
        ContainerEdits { mounts, ..ContainerEdits::default() }
    }

    #[test]
    fn the_soname_is_covered_where_it_is_mounted() {
        let places = shim_places(&edits(&[
            ("/opt/lib/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"),
            ("/opt/lib/libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.1"),
            ("/opt/lib/libcudadebugger.so.1", "/usr/lib64/libcudadebugger.so.1"),
        ]));
        let seen: Vec<_> =
            places.iter().map(|p| (p.container_path.as_str(), p.real_container_path.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda-real.so"),
                ("/usr/lib64/libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml-real.so"),
            ]
        );
    }

    #[test]
    fn where_only_versioned_names_are_mounted_the_soname_beside_them_is_covered() {
        let file = "/usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01";
        let places = shim_places(&edits(&[(file, file)]));
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].container_path, "/usr/lib/x86_64-linux-gnu/libcuda.so.1");
        assert_eq!(places[0].real_host_path, file);
    }

    #[test]
    fn a_folder_with_both_names_is_covered_once() {
        let folder = "/usr/lib/x86_64-linux-gnu";
        let (a, b) = (format!("{folder}/libcuda.so.550.1"), format!("{folder}/libcuda.so.1"));
        let places = shim_places(&edits(&[("/h/libcuda.so.550.1", &a), ("/h/libcuda.so.1", &b)]));
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].real_host_path, "/h/libcuda.so.1");
    }

    #[test]
    fn libraries_for_32_bit_programs_are_left_alone() {
        let places = shim_places(&edits(&[
            ("/a", "/usr/lib/i386-linux-gnu/libcuda.so.1"),
            ("/b", "/usr/lib32/x/lib32/libcuda.so.550.1"),
        ]));
        assert_eq!(places, []);
    }

    #[test]
    fn a_spec_is_read_in_both_notations() {
        let dir = tempfile::tempdir().unwrap();
        let (json, yaml) = (dir.path().join("a.json"), dir.path().join("b"));
        std::fs::write(&json, r#"{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{"name":"0"}]}"#)
            .unwrap();
        std::fs::write(&yaml, "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n  - name: \"0\"\n")
            .unwrap();
        assert_eq!(read(&json).unwrap(), read(&yaml).unwrap());
        std::fs::write(&yaml, "kind: [").unwrap();
        assert!(read(&yaml).unwrap_err().to_string().contains("is not a CDI spec"));
        let message = read(&dir.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("--driver-cdi-spec"), "{message}");
    }

    #[test]
    fn a_device_is_found_by_its_node_whatever_its_name() {
        let spec: Spec = serde_json::from_str(
            r#"{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[
            {"name":"all","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"},{"path":"/dev/nvidia1"}]}},
            {"name":"gpu1","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia1"},{"path":"/dev/dri/card1"}]}}]}"#,
        )
        .unwrap();
        assert_eq!(device_edits(&spec, 1).unwrap().device_nodes.len(), 2);
        assert!(device_edits(&spec, 0).is_none());
    }

    #[test]
    fn the_usual_folders_are_searched() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(find(root.path()), None);
        std::fs::create_dir_all(root.path().join("var/run/cdi")).unwrap();
        std::fs::write(root.path().join("var/run/cdi/nvidia.yaml"), "").unwrap();
        assert_eq!(find(root.path()), Some(root.path().join("var/run/cdi/nvidia.yaml")));
    }
}
