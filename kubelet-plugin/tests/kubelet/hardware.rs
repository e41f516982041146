//! GPUs that break, and GPUs that others hand out.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vgpu_api::{GpuNode, GpuNodeSpec, GpuPolicySpec, names};
use vgpu_controller::args::Allocator;
use vgpu_controller::slice;

use crate::api::{NODES, SLICES};
use crate::node::{NAME, Node, until};

fn health(status: &Value, gpu: usize) -> &str {
    status["gpus"][gpu]["health"].as_str().unwrap_or_default()
}

pub(crate) async fn a_lost_gpu_is_unhealthy_until_it_answers_again(node: &Node) -> anyhow::Result<()> {
    let (_plugin, kubelet) = node.running("pod-1").await?;
    let well = node.reported("two healthy GPUs", |s| s["gpuCount"] == 2 && health(s, 0) == "Healthy").await?;
    ensure!(well["gpus"][1]["memoryMib"] == 15_104 && well["gpus"][1]["productName"] == "Tesla T4", "{well}");
    ensure!(well["limiter"]["ready"] == true, "{well}");
    let claim = node.claim("c", 1, 1000, 0);
    let first = kubelet.devices(&claim).await?;
    node.gpus.set_xid(&node.uuid(1), 79)?;
    let broken = node.reported("a lost GPU", |s| health(s, 1) == "Unhealthy").await?;
    ensure!(broken["gpuCount"] == 2 && health(&broken, 0) == "Healthy", "{broken}");
    ensure!(broken["gpus"][1]["healthMessage"] == "the driver no longer answers for it", "{broken}");
    ensure!(kubelet.devices(&claim).await? == first, "what is prepared is answered for");
    let new = kubelet.prepare(&[node.claim("new", 1, 1000, 0)]).await?;
    ensure!(new.claims["uid-of-new"].error.contains("no longer answers"), "{new:?}");
    node.gpus.set_xid(&node.uuid(1), 0)?;
    let mut again = node.reported("both healthy", |s| health(s, 1) == "Healthy").await?;
    again["registration"] = well["registration"].clone();
    ensure!(again == well, "it is not what it was: {again}");
    Ok(())
}

pub(crate) async fn only_critical_events_make_a_gpu_unhealthy_and_nothing_else_is_written(
    node: &Node,
) -> anyhow::Result<()> {
    // With its slice there, nothing but the GPUs can give cause to write.
    node.slice("gpu.vgpu-dra.io", "node-a/gpu", &node.uuid(0));
    let (plugin, _kubelet) = node.running("pod-1").await?;
    node.reported("two GPUs", |s| s["gpuCount"] == 2).await?;
    ensure!(node.api.status_writes() == 1, "{} writes to begin with", node.api.status_writes());
    let writes = node.api.status_writes();
    let seen = async |severity: &str| -> anyhow::Result<()> {
        until(severity, async || {
            let events = plugin.metric("vgpu_kubelet_plugin_xid_events_total").await?;
            Ok(events.iter().any(|(labels, n)| labels.contains(severity) && *n == 1.0).then_some(()))
        })
        .await
    };
    // A program's own fault, then one the driver contained: both are counted, and both make the plugin look again.
    node.gpus.set_xid(&node.uuid(0), 31)?;
    seen("program").await?;
    node.gpus.set_xid(&node.uuid(0), 94)?;
    seen("contained").await?;
    node.gpus.set_xid(&node.uuid(0), 48)?;
    seen("critical").await?;
    let broken = node.reported("an unhealthy GPU", |s| health(s, 0) == "Unhealthy").await?;
    ensure!(broken["gpus"][0]["healthMessage"] == "the driver reported the critical Xid 48", "{broken}");
    ensure!(
        node.api.status_writes() == writes + 1,
        "{} writes for one change",
        node.api.status_writes() - writes
    );
    // It is reset, for which it goes away and comes back.
    node.gpus.set_xid(&node.uuid(0), 79)?;
    node.reported("a lost GPU", |s| {
        s["gpus"][0]["healthMessage"].as_str().is_some_and(|m| m.contains("answers"))
    })
    .await?;
    node.gpus.set_xid(&node.uuid(0), 0)?;
    node.reported("a healthy GPU", |s| health(s, 0) == "Healthy").await?;
    Ok(())
}

