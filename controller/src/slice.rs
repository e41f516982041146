//! Pure: a GpuNode and its policy as ResourceSlices, and slices as the engine's GPUs.

mod object;

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::DeviceTaint;
use serde_json::{Value, json};
use vgpu_allocator::{Gpu as EngineGpu, GpuState, Overcommit, Site};
use vgpu_api::names::{
    self, CORES, CORES_OVERCOMMIT, MEMORY, MEMORY_OVERCOMMIT, MEMORY_PERCENT, NUMA_NODE, NVLINK_GROUP,
    PCIE_ROOT, SHARES,
};
use vgpu_api::{Gpu, GpuNode, GpuPolicySpec, Health, Quantity};

use crate::args::Allocator;
use crate::attribute;

pub use object::{Attribute, Device, Slice, SliceSpec};

/// Devices of a slice: the API takes no more where any has a taint.
const DEVICES: usize = 64;
/// Key of the taint on a GPU the driver lost.
pub const UNHEALTHY: &str = "vgpu-dra.io/unhealthy";

/// Name of a node's slice.
pub fn name(node: &str, index: usize) -> String {
    format!("{node}-{}-{index}", names::DRIVER)
}

/// Slices of a node, to be applied as they are. `full` false gives one without devices: the driver is there, but must not
/// be used.
pub fn slices(gpu_node: &GpuNode, policy: &GpuPolicySpec, allocator: Allocator, full: bool) -> Vec<Value> {
    let node = gpu_node.metadata.name.clone().unwrap_or_default();
    let status = gpu_node.status.clone().unwrap_or_default();
    let published = |gpu: &&Gpu| {
        gpu.unpublished.is_empty() && !policy.excluded_gpus.iter().any(|x| x.eq_ignore_ascii_case(&gpu.uuid))
    };
    let gpus: Vec<&Gpu> =
        status.gpus.iter().filter(published).filter(|_| full && status.limiter.ready).collect();
    let driver = (status.driver_version.as_str(), status.cuda_driver_version.as_str());
    let links = nvlink_groups(&status.gpus);
    let devices: Vec<Value> = gpus
        .iter()
        .map(|gpu| device(gpu, links.get(gpu.uuid.as_str()).copied(), driver, policy, allocator))
        .collect();
    let chunks: Vec<&[Value]> =
        if devices.is_empty() { vec![&[]] } else { devices.chunks(DEVICES).collect() };
    let owner = gpu_node.metadata.owner_references.clone().unwrap_or_default();
    let slice = |(index, devices): (usize, &&[Value])| {
        json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": name(&node, index), "ownerReferences": owner},
            "spec": {
                "driver": names::DRIVER,
                "nodeName": node,
                "pool": {"name": names::pool(&node), "generation": 1, "resourceSliceCount": chunks.len()},
                "devices": devices,
            },
        })
    };
    chunks.iter().enumerate().map(slice).collect()
}

/// A number for each GPU that reaches others over NVLink, by UUID. Links need not reach from all to all, so those of one
/// number are such of which any two reach each other; it is the minor number of the first.
fn nvlink_groups(gpus: &[Gpu]) -> BTreeMap<&str, i64> {
    let reach = |a: &Gpu, b: &Gpu| a.nvlink_peers.contains(&b.uuid) && b.nvlink_peers.contains(&a.uuid);
    let mut groups: Vec<Vec<&Gpu>> = Vec::new();
    for gpu in gpus {
        match groups.iter_mut().find(|group| group.iter().all(|other| reach(gpu, other))) {
            Some(group) => group.push(gpu),
            None => groups.push(vec![gpu]),
        }
    }
    let several = groups.iter().filter(|group| group.len() > 1);
    several.flat_map(|group| group.iter().map(|gpu| (gpu.uuid.as_str(), group[0].minor))).collect()
}

/// `12.4` and `550.163.01` as the strict versions the API wants; `None` if they are none.
fn version(text: &str) -> Option<String> {
    let mut parts = text.split('.').map(|p| p.parse::<u64>().ok());
    let (major, minor) = (parts.next()??, parts.next().unwrap_or(Some(0))?);
    Some(format!("{major}.{minor}.{}", parts.next().unwrap_or(Some(0))?))
}

