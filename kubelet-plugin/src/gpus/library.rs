//! Finds the driver's NVML below a driver root.

use std::path::{Path, PathBuf};

use crate::cdi::driver_root::{self, LIBRARY_FOLDERS};

/// Soname of NVML.
pub const NVML: &str = "libnvidia-ml.so.1";

/// The library in the first of the usual folders that has it. Links that point out of the root (`/driver-root/usr/lib/x ->
/// /etc/alternatives/y`) are followed inside it, one step at a time.
pub fn find(root: &Path) -> Option<PathBuf> {
    LIBRARY_FOLDERS.iter().find_map(|folder| {
        driver_root::find(root, &[folder], NVML).and_then(|path| resolve(root, &root.join(path)))
    })
}

fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    // As many links as the kernel follows.
    for _ in 0..40 {
        match std::fs::read_link(&path) {
            Ok(to) if to.is_absolute() => path = root.join(to.strip_prefix("/").ok()?),
            Ok(to) => path = path.parent()?.join(to),
            Err(_) => return path.is_file().then_some(path),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_absolute_link_stays_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let (lib, etc) = (root.path().join("usr/lib/x86_64-linux-gnu"), root.path().join("etc/alternatives"));
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(&etc).unwrap();
        assert_eq!(find(root.path()), None);
        fs::write(lib.join("libnvidia-ml.so.550"), "").unwrap();
        symlink("/etc/alternatives/ml", lib.join(NVML)).unwrap();
        symlink("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550", etc.join("ml")).unwrap();
        assert_eq!(find(root.path()), Some(lib.join("libnvidia-ml.so.550")));
    }

    #[test]
    fn a_plain_lib_folder_will_do() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("lib")).unwrap();
        fs::write(root.path().join("lib").join(NVML), "").unwrap();
        assert_eq!(find(root.path()), Some(root.path().join("lib").join(NVML)));
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("lib")).unwrap();
        symlink(NVML, root.path().join("lib").join(NVML)).unwrap();
        assert_eq!(find(root.path()), None);
    }
}
