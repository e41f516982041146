//! The node's spec: every GPU as the driver presents it, without a limiter.

use std::collections::BTreeMap;

use vgpu_api::{Gpu, names};

use super::{CDI_VERSION, Device, Spec, driver};

/// Tells NVIDIA's runtime hook, where it is installed, to keep out: the devices come from this spec.
const VOID: &str = "NVIDIA_VISIBLE_DEVICES=void";

/// The node's spec made from the driver's, one device per GPU the driver's spec has a device node for. Edits all GPUs share
/// stay common, so that a second GPU of a container does not mount the driver's libraries over the first one's limiter.
pub fn spec(driver_spec: &Spec, gpus: &[Gpu]) -> Spec {
    let devices = gpus.iter().filter_map(|gpu| {
        let edits = driver::device_edits(driver_spec, gpu.minor)?;
        Some(Device { name: gpu.uuid.clone(), container_edits: edits.clone(), rest: BTreeMap::new() })
    });
    let mut common = driver_spec.container_edits.clone();
    if !common.env.iter().any(|e| e == VOID) {
        common.env.retain(|e| !e.starts_with("NVIDIA_VISIBLE_DEVICES="));
        common.env.push(VOID.to_owned());
    }
    Spec {
        cdi_version: later(&driver_spec.cdi_version, CDI_VERSION),
        kind: names::CDI_GPU_KIND.into(),
        devices: devices.collect(),
        container_edits: common,
        ..Spec::default()
    }
}

/// The later of two versions of the format.
fn later(a: &str, b: &str) -> String {
    let key = |v: &str| v.split('.').map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    if key(a) > key(b) { a.to_owned() } else { b.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = r#"{"cdiVersion":"0.7.0","kind":"nvidia.com/gpu","devices":[
        {"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0","hostPath":"/x/nvidia0"}]}},
        {"name":"all","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"},{"path":"/dev/nvidia1"}]}}],
        "containerEdits":{"env":["NVIDIA_VISIBLE_DEVICES=all","NVIDIA_DRIVER_CAPABILITIES=compute"],
        "hooks":[{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook","args":["nvidia-cdi-hook","update-ldcache"]}],
        "mounts":[{"hostPath":"/a/libcuda.so.1","containerPath":"/usr/lib64/libcuda.so.1"}]}}"#;

    #[test]
    fn gpus_are_named_by_uuid_and_keep_the_drivers_edits() {
        let driver_spec: Spec = serde_json::from_str(DRIVER).unwrap();
        let gpu = |uuid: &str, minor| Gpu { uuid: uuid.into(), minor, ..Gpu::default() };
        let spec = spec(&driver_spec, &[gpu("GPU-a", 0), gpu("GPU-b", 1)]);
        assert_eq!((spec.cdi_version.as_str(), spec.kind.as_str()), ("0.7.0", "vgpu-dra.io/gpu"));
        // The second GPU has no device of its own in the driver's spec.
        assert_eq!(spec.devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["GPU-a"]);
        assert_eq!(spec.devices[0].container_edits.device_nodes[0].host_path.as_deref(), Some("/x/nvidia0"));
        assert_eq!(spec.container_edits.env, ["NVIDIA_DRIVER_CAPABILITIES=compute", VOID]);
        assert_eq!(spec.container_edits.rest, driver_spec.container_edits.rest);
        assert!(spec.container_edits.rest.contains_key("hooks"));
    }
}