fn device(
    gpu: &Gpu,
    nvlink: Option<i64>,
    (driver, cuda): (&str, &str),
    policy: &GpuPolicySpec,
    allocator: Allocator,
) -> Value {
    let shares = policy.shares_per_gpu.unwrap_or(names::DEFAULT_SHARES_PER_GPU);
    let mut attributes = serde_json::Map::new();
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            attributes.insert(name.to_owned(), json!({"string": value}));
        }
    };
    text("vendor", "nvidia");
    text("type", "gpu");
    text("uuid", &gpu.uuid);
    text("productName", &gpu.product_name);
    text("brand", &gpu.brand);
    text("architecture", &gpu.architecture);
    text("resource.kubernetes.io/pciBusID", &gpu.pci_bus_id);
    text(PCIE_ROOT, &gpu.pcie_root);
    let versions = [
        ("cudaComputeCapability", gpu.cuda_compute_capability.as_str()),
        ("driverVersion", driver),
        ("cudaDriverVersion", cuda),
    ];
    for (name, value) in versions {
        if let Some(value) = version(value) {
            attributes.insert(name.to_owned(), json!({"version": value}));
        }
    }
    // kube-scheduler would not know what to do with it.
    let overcommit = |percent: Option<u32>| {
        percent.filter(|p| *p > 100 && allocator == Allocator::Controller).map(i64::from)
    };
    let numbers = [
        ("minor", Some(gpu.minor)),
        ("multiprocessors", Some(gpu.multiprocessors).filter(|n| *n > 0)),
        (NUMA_NODE, gpu.numa_node),
        (NVLINK_GROUP, nvlink),
        (MEMORY_OVERCOMMIT, overcommit(policy.memory_overcommit_percent)),
        (CORES_OVERCOMMIT, overcommit(policy.cores_overcommit_percent)),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), json!({"int": value}));
        }
    }
    let memory = Quantity::bytes(u64::try_from(gpu.memory_mib).unwrap_or(0) * vgpu_api::MIB).to_string();
    let percent = json!({"value": "100", "requestPolicy": {
        "default": "0", "validRange": {"min": "0", "max": "100", "step": "1"}}});
    let mut capacity = json!({
        MEMORY: {"value": memory, "requestPolicy": {
            "default": memory, "validRange": {"min": "1Mi", "max": memory, "step": "1Mi"}}},
        CORES: percent,
        SHARES: {"value": shares.to_string(), "requestPolicy": {"default": "1", "validValues": ["1"]}},
    });
    let mut taints = Vec::new();
    if allocator == Allocator::Controller {
        // To kube-scheduler it would be an amount beside the memory, not one of it.
        capacity[MEMORY_PERCENT] = percent;
        taints.push(json!({
            "key": names::ALLOCATOR_TAINT_KEY, "value": names::ALLOCATOR_TAINT_VALUE, "effect": "NoSchedule",
        }));
    }
    if gpu.health == Health::Unhealthy {
        taints.push(json!({"key": UNHEALTHY, "effect": "NoSchedule"}));
    }
    let mut device = json!({
        "name": names::device(&gpu.uuid),
        "attributes": attributes,
        "allowMultipleAllocations": true,
        "capacity": capacity,
    });
    if !taints.is_empty() {
        device["taints"] = taints.into();
    }
    device
}

/// Whether kube-scheduler may hand out a device of it.
pub fn is_open(slice: &Slice) -> bool {
    let closes = |t: &DeviceTaint| t.key == names::ALLOCATOR_TAINT_KEY;
    slice.spec.devices.iter().flatten().any(|d| !d.taints.iter().flatten().any(closes))
}

/// What a server without the feature left out of a stored slice: the gates to enable.
pub fn dropped(sent: &Value, stored: &Slice) -> Vec<&'static str> {
    let stored = stored.spec.devices.as_deref().unwrap_or_default();
    let sent = sent["spec"]["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    if stored.len() != sent.len() || sent.is_empty() {
        return Vec::new();
    }
    let mut gates = Vec::new();
    let lost = |(sent, stored): (&Value, &Device)| sent["taints"].is_array() && stored.taints.is_none();
    if sent.iter().zip(stored).any(lost) {
        gates.push("DRADeviceTaints");
    }
    let shared = |d: &Device| {
        d.allow_multiple_allocations == Some(true)
            && d.capacity.as_ref().is_some_and(|c| c.values().all(|c| c.request_policy.is_some()))
    };
    if !stored.iter().all(shared) {
        gates.push("DRAConsumableCapacity");
    }
    gates
}

/// Whether what is stored is what would be sent, but for what the server adds.
pub fn is_current(sent: &Value, stored: &Slice) -> bool {
    let mut stored = serde_json::to_value(&stored.spec).unwrap_or_default();
    for device in stored["devices"].as_array_mut().into_iter().flatten() {
        for taint in device.get_mut("taints").and_then(Value::as_array_mut).into_iter().flatten() {
            taint.as_object_mut().map(|t| t.remove("timeAdded"));
        }
    }
    let typed = serde_json::from_value::<Slice>(sent.clone()).ok();
    let sent = typed.and_then(|s| serde_json::to_value(&s.spec).ok()).unwrap_or_default();
    let bare = |v: Value| {
        if v["devices"].as_array().is_some_and(Vec::is_empty) { json!({"no": "devices"}) } else { v }
    };
    bare(stored) == bare(sent)
}

