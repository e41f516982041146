//! Container Device Interface specs: the format, our names in it, and how specs are written.
//!
//! Format: <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>. Only what the plugin looks at has a
//! field; everything else of a driver's spec is carried over untouched in `rest`.
//!
//! | spec | file | devices |
//! |---|---|---|
//! | `vgpu-dra.io/gpu` ([`node`]) | `vgpu-dra.io-gpu.json` | one per GPU, by NVML UUID: its device nodes; driver files for all |
//! | `vgpu-dra.io/share` ([`claim`]) | `vgpu-dra.io-share-<claim UID>.json` | one per share: limiter mounts, share files |
//!
//! A result's ids are `[gpu, share]`. The runtime applies a spec's common edits at that spec's first id and a later mount
//! on the same path replaces an earlier one, so the limiter always ends up over the driver's libraries.

pub mod claim;
pub mod driver;
pub mod driver_root;
pub mod node;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vgpu_api::names;

use crate::host::Host;

/// Version of our specs: the first that knows annotations.
pub const CDI_VERSION: &str = "0.6.0";

/// A spec.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Least version of the format that knows every field used.
    pub cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    /// Notes nobody but their writer reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What can be asked for.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Applied once with any device of the spec.
    #[serde(default)]
    pub container_edits: ContainerEdits,
    /// Fields unknown here.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A device of a spec.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Name inside the kind.
    pub name: String,
    /// What it does to a container.
    #[serde(default)]
    pub container_edits: ContainerEdits,
    /// Fields unknown here.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// Changes to a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEdits {
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes to make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// OCI hooks, and fields unknown here.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host; absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// Fields unknown here.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// On the host.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// As for mount(8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Fields unknown here.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Mount {
    /// A bind mount without set-user-id and device files; `extra` goes first (`ro`, `rw`, `noexec`).
    pub fn bind(host: impl AsRef<Path>, container: impl Into<String>, extra: &[&str]) -> Self {
        let options = extra.iter().chain(&["nosuid", "nodev", "bind"]).map(|o| (*o).to_owned()).collect();
        Self {
            host_path: host.as_ref().to_string_lossy().into_owned(),
            container_path: container.into(),
            options,
            rest: BTreeMap::new(),
        }
    }
}

/// `vgpu-dra.io/gpu=<uuid>`.
pub fn gpu_id(uuid: &str) -> String {
    format!("{}={uuid}", names::CDI_GPU_KIND)
}

/// Name of a share's device: `<claim UID>-<share ID>`.
pub fn share_device(claim_uid: &str, share_id: &str) -> String {
    format!("{claim_uid}-{share_id}")
}

/// `vgpu-dra.io/share=<claim UID>-<share ID>`.
pub fn share_id(claim_uid: &str, share_id: &str) -> String {
    format!("{}={}", names::CDI_SHARE_KIND, share_device(claim_uid, share_id))
}

/// File of the node's spec.
pub fn node_path(folder: &Path) -> PathBuf {
    folder.join(format!("{}.json", names::CDI_GPU_KIND.replace('/', "-")))
}

/// File of a claim's spec.
pub fn claim_path(folder: &Path, claim_uid: &str) -> PathBuf {
    folder.join(format!("{}-{claim_uid}.json", names::CDI_SHARE_KIND.replace('/', "-")))
}

/// Claim UID of a file name made by [`claim_path`].
pub fn claim_of(file_name: &str) -> Option<&str> {
    let prefix = names::CDI_SHARE_KIND.replace('/', "-");
    file_name
        .strip_prefix(prefix.as_str())?
        .strip_prefix('-')?
        .strip_suffix(".json")
        .filter(|u| !u.is_empty())
}

/// Writes a spec, or leaves the file alone when it already says the same. The same spec gives the same bytes.
/// Returns whether it was written.
pub fn write(host: &dyn Host, path: &Path, spec: &Spec) -> io::Result<bool> {
    let mut bytes = serde_json::to_vec_pretty(spec)?;
    bytes.push(b'\n');
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        host.make_folder(folder)?;
    }
    host.replace(path, &bytes, 0o644)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_again_from_its_file_name() {
        let path = claim_path(Path::new("/cdi"), "0b1c");
        assert_eq!(path, Path::new("/cdi/vgpu-dra.io-share-0b1c.json"));
        assert_eq!(claim_of("vgpu-dra.io-share-0b1c.json"), Some("0b1c"));
        for other in
            ["vgpu-dra.io-gpu.json", "vgpu-dra.io-share-.json", ".vgpu-dra.io-share-0b1c.json.tmp", "x.json"]
        {
            assert_eq!(claim_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_plugin_does_not_know_is_carried_over() {
        let text = r#"{"cdiVersion":"0.7.0","kind":"nvidia.com/gpu","annotations":{"a":"b"},"devices":[{"name":"0",
            "containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0","fileMode":438,"permissions":"rw"}]}}],
            "containerEdits":{"hooks":[{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook"}],
            "additionalGIDs":[44],"mounts":[{"hostPath":"/a","containerPath":"/b","type":"bind"}]}}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_spec_that_says_the_same_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/demand.json");
        let spec = Spec { cdi_version: CDI_VERSION.into(), kind: "a.io/b".into(), ..Spec::default() };
        assert!(write(&crate::host::LinuxHost, &path, &spec).unwrap());
        assert!(!write(&crate::host::LinuxHost, &path, &spec).unwrap());
    }
}
