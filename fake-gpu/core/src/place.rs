//! Where the fake driver libraries find their GPUs without being told.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};

/// Where containers find the file; on the host it lies in the driver root.
pub const CONTAINER_FILE: &str = "/run/fake-gpu/gpus";

/// The GPU file, and the folder whose device nodes say which GPUs may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub gpus: PathBuf,
    /// The folder with `nvidia<minor>` and `nvidiactl`.
    pub devices: PathBuf,
}

impl Place {
    /// For the library some function or static of which lies at `address`: its driver root if it is in one, else the
    /// fixed places of a container.
    pub fn of_library(address: usize) -> Self {
        // SAFETY: Dl_info is plain pointers, for which null is a value.
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: dladdr takes any address.
        let found = unsafe { libc::dladdr(address as *const c_void, &raw mut info) };
        if found == 0 || info.dli_fname.is_null() {
            return Self::of_container();
        }
        // SAFETY: dladdr gave a C string that lives as long as the library.
        let library = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned();
        Self::of_file(Path::new(&library))
    }

    fn of_file(library: &Path) -> Self {
        let library = std::path::absolute(library).unwrap_or_default();
        let root = library.parent().and_then(Path::parent);
        match root.filter(|r| r.join("gpus").is_file()) {
            Some(root) => Self { gpus: root.join("gpus"), devices: root.join("dev") },
            None => Self::of_container(),
        }
    }

    fn of_container() -> Self {
        Self { gpus: CONTAINER_FILE.into(), devices: "/dev".into() }
    }

    /// Whether a GPU may be used from here.
    pub fn has(&self, minor: usize) -> bool {
        self.devices.join(format!("nvidia{minor}")).exists()
    }

    /// Whether the driver itself may be talked to from here.
    pub fn has_control(&self) -> bool {
        self.devices.join("nvidiactl").exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_in_a_driver_root_uses_that_root_and_any_other_the_containers_places() {
        let root = tempfile::tempdir().unwrap();
        let library = root.path().join("lib/libcuda.so.1");
        assert_eq!(Place::of_file(&library), Place::of_container());
        std::fs::write(root.path().join("gpus"), "").unwrap();
        let place = Place::of_file(&library);
        assert_eq!((place.gpus.clone(), place.has(0)), (root.path().join("gpus"), false));
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/nvidia0"), "").unwrap();
        assert!(place.has(0) && !place.has(1) && !place.has_control());
    }
}
