//! Bare nodes and the GPUs their plugins would report.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use vgpu_api::{Gpu, GpuNode, GpuNodeSpec, GpuNodeStatus, Limiter, Registration};

pub(crate) const NODES: usize = 500;
pub(crate) const GPUS: usize = 10;
/// Calls under way at the same time.
pub(crate) const CALLS: usize = 32;

pub(crate) fn node_name(index: usize) -> String {
    format!("node-{index:03}")
}

fn gpus(node: usize) -> Vec<Gpu> {
    let gpu = |minor: usize| Gpu {
        uuid: format!("GPU-{node:08x}-0000-4000-8000-{minor:012x}"),
        minor: minor as i64,
        product_name: "NVIDIA A100-SXM4-80GB".into(),
        brand: "Nvidia".into(),
        architecture: "Ampere".into(),
        cuda_compute_capability: "8.0".into(),
        memory_mib: 81_920,
        multiprocessors: 108,
        pci_bus_id: format!("0000:{:02x}:00.0", minor + 1),
        ..Gpu::default()
    };
    (0..GPUS).map(gpu).collect()
}

/// Makes all of them.
pub(crate) async fn create(client: &Client) -> anyhow::Result<()> {
    let (nodes, gpu_nodes): (Api<Node>, Api<GpuNode>) = (Api::all(client.clone()), Api::all(client.clone()));
    let create = |index: usize| {
        let (nodes, gpu_nodes) = (nodes.clone(), gpu_nodes.clone());
        async move {
            let name = node_name(index);
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}});
            nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
            let room = json!({"cpu": "128", "memory": "1Ti", "pods": "250"});
            let now = k8s_openapi::jiff::Timestamp::now().to_string();
            let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "bare",
                "lastHeartbeatTime": now, "lastTransitionTime": now}]);
            let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
            nodes.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await?;
            let mut gpu_node = GpuNode::new(&name, GpuNodeSpec {});
            gpu_nodes.create(&PostParams::default(), &gpu_node).await?;
            gpu_node.status = Some(GpuNodeStatus {
                registration: Registration { generation: 1 },
                gpu_count: GPUS as i64,
                driver_version: "550.163.01".into(),
                cuda_driver_version: "12.4".into(),
                limiter: Limiter { ready: true, version: "bench".into(), message: String::new() },
                gpus: gpus(index),
                message: String::new(),
            });
            let status = json!({"status": gpu_node.status});
            gpu_nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            anyhow::Ok(())
        }
    };
    stream::iter((0..NODES).map(create)).buffer_unordered(CALLS).try_collect::<Vec<()>>().await.map(drop)
}

/// Waits until every node may be used and every slice is there with its devices.
pub(crate) async fn ready(client: &Client) -> anyhow::Result<()> {
    let (nodes, slices): (Api<Node>, Api<ResourceSlice>) =
        (Api::all(client.clone()), Api::all(client.clone()));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(180);
    loop {
        let found = nodes.list(&Default::default()).await?;
        let usable = found.iter().filter(|n| n.spec.as_ref().is_none_or(|s| s.taints.is_none())).count();
        let found = slices.list(&Default::default()).await?;
        let devices: usize = found.iter().map(|s| s.spec.devices.as_ref().map_or(0, Vec::len)).sum();
        if usable == NODES && devices == NODES * GPUS {
            return Ok(());
        }
        anyhow::ensure!(
            std::time::Instant::now() < end,
            "after 180 s {usable} of {NODES} nodes are usable, and {devices} devices published"
        );
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
