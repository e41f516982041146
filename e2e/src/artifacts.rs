//! What cargo built for images and nodes.

use std::path::{Path, PathBuf};

/// The folder cargo builds into, with everything the cluster needs of it.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
}

/// Something cargo has not built.
#[derive(Debug, thiserror::Error)]
#[error("{path} is not there: run `cargo build --workspace`")]
pub struct NotBuilt {
    path: PathBuf,
}

/// Everything a cluster needs.
const FILES: [&str; 11] = [
    "vgpu-e2e",
    "vgpu-controller",
    "vgpu-kubelet-plugin",
    "vgpu-workload",
    "fake-gpu",
    "nvidia-smi",
    "libvgpu_cuda_shim.so",
    "libvgpu_nvml_shim.so",
    "libvgpu_preload.so",
    "libfake_cuda.so",
    "libfake_nvml.so",
];

impl Artifacts {
    /// Of the build this program itself belongs to.
    ///
    /// # Errors
    /// The first file that is missing.
    pub fn of_this_build() -> Result<Self, NotBuilt> {
        let mut folder = std::env::current_exe().unwrap_or_default();
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        Self::in_folder(&folder)
    }

    fn in_folder(folder: &Path) -> Result<Self, NotBuilt> {
        let missing = FILES.iter().map(|f| folder.join(f)).find(|p| !p.exists());
        missing.map_or(Ok(Self { folder: folder.to_owned() }), |path| Err(NotBuilt { path }))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One file of it; of the limiter the one that is shipped, where `cargo xtask` has built those and says so.
    pub fn path(&self, name: &str) -> PathBuf {
        let limiter =
            std::env::var_os("VGPU_LIMITER").map(|all| Path::new(&all).join(std::env::consts::ARCH));
        let shipped = limiter.map(|folder| folder.join(name)).filter(|path| path.is_file());
        shipped.unwrap_or_else(|| self.folder.join(name))
    }
}