/// `pci0000:3a` as a number, no two roots of a machine the same.
fn pcie_number(root: &str) -> Option<u32> {
    let (domain, bus) = root.strip_prefix("pci")?.split_once(':')?;
    let (domain, bus) = (u32::from_str_radix(domain, 16).ok()?, u32::from_str_radix(bus, 16).ok()?);
    domain.checked_mul(256)?.checked_add(bus)
}

/// A stored device as the engine's GPU; `None` if it is not one this driver publishes.
pub fn engine_gpu(device: &Device, shape: u32) -> Option<EngineGpu> {
    let capacity = device.capacity.as_ref()?;
    let value = |name: &str| -> Option<u64> {
        let quantity: Quantity = capacity.get(name)?.value.0.parse().ok()?;
        u64::try_from(quantity.value()).ok()
    };
    let number = |name: &str| match attribute::of(device, name)? {
        Attribute::Int(number) => Some(*number),
        _ => None,
    };
    let full = |name: &str| format!("{}/{name}", names::DRIVER);
    let percent = |name: &str| {
        number(&full(name)).and_then(|p| u16::try_from(p).ok()).filter(|p| *p >= 100).unwrap_or(100)
    };
    let small = |number: Option<i64>| number.and_then(|n| u16::try_from(n).ok());
    let pcie = match attribute::of(device, PCIE_ROOT) {
        Some(Attribute::String(root)) => pcie_number(root),
        _ => None,
    };
    let unhealthy = device.taints.iter().flatten().any(|t| t.key == UNHEALTHY);
    Some(EngineGpu {
        name: device.name.clone(),
        shape,
        memory: value(MEMORY)?,
        cores: u32::try_from(value(CORES)?).ok()?,
        overcommit: Overcommit { memory: percent(MEMORY_OVERCOMMIT), cores: percent(CORES_OVERCOMMIT) },
        shares: u32::try_from(value(SHARES)?).ok()?,
        site: Site { nvlink: small(number(&full(NVLINK_GROUP))), pcie, numa: small(number(NUMA_NODE)) },
        state: if unhealthy { GpuState::Unhealthy } else { GpuState::Healthy },
    })
}

#[cfg(test)]
mod tests {
    use vgpu_api::{GpuNodeStatus, Limiter};

    use super::*;

    fn gpu_node() -> GpuNode {
        let gpu = Gpu {
            uuid: "GPU-AB".into(),
            product_name: "Tesla T4".into(),
            memory_mib: 15_104,
            cuda_compute_capability: "7.5".into(),
            ..Gpu::default()
        };
        let mut node = GpuNode::new("node-a", vgpu_api::GpuNodeSpec {});
        node.status = Some(GpuNodeStatus {
            limiter: Limiter { ready: true, ..Limiter::default() },
            driver_version: "550.163.01".into(),
            gpus: vec![gpu],
            ..GpuNodeStatus::default()
        });
        node
    }

    fn stored(sent: &Value) -> Slice {
        serde_json::from_value(sent.clone()).unwrap()
    }

    #[test]
    fn a_gpu_is_published_with_its_capacities_and_the_taint() {
        let sent = &slices(&gpu_node(), &GpuPolicySpec::default(), Allocator::Controller, true)[0];
        let device = &sent["spec"]["devices"][0];
        assert_eq!(device["name"], "gpu-ab");
        assert_eq!(device["capacity"]["memory"]["value"], "15104Mi");
        assert_eq!(device["attributes"]["driverVersion"]["version"], "550.163.1");
        assert_eq!(device["taints"][0]["key"], "vgpu-dra.io/allocator");
        let gpu = engine_gpu(&stored(sent).spec.devices.unwrap()[0], 7).unwrap();
        assert_eq!((gpu.memory, gpu.cores, gpu.shares), (15_104 << 20, 100, 64));
    }

    #[test]
    fn what_may_be_promised_and_where_a_gpu_is_come_back_from_the_slice() {
        let mut node = gpu_node();
        let status = node.status.as_mut().unwrap();
        let (a, b) = ("GPU-AB".to_owned(), "GPU-CD".to_owned());
        let place = |gpu: &Gpu| Gpu { pcie_root: "pci0001:3a".into(), numa_node: Some(1), ..gpu.clone() };
        let first = Gpu { nvlink_peers: vec![b.clone()], minor: 4, ..place(&status.gpus[0]) };
        let second = Gpu { uuid: b, nvlink_peers: vec![a], minor: 5, ..first.clone() };
        status.gpus = vec![first, second];
        let policy = GpuPolicySpec {
            memory_overcommit_percent: Some(150),
            cores_overcommit_percent: Some(100),
            ..GpuPolicySpec::default()
        };
        let sent = &slices(&node, &policy, Allocator::Controller, true)[0];
        let devices = stored(sent).spec.devices.unwrap();
        let gpu = engine_gpu(&devices[1], 7).unwrap();
        assert_eq!(gpu.overcommit, Overcommit { memory: 150, cores: 100 });
        assert_eq!(gpu.site, Site { nvlink: Some(4), pcie: Some(256 + 0x3a), numa: Some(1) });
        assert_eq!(sent["spec"]["devices"][0]["capacity"]["memory"]["value"], "15104Mi");
        let open = &slices(&node, &policy, Allocator::Scheduler, true)[0];
        assert_eq!(
            engine_gpu(&stored(open).spec.devices.unwrap()[0], 7).unwrap().overcommit,
            Overcommit::default()
        );
    }

