//! A driver root as NVIDIA's packages leave it on a node, made of fakes, with the CDI spec `nvidia-ctk` would write.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use crate::profile::{Spec, parse};
use crate::{CONTAINER_FILE, FakeGpuError, Gpus};

/// Folder of driver libraries in containers of Debian's kind.
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "/usr/lib/aarch64-linux-gnu" } else { "/usr/lib/x86_64-linux-gnu" };

/// Built file -> place below the driver root.
const FILES: [(&str, &str); 3] = [
    ("libfake_cuda.so", "lib/libcuda.so.1"),
    ("libfake_nvml.so", "lib/libnvidia-ml.so.1"),
    ("nvidia-smi", "bin/nvidia-smi"),
];

/// Installs into `root`, which containers' runtimes reach as `host_root`. Repeating it changes nothing.
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
    let specs = parse(gpus, node)?;
    for folder in ["lib", "bin", "dev"] {
        let path = root.join(folder);
        fs::create_dir_all(&path).map_err(error("create", &path))?;
    }
    for (from, to) in FILES {
        let (from, to) = (artifacts.join(from), root.join(to));
        // Renamed into place: a program may have the old one mapped.
        let part = to.with_extension("part");
        fs::copy(&from, &part).map_err(error("copy", &from))?;
        fs::rename(&part, &to).map_err(error("rename", &part))?;
    }
    Gpus::create(&root.join("gpus"), &specs)?;
    let minors = (0..specs.len()).map(|minor| format!("nvidia{minor}"));
    for name in minors.chain(["nvidiactl".into(), "nvidia-uvm".into()]) {
        device_node(&root.join("dev").join(name))?;
    }
    let spec = root.join("cdi.json");
    let text = serde_json::to_vec_pretty(&cdi(host_root, &specs)).map_err(io::Error::other);
    text.and_then(|t| fs::write(&spec, t)).map_err(error("write", &spec))
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FakeGpuError {
    let path = path.to_owned();
    move |source| FakeGpuError::Io { action, path, source }
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

fn cdi(host_root: &Path, specs: &[Spec]) -> Value {
    let at = |path: &str| host_root.join(path).display().to_string();
    let node = |name: &str| json!({"path": format!("/dev/{name}"), "hostPath": at(&format!("dev/{name}"))});
    let mount = |host: &str, container: String, options: &[&str]| json!({"hostPath": at(host), "containerPath": container, "options": options});
    let read_only = ["ro", "nosuid", "nodev", "bind"];
    let device =
        |name: String, nodes: Vec<Value>| json!({"name": name, "containerEdits": {"deviceNodes": nodes}});
    let of = |index: usize| vec![node(&format!("nvidia{index}"))];
    let mut devices: Vec<Value> = (0..specs.len()).map(|i| device(i.to_string(), of(i))).collect();
    devices.extend(specs.iter().enumerate().map(|(i, s)| device(s.uuid.clone(), of(i))));
    devices.push(device("all".into(), (0..specs.len()).flat_map(of).collect()));
    json!({
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": devices,
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [node("nvidiactl"), node("nvidia-uvm")],
            "mounts": [
                mount("bin/nvidia-smi", "/usr/bin/nvidia-smi".into(), &read_only),
                mount("lib/libcuda.so.1", format!("{LIBRARIES}/libcuda.so.1"), &read_only),
                mount("lib/libnvidia-ml.so.1", format!("{LIBRARIES}/libnvidia-ml.so.1"), &read_only),
                mount("gpus", CONTAINER_FILE.into(), &["rw", "nosuid", "nodev", "bind"]),
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_index_by_uuid_and_all() {
        let specs = parse("T4x2", "node-a").unwrap();
        let spec = cdi(Path::new("/opt/x"), &specs);
        let names: Vec<&str> =
            spec["devices"].as_array().unwrap().iter().filter_map(|d| d["name"].as_str()).collect();
        assert_eq!(names, ["0", "1", &specs[0].uuid, &specs[1].uuid, "all"]);
        assert_eq!(spec["devices"][4]["containerEdits"]["deviceNodes"][1]["hostPath"], "/opt/x/dev/nvidia1");
    }
}
