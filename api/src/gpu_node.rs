//! GpuNode: what one node's plugin found, and nothing that changes by the second.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Spec of a GpuNode. It is empty so far: what a node offers is its plugin's to say, in `status`.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "vgpu-dra.io",
    version = "v1alpha1",
    kind = "GpuNode",
    plural = "gpunodes",
    status = "GpuNodeStatus",
    doc = "The GPUs of one node as its plugin reports them. Named as the node and owned by it.",
    printcolumn = r#"{"name":"GPUs","type":"integer","jsonPath":".status.gpuCount"}"#,
    printcolumn = r#"{"name":"Driver","type":"string","jsonPath":".status.driverVersion"}"#,
    printcolumn = r#"{"name":"Limiter","type":"string","jsonPath":".status.limiter.version"}"#,
    printcolumn = r#"{"name":"Registration","type":"integer","jsonPath":".status.registration.generation"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeSpec {}

/// Written only by that node's plugin, with server-side apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeStatus {
    /// Registration with the kubelet.
    #[serde(default)]
    pub registration: Registration,
    /// Number of GPUs found, published or not.
    #[serde(default)]
    pub gpu_count: i64,
    /// NVIDIA driver version as NVML prints it, for example `550.163.01`; empty when no driver is loaded.
    #[serde(default)]
    pub driver_version: String,
    /// Highest CUDA version of the driver, for example `12.4`.
    #[serde(default)]
    pub cuda_driver_version: String,
    /// Whether shares can be enforced on this node.
    #[serde(default)]
    pub limiter: Limiter,
    /// The GPUs, by minor number.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// What is wrong with the node as a whole (no driver, no NVML); empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Registration of the plugin with its kubelet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Raised by the plugin when it is registered and its node's slices are missing; the controller publishes a
    /// missing slice once per generation. 0: never registered.
    #[serde(default)]
    pub generation: i64,
}

/// The limiter on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limiter {
    /// Installed on the host and usable. Nothing is published while this is false.
    #[serde(default)]
    pub ready: bool,
    /// Version of the installed limiter.
    #[serde(default)]
    pub version: String,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Health of a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// Usable.
    #[default]
    Healthy,
    /// The driver lost it or reports it broken; no new share goes there.
    Unhealthy,
}

/// One GPU of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// NVML UUID, `GPU-` and 36 characters.
    pub uuid: String,
    /// Minor number of `/dev/nvidia<minor>`.
    pub minor: i64,
    /// Product name as nvidia-smi prints it, for example `Tesla T4`.
    pub product_name: String,
    /// Brand as NVIDIA's DRA driver spells it, for example `Tesla`.
    #[serde(default)]
    pub brand: String,
    /// Architecture, for example `Turing`.
    #[serde(default)]
    pub architecture: String,
    /// CUDA compute capability, for example `7.5`.
    #[serde(default)]
    pub cuda_compute_capability: String,
    /// Memory that can be shared out, in MiB: NVML's total less its reserved part, rounded down.
    pub memory_mib: i64,
    /// Streaming multiprocessors; 0 when the driver does not say.
    #[serde(default)]
    pub multiprocessors: i64,
    /// PCI bus id, for example `0000:3b:00.0`.
    #[serde(default)]
    pub pci_bus_id: String,
    /// PCIe root complex, for example `pci0000:3a`; empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pcie_root: String,
    /// NUMA node; absent when the machine has none or does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<i64>,
    /// UUIDs of the GPUs of the node that it reaches over NVLink, directly or through switches; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nvlink_peers: Vec<String>,
    /// Whether the driver can use it.
    #[serde(default)]
    pub health: Health,
    /// Why it is unhealthy (an Xid, a reset the driver asks for, lost); empty when it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub health_message: String,
    /// Why the GPU is not published (MIG mode, exclusive compute mode, no memory of its own, another driver's);
    /// empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unpublished: String,
}
