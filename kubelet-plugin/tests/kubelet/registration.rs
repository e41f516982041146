//! Registration, and the slices that depend on it.

use anyhow::ensure;
use serde_json::Value;

use crate::api::{GPU_NODES, SLICES};
use crate::node::{NAME, Node, until};

pub(crate) async fn the_kubelet_is_told_who_is_there(node: &Node) -> anyhow::Result<()> {
    // Its authority is the escaped path with an `@`, as the kubelet's own client sends it.
    let (_plugin, registered) = node.running("pod-1").await?;
    let info = &registered.info;
    ensure!((info.r#type.as_str(), info.name.as_str()) == ("DRAPlugin", "gpu.vgpu-dra.io"), "{info:?}");
    ensure!(info.supported_versions == ["v1.DRAPlugin"], "{info:?}");
    ensure!(info.endpoint == node.at("plugins/gpu.vgpu-dra.io/dra-pod-1.sock").display().to_string());
    Ok(())
}

fn generation(status: &Value) -> i64 {
    status["registration"]["generation"].as_i64().unwrap_or(0)
}

/// What the controller does when it has published slices.
fn publish(node: &Node) {
    let mut object = node.api.get(GPU_NODES, NAME);
    let published = generation(&object["status"]).to_string();
    object["metadata"]["annotations"]["vgpu-dra.io/published"] = published.into();
    node.api.put(GPU_NODES, object);
    node.slice("gpu.vgpu-dra.io", "node-a/gpu", &node.uuid(0));
}

pub(crate) async fn slices_are_asked_for_when_they_are_missing_and_not_before(
    node: &Node,
) -> anyhow::Result<()> {
    let plugin = node.start("pod-1")?;
    let first = node.reported("both GPUs", |s| s["gpuCount"] == 2).await?;
    ensure!(generation(&first) == 0, "asked before the kubelet had registered it: {first}");
    let registered = node.kubelet.register("pod-1").await?;
    node.reported("generation 1", |s| generation(s) == 1).await?;
    publish(node);
    // Wiped by the kubelet, which also asks the plugin anew.
    node.api.delete(SLICES, "slice-of-gpu.vgpu-dra.io");
    registered.notify(true, "").await?;
    node.reported("generation 2", |s| generation(s) == 2).await?;
    publish(node);
    // Not registered any more: missing slices are as they should be.
    registered.notify(false, "the endpoint is gone").await?;
    until("it sees that", async || {
        Ok(plugin
            .metric("vgpu_kubelet_plugin_registered")
            .await?
            .iter()
            .any(|(_, v)| *v == 0.0)
            .then_some(()))
    })
    .await?;
    let writes = node.api.status_writes();
    node.api.delete(SLICES, "slice-of-gpu.vgpu-dra.io");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    ensure!(generation(&node.status()) == 2 && node.api.status_writes() == writes, "{}", node.status());
    let owner = &node.api.get(GPU_NODES, NAME)["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "Node" && owner["uid"] == "uid-of-node-a", "{owner}");
    Ok(())
}

pub(crate) async fn two_instances_stand_side_by_side(node: &Node) -> anyhow::Result<()> {
    let (old_plugin, old) = node.running("pod-old").await?;
    let claim = node.claim("c", 0, 10_000, 30);
    let first = old.devices(&claim).await?;
    let (_new_plugin, new) = node.running("pod-new").await?;
    ensure!(new.info.endpoint != old.info.endpoint && node.kubelet.sockets().len() == 2);
    ensure!(new.devices(&claim).await? == first, "the new instance answers otherwise");
    // Both at once, over the same files.
    let claims: Vec<_> = (0..20).map(|n| node.claim(&format!("c{n}"), 1, 100, 0)).collect();
    let (a, b) = tokio::join!(old.prepare(&claims[..10]), new.prepare(&claims[10..]));
    for (uid, answer) in a?.claims.into_iter().chain(b?.claims) {
        ensure!(answer.error.is_empty(), "{uid}: {}", answer.error);
    }
    ensure!(old_plugin.stop().await?.success());
    ensure!(node.kubelet.sockets().len() == 1, "{:?}", node.kubelet.sockets());
    for claim in claims.iter().chain([&claim]) {
        new.done(claim).await?;
    }
    ensure!(node.files().is_empty() && node.mounts().is_empty(), "{:?}", node.files());
    Ok(())
}
