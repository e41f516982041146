//! What makes a GPU usable in a container: device nodes and driver files, taken from a CDI spec as `nvidia-ctk` writes
//! it, or, without one, found below the driver root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vgpu_api::Gpu;

use crate::gpus::nvml::LIBRARY_FOLDERS;

/// A driver library on the host and in containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Path on the host.
    pub host: String,
    /// Path in containers.
    pub container: String,
}

/// What containers get.
#[derive(Debug, Clone, PartialEq)]
pub struct DriverSpec {
    /// Container edits of each GPU, by NVML UUID.
    pub devices: BTreeMap<String, Value>,
    /// Container edits of every container with a GPU.
    pub edits: Value,
    /// Places of libcuda.so.1.
    pub cuda: Vec<Library>,
    /// Places of libnvidia-ml.so.1.
    pub nvml: Vec<Library>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverSpecError {
    /// The file.
    #[error("--driver-cdi-spec {path}: {message}")]
    Read {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// It lacks a library the limiter stands before.
    #[error("{source_of} mounts no {library}; write it again with `nvidia-ctk cdi generate`")]
    NoLibrary {
        /// Where it was looked for.
        source_of: String,
        /// The library.
        library: &'static str,
    },
    /// It does not know a GPU.
    #[error(
        "{source_of} has no device for GPU {uuid} (minor {minor}); write it again with `nvidia-ctk cdi generate`"
    )]
    NoDevice {
        /// Where it was looked for.
        source_of: String,
        /// The GPU.
        uuid: String,
        /// Its minor number.
        minor: i64,
    },
}

/// Folders in which `nvidia-ctk` leaves its spec.
const USUAL: [&str; 4] =
    ["etc/cdi/nvidia.yaml", "etc/cdi/nvidia.json", "var/run/cdi/nvidia.yaml", "run/cdi/nvidia.yaml"];

/// Finds or makes the spec.
///
/// # Errors
/// [`DriverSpecError`].
pub fn load(
    given: Option<&Path>,
    root: &Path,
    root_on_host: &Path,
    gpus: &[Gpu],
) -> Result<DriverSpec, DriverSpecError> {
    let usual = || USUAL.iter().map(|p| root.join(p)).find(|p| p.is_file());
    match given.map(Path::to_owned).or_else(usual) {
        Some(path) => {
            let read = |message: String| DriverSpecError::Read { path: path.display().to_string(), message };
            let text = std::fs::read_to_string(&path).map_err(|e| read(e.to_string()))?;
            // JSON is YAML.
            let spec: Value = serde_saphyr::from_str(&text).map_err(|e| read(e.to_string()))?;
            from_cdi(&spec, &path.display().to_string(), gpus)
        }
        None => from_root(root, root_on_host, gpus),
    }
}

