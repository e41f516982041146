//! Names on the wire: the driver, its devices' attributes and capacities, labels, annotations, paths.
//!
//! Attribute names follow the spelling of NVIDIA's own DRA driver, so that CEL written for it works here.

/// API group of the project's own kinds.
pub const GROUP: &str = "vgpu-dra.io";
/// Version of the project's own kinds and of ShareConfig.
pub const VERSION: &str = "v1alpha1";
/// `GROUP/VERSION`, as it stands in ShareConfig's `apiVersion`.
pub const API_VERSION: &str = "vgpu-dra.io/v1alpha1";
/// DRA driver name: `spec.driver` of slices, `driver` of allocation results.
pub const DRIVER: &str = "gpu.vgpu-dra.io";
/// Suffix of the per-model DeviceClass names (`t4.gpu.vgpu-dra.io`).
pub const MODEL_CLASS_SUFFIX: &str = ".gpu.vgpu-dra.io";
/// Key of the NoSchedule device taint that keeps the stock scheduler from allocating.
pub const ALLOCATOR_TAINT_KEY: &str = "vgpu-dra.io/allocator";
/// Value of that taint.
pub const ALLOCATOR_TAINT_VALUE: &str = "controller";
/// Scheduling gate held by pods until their claims are allocated.
pub const GATE: &str = "vgpu-dra.io/allocation";
/// Annotation on pods: name of the gang, in their namespace, that gets all its claims or none.
pub const GANG: &str = "vgpu-dra.io/gang";
/// Annotation on pods: how many pods their gang takes.
pub const GANG_SIZE: &str = "vgpu-dra.io/gang-size";
/// ConfigMap per namespace that tells the admission policies which templates and claims are ours.
pub const CLAIMS_CONFIG_MAP: &str = "vgpu-dra-claims";
/// Annotation on GpuNode: the registration generation the controller published slices for.
pub const PUBLISHED_ANNOTATION: &str = "vgpu-dra.io/published";
/// Finalizer on allocated claims: Kubernetes' own, because its controller deallocates by it.
pub const CLAIM_FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// CDI kind of the one static spec per node (driver files and device nodes, no limiter); devices are NVML UUIDs.
pub const CDI_GPU_KIND: &str = "vgpu-dra.io/gpu";
/// CDI kind of the per-claim specs (limiter and share files); devices are `<claimUID>-<shareID>`.
pub const CDI_SHARE_KIND: &str = "vgpu-dra.io/share";
/// Folder in containers with one folder per GPU UUID and share: `<uuid>/<shareID>/{limits,usage}`.
pub const SHARE_ROOT: &str = "/run/vgpu-dra";

/// Capacity: bytes of GPU memory.
pub const MEMORY: &str = "memory";
/// Capacity: percent of the chosen GPU's memory, coupled to [`MEMORY`] by the allocator.
pub const MEMORY_PERCENT: &str = "memoryPercent";
/// Capacity: percent of GPU time.
pub const CORES: &str = "cores";
/// Capacity: tenants.
pub const SHARES: &str = "shares";
/// Attribute: a number that GPUs of a node share of which any two reach each other over NVLink.
pub const NVLINK_GROUP: &str = "nvlinkGroup";
/// Attribute: how much of the memory may be promised to claims that allow it, in percent; absent without overcommit.
pub const MEMORY_OVERCOMMIT: &str = "memoryOvercommitPercent";
/// Attribute: the same of the GPU's time.
pub const CORES_OVERCOMMIT: &str = "coresOvercommitPercent";
/// Attribute: PCIe root complex.
pub const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";
/// Attribute: NUMA node.
pub const NUMA_NODE: &str = "resource.kubernetes.io/numaNode";
/// Hard key of a ResourceQuota: bytes of GPU memory that a namespace's claims may hold together.
pub const QUOTA_MEMORY: &str = "requests.vgpu-dra.io/memory";
/// Hard key of a ResourceQuota: percent of GPUs that a namespace's claims may hold together.
pub const QUOTA_CORES: &str = "requests.vgpu-dra.io/cores";
/// The same of HAMi: mebibytes of GPU memory.
pub const HAMI_QUOTA_MEMORY: &str = "limits.nvidia.com/gpumem";
/// The same of HAMi: percent of a GPU.
pub const HAMI_QUOTA_CORES: &str = "limits.nvidia.com/gpucores";
/// Tenants per GPU unless a GpuPolicy says otherwise.
pub const DEFAULT_SHARES_PER_GPU: u32 = 64;

/// Pool name of a node. A name shared with another driver can corrupt the 1.36 scheduler's counters, hence `/gpu`.
pub fn pool(node: &str) -> String {
    format!("{node}/gpu")
}

/// Node of a pool name made by [`pool`]; `None` for any other.
pub fn pool_node(pool: &str) -> Option<&str> {
    pool.strip_suffix("/gpu").filter(|node| !node.is_empty())
}

/// Device name of an NVML UUID: the same in lower case (DNS label, at most 63 characters).
pub fn device(uuid: &str) -> String {
    uuid.to_ascii_lowercase()
}

/// Whether a DeviceClass name belongs to this driver by name alone, whether or not such a GPU exists.
pub fn is_our_class_name(class: &str) -> bool {
    class == DRIVER || class.strip_suffix(MODEL_CLASS_SUFFIX).is_some_and(|model| !model.is_empty())
}
