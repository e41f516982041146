//! A driver without a CDI spec of its own: the same description, made from the files of its root.
//!
//! Good for a plain driver installation. It makes no links and runs no ldconfig, so programs in the container must find
//! sonames in their default folders; `nvidia-ctk cdi generate` does more and is preferred where it is installed.

use std::collections::BTreeMap;
use std::path::Path;

use super::{CDI_VERSION, ContainerEdits, Device, DeviceNode, Mount, Spec};

/// Folders of a driver root that hold libraries, in the order they are searched.
pub const LIBRARY_FOLDERS: &[&str] = &[
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "lib",
];

/// Libraries of the driver that compute programs load, by soname.
const LIBRARIES: &[&str] = &[
    "libcuda.so.1",
    "libnvidia-ml.so.1",
    "libcudadebugger.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-gpucomp.so",
    "libnvidia-opencl.so.1",
    "libnvidia-cfg.so.1",
    "libnvidia-allocator.so.1",
    "libnvcuvid.so.1",
    "libnvidia-encode.so.1",
    "libnvidia-opticalflow.so.1",
    "libnvoptix.so.1",
];
const PROGRAMS: &[&str] = &[
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
];
const PROGRAM_FOLDERS: &[&str] = &["usr/bin", "bin", "usr/local/nvidia/bin"];
/// Device nodes every CUDA program needs, and those some do. `required` ones are named even when they are not there yet,
/// because the driver makes them when first used.
const NODES: &[(&str, bool)] =
    &[("nvidiactl", true), ("nvidia-uvm", true), ("nvidia-uvm-tools", false), ("nvidia-modeset", false)];

/// Folder of libraries in containers of Debian's kind, for this processor; it is a default folder of the loader there, and
/// harmless elsewhere because the same files are mounted where Red Hat's kind looks.
#[cfg(target_arch = "aarch64")]
const CONTAINER_FOLDERS: [&str; 2] = ["/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
#[cfg(not(target_arch = "aarch64"))]
const CONTAINER_FOLDERS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"];

/// Describes the driver in `root` (as this process sees it), for GPUs by minor number. `host` is the same folder as the
/// container runtime sees it.
pub fn describe(root: &Path, host: &Path, minors: impl IntoIterator<Item = i64>) -> Spec {
    let mut edits = ContainerEdits::default();
    for (name, required) in NODES {
        if *required || root.join("dev").join(name).exists() {
            edits.device_nodes.push(node(host, name));
        }
    }
    for soname in LIBRARIES {
        if let Some(found) = find(root, LIBRARY_FOLDERS, soname) {
            let file = host.join(&found);
            edits
                .mounts
                .extend(CONTAINER_FOLDERS.map(|f| Mount::bind(&file, format!("{f}/{soname}"), &["ro"])));
        }
    }
    for program in PROGRAMS {
        if let Some(found) = find(root, PROGRAM_FOLDERS, program) {
            edits.mounts.push(Mount::bind(host.join(found), format!("/usr/bin/{program}"), &["ro"]));
        }
    }
    let devices = minors.into_iter().map(|minor| Device {
        name: minor.to_string(),
        container_edits: ContainerEdits {
            device_nodes: vec![node(host, &format!("nvidia{minor}"))],
            ..ContainerEdits::default()
        },
        rest: BTreeMap::new(),
    });
    Spec {
        cdi_version: CDI_VERSION.into(),
        kind: "nvidia.com/gpu".into(),
        devices: devices.collect(),
        container_edits: edits,
        ..Spec::default()
    }
}

fn node(host: &Path, name: &str) -> DeviceNode {
    let host_path = host.join("dev").join(name).to_string_lossy().into_owned();
    DeviceNode { path: format!("/dev/{name}"), host_path: Some(host_path), rest: BTreeMap::new() }
}

/// Path of a file below `root`, relative to it. Links may point out of the root as this process sees it (`/usr` of a host
/// mounted elsewhere), so a dangling one counts as there.
pub fn find(root: &Path, folders: &[&str], name: &str) -> Option<String> {
    folders.iter().map(|f| format!("{f}/{name}")).find(|p| root.join(p).symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::driver;

    #[test]
    fn what_the_root_holds_is_described_with_host_paths() {
        let root = tempfile::tempdir().unwrap();
        for file in
            ["usr/lib64/libcuda.so.1", "lib/libnvidia-ml.so.1", "bin/nvidia-smi", "dev/nvidia-modeset"]
        {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let spec = describe(root.path(), Path::new("/run/nvidia/driver"), [0, 3]);
        let edits = &spec.container_edits;
        let nodes: Vec<_> = edits.device_nodes.iter().map(|n| n.path.as_str()).collect();
        assert_eq!(nodes, ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset"]);
        assert!(edits.mounts.iter().any(|m| m.host_path == "/run/nvidia/driver/lib/libnvidia-ml.so.1"));
        assert!(edits.mounts.iter().any(|m| m.container_path == "/usr/bin/nvidia-smi"));
        let own = &driver::device_edits(&spec, 3).unwrap().device_nodes[0];
        assert_eq!(own.host_path.as_deref(), Some("/run/nvidia/driver/dev/nvidia3"));
        // Both folders programs may load from get the limiter.
        assert_eq!(driver::shim_places(edits).len(), 4);
    }
}
