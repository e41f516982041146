//! CDI specs: one for the node's GPUs, one per claim. Source: the Container Device Interface specification, 0.6.0.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vgpu_api::names::{CDI_GPU_KIND, CDI_SHARE_KIND, SHARE_ROOT};

use crate::checkpoint::Claim;
use crate::claim::Share;
use crate::driver_spec::DriverSpec;
use crate::error::PrepareError;
use crate::file;
use crate::share::ShareFiles;

const VERSION: &str = "0.6.0";
/// Annotation of a claim's spec: its checkpoint entry, from which a lost checkpoint is made again.
pub const CLAIM_ANNOTATION: &str = "vgpu-dra.io/claim";

/// Folder of specs.
#[derive(Debug, Clone)]
pub struct Specs {
    folder: PathBuf,
}

/// Host files of the limiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimiterFiles {
    /// The shim for libcuda.so.1.
    pub cuda: PathBuf,
    /// The shim for libnvidia-ml.so.1.
    pub nvml: PathBuf,
}

/// Id of a GPU without a limiter.
pub fn gpu_id(share: &Share) -> String {
    format!("{CDI_GPU_KIND}={}", share.uuid)
}

/// Name of a share's device in its claim's spec.
fn share_name(claim: &str, share: &Share) -> String {
    format!("{claim}-{}", share.share_id)
}

/// Id of a share's limiter.
pub fn share_id(claim: &str, share: &Share) -> String {
    format!("{CDI_SHARE_KIND}={}", share_name(claim, share))
}

impl Specs {
    /// In a folder the container runtime reads.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn gpu_path(&self) -> PathBuf {
        self.folder.join("vgpu-dra.io-gpu.json")
    }

    fn claim_path(&self, claim: &str) -> PathBuf {
        self.folder.join(format!("vgpu-dra.io-share-{claim}.json"))
    }

    /// Writes the node's spec.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn write_gpus(&self, driver: &DriverSpec) -> Result<(), PrepareError> {
        let devices: Vec<Value> = driver
            .devices
            .iter()
            .map(|(uuid, edits)| json!({"name": uuid, "containerEdits": edits}))
            .collect();
        let spec = json!({
            "cdiVersion": VERSION, "kind": CDI_GPU_KIND, "devices": devices, "containerEdits": driver.edits,
        });
        file::folder(&self.folder)?;
        file::write(&self.gpu_path(), spec.to_string().as_bytes())
    }

    /// Writes a claim's spec. A claim without limited shares has none.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn write_claim(
        &self,
        uid: &str,
        claim: &Claim,
        driver: &DriverSpec,
        limiter: &LimiterFiles,
        files: &dyn Fn(&Share) -> ShareFiles,
    ) -> Result<(), PrepareError> {
        let limited: Vec<&Share> = claim.shares.iter().filter(|s| s.limited).collect();
        if limited.is_empty() {
            return Ok(());
        }
        let device = |share: &&Share| {
            let mut mounts = limiter_mounts(driver, limiter);
            let inside = |name: &str| format!("{SHARE_ROOT}/{}/{}/{name}", share.uuid, share.share_id);
            let files = files(share);
            mounts.push(mount(&files.limits, &inside("limits"), true));
            mounts.push(mount(&files.usage, &inside("usage"), false));
            json!({"name": share_name(uid, share), "containerEdits": {"mounts": mounts}})
        };
        let devices: Vec<Value> = limited.iter().map(device).collect();
        let entry = serde_json::to_string(claim).unwrap_or_default();
        let spec = json!({
            "cdiVersion": VERSION,
            "kind": CDI_SHARE_KIND,
            "annotations": {CLAIM_ANNOTATION: entry},
            "devices": devices,
        });
        file::folder(&self.folder)?;
        file::write(&self.claim_path(uid), spec.to_string().as_bytes())
    }

    /// Removes a claim's spec.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn remove_claim(&self, uid: &str) -> Result<(), PrepareError> {
        file::remove(&self.claim_path(uid))
    }

    /// Claims with a spec: UID and the checkpoint entry in it, if it can be read.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn claims(&self) -> Result<Vec<(String, Option<Claim>)>, PrepareError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(PrepareError::io("read", &self.folder))?,
        };
        let mut claims = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.strip_prefix("vgpu-dra.io-share-").and_then(|n| n.strip_suffix(".json"));
            let Some(uid) = uid else { continue };
            let spec: Option<Value> =
                std::fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice(&b).ok());
            let text = spec.as_ref().and_then(|s| s["annotations"][CLAIM_ANNOTATION].as_str());
            claims.push((uid.to_owned(), text.and_then(|t| serde_json::from_str(t).ok())));
        }
        claims.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(claims)
    }
}

fn mount(host: &Path, container: &str, read_only: bool) -> Value {
    let mode = if read_only { "ro" } else { "rw" };
    json!({"hostPath": host, "containerPath": container, "options": [mode, "nosuid", "nodev", "bind"]})
}

/// The shims over the driver's libraries, with the real ones beside them under the names the shims need.
fn limiter_mounts(driver: &DriverSpec, limiter: &LimiterFiles) -> Vec<Value> {
    let mut mounts = Vec::new();
    let libraries = [
        (&driver.cuda, &limiter.cuda, "libcuda.so.1", "libcuda-real.so"),
        (&driver.nvml, &limiter.nvml, "libnvidia-ml.so.1", "libnvidia-ml-real.so"),
    ];
    for (library, shim, name, real) in libraries {
        for place in library {
            let folder = Path::new(&place.container).parent().unwrap_or(Path::new("/"));
            mounts.push(mount(shim, &folder.join(name).display().to_string(), true));
            mounts.push(mount(Path::new(&place.host), &folder.join(real).display().to_string(), true));
        }
    }
    mounts
}