/// From NVML over the plugin's report to the device the controller publishes.
pub(crate) async fn links_that_nvml_tells_are_reported_and_published(_: &Node) -> anyhow::Result<()> {
    let description = tempfile::NamedTempFile::new()?;
    // Two pairs and one by itself, none of them in order.
    let text = "gpus: [{model: T4, nvlink: 2}, {model: T4, nvlink: 1}, {model: T4}, {model: T4, nvlink: 1}, {model: T4, nvlink: 2}]";
    std::fs::write(description.path(), text)?;
    let node = Node::of(description.path().to_str().context("a path in UTF-8")?).await?;
    let (_plugin, _kubelet) = node.running("pod-1").await?;
    let status = node.reported("five GPUs", |s| s["gpuCount"] == 5 && s["limiter"]["ready"] == true).await?;
    let peers: Vec<Value> = (0..5).map(|gpu| status["gpus"][gpu]["nvlinkPeers"].clone()).collect();
    let of = |gpu: usize| json!([node.uuid(gpu)]);
    ensure!(peers == [of(4), of(3), Value::Null, of(1), of(0)], "{peers:?}");

    let mut reported = GpuNode::new(NAME, GpuNodeSpec::default());
    reported.status = Some(serde_json::from_value(status)?);
    let sent = slice::slices(&reported, &GpuPolicySpec::default(), Allocator::Controller, true);
    let devices = sent[0]["spec"]["devices"].as_array().context("devices")?;
    let group = |device: &Value| device["attributes"][names::NVLINK_GROUP]["int"].as_i64();
    let groups: Vec<Option<i64>> = devices.iter().map(group).collect();
    ensure!(groups == [Some(0), Some(1), None, Some(1), Some(0)], "{groups:?}");
    Ok(())
}

pub(crate) async fn gpus_others_offer_are_not_published(node: &Node) -> anyhow::Result<()> {
    let (_plugin, _kubelet) = node.running("pod-1").await?;
    let why = |status: &Value, gpu: usize| {
        status["gpus"][gpu]["unpublished"].as_str().unwrap_or_default().to_owned()
    };
    node.reported("two free GPUs", |s| s["gpuCount"] == 2 && why(s, 1).is_empty()).await?;
    node.slice("gpu.nvidia.com", NAME, &node.uuid(1));
    let status = node.reported("a GPU of another driver", |s| !why(s, 1).is_empty()).await?;
    ensure!(why(&status, 1).contains("gpu.nvidia.com") && why(&status, 0).is_empty(), "{status}");
    node.api.delete(SLICES, "slice-of-gpu.nvidia.com");
    node.reported("two free GPUs again", |s| why(s, 1).is_empty()).await?;
    Ok(())
}

pub(crate) async fn a_device_plugin_on_the_node_keeps_every_gpu_back(node: &Node) -> anyhow::Result<()> {
    let object = json!({"metadata": {"name": NAME, "uid": "uid-of-node-a"}, "status": {"allocatable": {"nvidia.com/gpu": "2"}}});
    node.api.put(NODES, object);
    let (_plugin, _kubelet) = node.running("pod-1").await?;
    let status = node.reported("two GPUs", |s| s["gpuCount"] == 2).await?;
    for gpu in 0..2 {
        let why = status["gpus"][gpu]["unpublished"].as_str().unwrap_or_default();
        ensure!(why.contains("nvidia.com/gpu: 2") && why.contains("remove the device plugin"), "{status}");
    }
    Ok(())
}