    #[test]
    fn gpus_of_an_nvlink_group_all_reach_each_other() {
        // Two fours of which each reaches its own and one of the other, as on machines with a cube of links.
        let uuid = |n: i64| format!("GPU-{n}");
        let gpu = |n: i64| {
            let own = (0..8).filter(|m| *m != n && m / 4 == n / 4);
            Gpu {
                uuid: uuid(n),
                minor: n,
                nvlink_peers: own.chain([(n + 4) % 8]).map(uuid).collect(),
                ..Gpu::default()
            }
        };
        let mut gpus: Vec<Gpu> = (0..8).map(gpu).collect();
        gpus.push(Gpu { uuid: "GPU-alone".into(), minor: 8, ..Gpu::default() });
        let groups = nvlink_groups(&gpus);
        assert_eq!((0..8).map(|n| groups[uuid(n).as_str()]).collect::<Vec<_>>(), [0, 0, 0, 0, 4, 4, 4, 4]);
        assert!(!groups.contains_key("GPU-alone"));
    }

    #[test]
    fn where_the_scheduler_allocates_devices_are_open_and_know_no_percentages() {
        let sent = &slices(&gpu_node(), &GpuPolicySpec::default(), Allocator::Scheduler, true)[0];
        let device = &sent["spec"]["devices"][0];
        assert!(device.get("taints").is_none() && device["capacity"].get(MEMORY_PERCENT).is_none());
        assert!(is_open(&stored(sent)) && dropped(sent, &stored(sent)).is_empty());
        assert!(is_current(sent, &stored(sent)));
        let closed = &slices(&gpu_node(), &GpuPolicySpec::default(), Allocator::Controller, true)[0];
        assert!(!is_open(&stored(closed)) && !is_current(closed, &stored(sent)));
    }

    #[test]
    fn excluded_and_unpublished_gpus_are_left_out() {
        let policy = GpuPolicySpec { excluded_gpus: vec!["gpu-ab".into()], ..GpuPolicySpec::default() };
        assert_eq!(
            slices(&gpu_node(), &policy, Allocator::Controller, true)[0]["spec"]["devices"],
            json!([])
        );
        let mut mig = gpu_node();
        mig.status.as_mut().unwrap().gpus[0].unpublished = "MIG mode is on".into();
        assert_eq!(
            slices(&mig, &GpuPolicySpec::default(), Allocator::Controller, true)[0]["spec"]["devices"],
            json!([])
        );
    }

    #[test]
    fn nothing_is_published_while_limits_cannot_be_enforced() {
        let mut node = gpu_node();
        node.status.as_mut().unwrap().limiter.ready = false;
        assert_eq!(
            slices(&node, &GpuPolicySpec::default(), Allocator::Controller, true)[0]["spec"]["devices"],
            json!([])
        );
    }

    #[test]
    fn what_a_server_dropped_names_the_gate() {
        let sent = &slices(&gpu_node(), &GpuPolicySpec::default(), Allocator::Controller, true)[0];
        assert!(dropped(sent, &stored(sent)).is_empty());
        let mut less = stored(sent);
        less.spec.devices.as_mut().unwrap()[0].taints = None;
        less.spec.devices.as_mut().unwrap()[0].allow_multiple_allocations = None;
        assert_eq!(dropped(sent, &less), ["DRADeviceTaints", "DRAConsumableCapacity"]);
    }

    #[test]
    fn a_stored_slice_is_current_whatever_time_its_taints_have() {
        let sent = &slices(&gpu_node(), &GpuPolicySpec::default(), Allocator::Controller, true)[0];
        let mut with_time = sent.clone();
        with_time["spec"]["devices"][0]["taints"][0]["timeAdded"] = "2026-01-01T00:00:00Z".into();
        assert!(is_current(sent, &stored(&with_time)));
        with_time["spec"]["devices"][0]["capacity"]["shares"]["value"] = "2".into();
        assert!(!is_current(sent, &stored(&with_time)));
    }
}
