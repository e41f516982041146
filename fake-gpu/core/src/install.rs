//! A driver root as NVIDIA's packages leave it on a node, made of fakes, with the CDI spec `nvidia-ctk` would write.
//!
//! | path below the root | what |
//! |---|---|
//! | `lib/libcuda.so.1`, `lib/libnvidia-ml.so.1`, `bin/nvidia-smi` | what containers get |
//! | `gpus` | the GPU file, writable by everyone |
//! | `dev/nvidia<minor>`, `dev/nvidiactl`, `dev/nvidia-uvm` | character devices like /dev/null |
//! | `sys/bus/pci/devices/<address>` | links into `sys/devices/pci<root>`, with `numa_node` |
//! | `cdi.json` | kind `nvidia.com/gpu`; devices by index, by UUID, and `all` |
//!
//! Installing again replaces only what differs. A program that has an old file mapped keeps it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::profile::{Description, Spec, load};
use crate::{FakeGpuError, Gpus};

mod cdi;

/// Built file -> place below the driver root.
const FILES: [(&str, &str); 3] = [
    ("libfake_cuda.so", "lib/libcuda.so.1"),
    ("libfake_nvml.so", "lib/libnvidia-ml.so.1"),
    ("nvidia-smi", "bin/nvidia-smi"),
];

/// Device nodes of the driver as a whole.
const CONTROL: [&str; 2] = ["nvidiactl", "nvidia-uvm"];

/// Installs into `root`, which containers' runtimes reach as `host_root`. `gpus` is a description or a file that holds
/// one ([`crate::profile`]), `artifacts` the folder cargo built into. Needs the right to make device nodes.
///
/// # Errors
/// [`FakeGpuError`] with the file.
pub fn install(
    root: &Path,
    host_root: &Path,
    node: &str,
    gpus: &str,
    artifacts: &Path,
) -> Result<(), FakeGpuError> {
    install_with(root, host_root, &load(gpus, node)?, artifacts, device_node)
}

/// The same for programs that run beside it, not in containers: plain files stand for the device nodes, so that it needs
/// no rights.
///
/// # Errors
/// [`FakeGpuError`] with the file.
pub fn install_unprivileged(
    root: &Path,
    node: &str,
    gpus: &str,
    artifacts: &Path,
) -> Result<(), FakeGpuError> {
    install_with(root, root, &load(gpus, node)?, artifacts, |path| put(path, b""))
}

fn install_with(
    root: &Path,
    host_root: &Path,
    description: &Description,
    artifacts: &Path,
    make_node: impl Fn(&Path) -> Result<(), FakeGpuError>,
) -> Result<(), FakeGpuError> {
    for folder in ["lib", "bin", "dev"] {
        make_folder(&root.join(folder))?;
    }
    for (from, to) in FILES {
        copy(&artifacts.join(from), &root.join(to))?;
    }
    Gpus::create(&root.join("gpus"), description)?;
    let specs = &description.gpus;
    let minors = (0..specs.len()).map(|minor| format!("nvidia{minor}"));
    for name in minors.chain(CONTROL.map(str::to_owned)) {
        make_node(&root.join("dev").join(name))?;
    }
    specs.iter().try_for_each(|spec| pci_device(&root.join("sys"), spec))?;
    let text = serde_json::to_vec_pretty(&cdi::spec(host_root, specs)).map_err(io::Error::other);
    let path = root.join("cdi.json");
    put(&path, &text.map_err(error("write", &path))?)
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FakeGpuError {
    let path = path.to_owned();
    move |source| FakeGpuError::Io { action, path, source }
}

fn make_folder(path: &Path) -> Result<(), FakeGpuError> {
    fs::create_dir_all(path).map_err(error("create", path))
}

/// Writes a file by renaming, unless it is like that already.
fn put(path: &Path, content: &[u8]) -> Result<(), FakeGpuError> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let part = path.with_extension("part");
    fs::write(&part, content).map_err(error("write", &part))?;
    fs::rename(&part, path).map_err(error("rename", &part))
}

fn copy(from: &Path, to: &Path) -> Result<(), FakeGpuError> {
    let content = fs::read(from).map_err(error("read", from))?;
    put(to, &content)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(error("set the mode of", to))
}

/// A character device that behaves like /dev/null and can be put into any container.
fn device_node(path: &Path) -> Result<(), FakeGpuError> {
    if !fs::metadata(path).is_ok_and(|m| m.file_type().is_char_device()) {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 3))
            .map_err(|e| error("make the device", path)(e.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(error("set the mode of", path))
}

/// What sysfs shows of a PCI device: its path names the root above it.
fn pci_device(sys: &Path, spec: &Spec) -> Result<(), FakeGpuError> {
    let address = format!("0000:{:02x}:00.0", spec.bus);
    let root = format!("pci0000:{:02x}", spec.root);
    let device = sys.join("devices").join(&root).join(&address);
    make_folder(&device)?;
    put(&device.join("numa_node"), format!("{}\n", spec.numa).as_bytes())?;
    put(&device.join("vendor"), b"0x10de\n")?;
    let link = sys.join("bus/pci/devices").join(&address);
    make_folder(&sys.join("bus/pci/devices"))?;
    let target = Path::new("../../../devices").join(root).join(address);
    if fs::read_link(&link).is_ok_and(|there| there == target) {
        return Ok(());
    }
    match fs::remove_file(&link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error("replace", &link)(e)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &link).map_err(error("make the link", &link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_device_shows_its_root_and_numa_node() {
        let sys = tempfile::tempdir().unwrap();
        for spec in load("T4x3", "node").unwrap().gpus {
            // Twice: the second time everything is there already.
            pci_device(sys.path(), &spec).unwrap();
            pci_device(sys.path(), &spec).unwrap();
        }
        let third = sys.path().join("bus/pci/devices/0000:20:00.0");
        assert!(fs::canonicalize(&third).unwrap().ends_with("devices/pci0000:20/0000:20:00.0"));
        assert_eq!(fs::read_to_string(third.join("numa_node")).unwrap(), "1\n");
    }

    #[test]
    fn a_file_that_is_the_same_already_is_not_replaced() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let inode = |content: &[u8]| {
            put(&path, content).unwrap();
            fs::metadata(&path).unwrap().ino()
        };
        let first = inode(b"one");
        assert_eq!(inode(b"one"), first);
        assert_ne!(inode(b"two"), first);
    }

    #[test]
    fn a_missing_artifact_is_named() {
        let (root, artifacts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let failed = install(root.path(), root.path(), "node", "T4", artifacts.path()).unwrap_err();
        assert!(failed.to_string().ends_with("libfake_cuda.so"), "{failed}");
    }
}
