//! GpuPolicy: the admin's word on the GPUs of some nodes. It outlives nodes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of the policies whose selector matches a node the one with the highest `priority` holds, whole; ties go to the
/// first name. Changes act on new placements, never on running shares.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "vgpu-dra.io",
    version = "v1alpha1",
    kind = "GpuPolicy",
    plural = "gpupolicies",
    doc = "What an admin allows on the GPUs of the nodes it selects.",
    printcolumn = r#"{"name":"Priority","type":"integer","jsonPath":".spec.priority"}"#,
    printcolumn = r#"{"name":"Shares per GPU","type":"integer","jsonPath":".spec.sharesPerGpu"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GpuPolicySpec {
    /// Nodes it holds for; absent or empty selects every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Higher wins. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// Most tenants on one GPU, 1 to 1024. Default 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The API server knows int32, not schemars' uint32.
    #[schemars(with = "Option<i32>", range(min = 1, max = 1024))]
    pub shares_per_gpu: Option<u32>,
    /// How much of a GPU's memory may be promised to claims with `memory.oversubscription: Allowed`, in percent of what firm
    /// shares leave, 100 to 1000. Default 100: no more than there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 100, max = 1000))]
    pub memory_overcommit_percent: Option<u32>,
    /// The same of a GPU's time, for claims with `cores.oversubscription: Allowed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 100, max = 1000))]
    pub cores_overcommit_percent: Option<u32>,
    /// NVML UUIDs of GPUs that are not published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_gpus: Vec<String>,
}