/// From a CDI spec whose devices are named by UUID or by index.
fn from_cdi(spec: &Value, source_of: &str, gpus: &[Gpu]) -> Result<DriverSpec, DriverSpecError> {
    let named = |name: &str| {
        let devices = spec["devices"].as_array().into_iter().flatten();
        devices.into_iter().find(|d| d["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
    };
    let mut devices = BTreeMap::new();
    for gpu in gpus {
        let found = named(&gpu.uuid).or_else(|| named(&gpu.minor.to_string()));
        let missing = || DriverSpecError::NoDevice {
            source_of: source_of.to_owned(),
            uuid: gpu.uuid.clone(),
            minor: gpu.minor,
        };
        let edits = found.ok_or_else(missing)?["containerEdits"].clone();
        devices.insert(gpu.uuid.clone(), if edits.is_null() { json!({}) } else { edits });
    }
    let mut edits = spec["containerEdits"].clone();
    let env = "NVIDIA_VISIBLE_DEVICES=void";
    match edits["env"].as_array_mut() {
        Some(list) => {
            list.retain(|e| !e.as_str().is_some_and(|e| e.starts_with("NVIDIA_VISIBLE_DEVICES=")));
            list.push(env.into());
        }
        None => edits["env"] = json!([env]),
    }
    let library = |stem: &str| -> Vec<Library> {
        let mounts = edits["mounts"].as_array().cloned().unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let all: Vec<Library> = mounts
            .iter()
            .map(|m| Library { host: text(&m["hostPath"]), container: text(&m["containerPath"]) })
            .filter(|l| file_name(&l.container).starts_with(stem))
            .collect();
        // One per folder: the version-free name if it is mounted, else whichever is.
        let mut by_folder: BTreeMap<PathBuf, Library> = BTreeMap::new();
        for found in all {
            let folder = Path::new(&found.container).parent().unwrap_or(Path::new("/")).to_owned();
            let exact = file_name(&found.container) == format!("{stem}.1");
            if exact || !by_folder.contains_key(&folder) {
                by_folder.insert(folder, found);
            }
        }
        by_folder.into_values().collect()
    };
    let (cuda, nvml) = (library("libcuda.so"), library("libnvidia-ml.so"));
    for (found, library) in [(&cuda, "libcuda.so.1"), (&nvml, "libnvidia-ml.so.1")] {
        if found.is_empty() {
            return Err(DriverSpecError::NoLibrary { source_of: source_of.to_owned(), library });
        }
    }
    Ok(DriverSpec { devices, edits, cuda, nvml })
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Libraries a CUDA program may load.
const LIBRARIES: [&str; 9] = [
    "libcuda.so.1",
    "libnvidia-ml.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-gpucomp.so",
    "libcudadebugger.so.1",
    "libnvidia-opencl.so.1",
    "libnvidia-cfg.so.1",
    "libnvidia-allocator.so.1",
];
/// Device nodes of every container with a GPU.
const NODES: [&str; 4] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"];

fn from_root(root: &Path, host: &Path, gpus: &[Gpu]) -> Result<DriverSpec, DriverSpecError> {
    let node = |name: &str| json!({"path": format!("/dev/{name}"), "hostPath": host.join("dev").join(name)});
    let read_only = json!(["ro", "nosuid", "nodev", "bind"]);
    let mut mounts = Vec::new();
    let (mut cuda, mut nvml) = (Vec::new(), Vec::new());
    for library in LIBRARIES {
        let folder = LIBRARY_FOLDERS.iter().find(|f| root.join(f).join(library).exists());
        let Some(folder) = folder else { continue };
        let found = Library {
            host: host.join(folder).join(library).display().to_string(),
            container: Path::new("/").join(folder).join(library).display().to_string(),
        };
        mounts.push(json!({"hostPath": found.host, "containerPath": found.container, "options": read_only}));
        match library {
            "libcuda.so.1" => cuda.push(found),
            "libnvidia-ml.so.1" => nvml.push(found),
            _ => {}
        }
    }
    for (found, library) in [(&cuda, "libcuda.so.1"), (&nvml, "libnvidia-ml.so.1")] {
        if found.is_empty() {
            let source_of = format!("the driver root {}", root.display());
            return Err(DriverSpecError::NoLibrary { source_of, library });
        }
    }
    for tool in ["usr/bin/nvidia-smi", "usr/bin/nvidia-debugdump"] {
        if root.join(tool).exists() {
            let container = format!("/{tool}");
            mounts
                .push(json!({"hostPath": host.join(tool), "containerPath": container, "options": read_only}));
        }
    }
    let nodes: Vec<Value> =
        NODES.iter().filter(|n| root.join("dev").join(n).exists()).map(|n| node(n)).collect();
    let device =
        |gpu: &Gpu| (gpu.uuid.clone(), json!({"deviceNodes": [node(&format!("nvidia{}", gpu.minor))]}));
    let edits = json!({"env": ["NVIDIA_VISIBLE_DEVICES=void"], "deviceNodes": nodes, "mounts": mounts});
    Ok(DriverSpec { devices: gpus.iter().map(device).collect(), edits, cuda, nvml })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::tests::gpus;

    fn spec(mounts: &[&str]) -> Value {
        let mounts: Vec<Value> =
            mounts.iter().map(|m| json!({"hostPath": format!("/host{m}"), "containerPath": m})).collect();
        let device = |name: &str| json!({"name": name, "containerEdits": {"deviceNodes": [{"path": format!("/dev/{name}")}]}});
        json!({
            "devices": [device("0"), device("GPU-BB"), device("all")],
            "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=all"], "mounts": mounts},
        })
    }

    #[test]
    fn devices_are_found_by_uuid_or_by_index() {
        let found = from_cdi(&spec(&["/l/libcuda.so.1", "/l/libnvidia-ml.so.1"]), "x", &gpus()).unwrap();
        assert_eq!(found.devices["GPU-AA"]["deviceNodes"][0]["path"], "/dev/0");
        assert_eq!(found.devices["GPU-BB"]["deviceNodes"][0]["path"], "/dev/GPU-BB");
        assert_eq!(found.edits["env"], json!(["NVIDIA_VISIBLE_DEVICES=void"]));
    }

    #[test]
    fn a_versioned_library_serves_where_no_other_name_is_mounted() {
        let found =
            from_cdi(&spec(&["/l/libcuda.so.550.1", "/l/libnvidia-ml.so.550.1"]), "x", &gpus()).unwrap();
        assert_eq!(
            found.cuda,
            [Library { host: "/host/l/libcuda.so.550.1".into(), container: "/l/libcuda.so.550.1".into() }]
        );
    }

    #[test]
    fn a_spec_without_a_library_or_a_gpu_says_what_to_do() {
        let error = from_cdi(&spec(&["/l/libcuda.so.1"]), "x.yaml", &gpus()).unwrap_err().to_string();
        assert_eq!(
            error,
            "x.yaml mounts no libnvidia-ml.so.1; write it again with `nvidia-ctk cdi generate`"
        );
        let mut other = gpus();
        other[0].uuid = "GPU-CC".into();
        other[0].minor = 7;
        let all = spec(&["/l/libcuda.so.1", "/l/libnvidia-ml.so.1"]);
        let error = from_cdi(&all, "x.yaml", &other).unwrap_err().to_string();
        assert!(error.starts_with("x.yaml has no device for GPU GPU-CC (minor 7)"), "{error}");
    }

    #[test]
    fn a_driver_root_is_described_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let files =
            ["usr/lib64/libcuda.so.1", "usr/lib64/libnvidia-ml.so.1", "dev/nvidiactl", "usr/bin/nvidia-smi"];
        files.into_iter().for_each(write);
        let found = load(None, root.path(), Path::new("/run/nvidia/driver"), &gpus()).unwrap();
        assert_eq!(found.cuda[0].host, "/run/nvidia/driver/usr/lib64/libcuda.so.1");
        assert_eq!(found.edits["deviceNodes"].as_array().unwrap().len(), 1);
        assert_eq!(found.devices["GPU-BB"]["deviceNodes"][0]["hostPath"], "/run/nvidia/driver/dev/nvidia1");
    }
}
