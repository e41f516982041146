//! The CDI spec, in the form of `nvidia-ctk cdi generate`.

use std::path::Path;

use serde_json::{Value, json};

use crate::CONTAINER_FILE;
use crate::profile::Spec;

/// Folder of driver libraries in containers of Debian's kind.
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "/usr/lib/aarch64-linux-gnu" } else { "/usr/lib/x86_64-linux-gnu" };

pub(super) fn spec(host_root: &Path, specs: &[Spec]) -> Value {
    let at = |path: &str| host_root.join(path).display().to_string();
    let node = |name: &str| json!({"path": format!("/dev/{name}"), "hostPath": at(&format!("dev/{name}"))});
    let mount = |host: &str, container: String, mode: &str| {
        let options = [mode, "nosuid", "nodev", "bind"];
        json!({"hostPath": at(host), "containerPath": container, "options": options})
    };
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
            "deviceNodes": super::CONTROL.map(node),
            "mounts": [
                mount("bin/nvidia-smi", "/usr/bin/nvidia-smi".into(), "ro"),
                mount("lib/libcuda.so.1", format!("{LIBRARIES}/libcuda.so.1"), "ro"),
                mount("lib/libnvidia-ml.so.1", format!("{LIBRARIES}/libnvidia-ml.so.1"), "ro"),
                mount("gpus", CONTAINER_FILE.into(), "rw"),
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::parse;

    #[test]
    fn devices_are_named_by_index_by_uuid_and_all() {
        let specs = parse("T4x2", "node-a").unwrap().gpus;
        let spec = spec(Path::new("/opt/x"), &specs);
        let names: Vec<&str> =
            spec["devices"].as_array().unwrap().iter().filter_map(|d| d["name"].as_str()).collect();
        assert_eq!(names, ["0", "1", &specs[0].uuid, &specs[1].uuid, "all"]);
        assert_eq!(spec["devices"][4]["containerEdits"]["deviceNodes"][1]["hostPath"], "/opt/x/dev/nvidia1");
    }

    #[test]
    fn only_the_gpu_file_can_be_written_to() {
        let spec = spec(Path::new("/opt/x"), &parse("T4", "node-a").unwrap().gpus);
        let writable: Vec<&Value> = spec["containerEdits"]["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|m| m["options"][0] != "ro")
            .map(|m| &m["containerPath"])
            .collect();
        assert_eq!(writable, [CONTAINER_FILE]);
    }
}
