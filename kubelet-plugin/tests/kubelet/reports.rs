//! `/metrics` and `/healthz`.

use std::fs;

use anyhow::ensure;

use crate::node::{Node, samples, until};

pub(crate) async fn every_metric_is_there_at_zero(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let (_, text) = plugin.get("/metrics").await?;
    ensure!(text.ends_with("# EOF\n"), "it is cut");
    let described: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()).collect();
    let found = samples(&text);
    for name in &described {
        // What is about one share has samples when there is one.
        let per_share = name.starts_with("vgpu_share_");
        ensure!(
            per_share || found.iter().any(|(n, ..)| n.starts_with(name)),
            "{name} has no sample:\n{text}"
        );
    }
    let counters = found.iter().filter(|(n, ..)| n.ends_with("_total") || n.ends_with("_count"));
    for (name, labels, value) in counters {
        ensure!(*value == 0.0, "{name}{{{labels}}} is {value} before its first event");
    }
    let failures = found.iter().filter(|(n, ..)| n == "vgpu_kubelet_plugin_failures_total").count();
    ensure!(failures > 20, "one for each call and reason: {failures}");
    let missing =
        vgpu_kubelet_plugin::proto::dra::Claim { namespace: "ns".into(), name: "x".into(), uid: "x".into() };
    kubelet.prepare(&[missing]).await?;
    let claim = node.claim("c", 0, 3000, 30);
    kubelet.devices(&claim).await?;
    let failed: Vec<_> = plugin
        .metric("vgpu_kubelet_plugin_failures_total")
        .await?
        .into_iter()
        .filter(|(_, n)| *n > 0.0)
        .collect();
    ensure!(failed == [(r#"call="prepare",reason="Gone""#.to_owned(), 1.0)], "{failed:?}");
    ensure!(plugin.metric("vgpu_kubelet_plugin_prepare_seconds_count").await?[0].1 == 1.0);
    let limit = plugin.metric("vgpu_share_memory_limit_bytes").await?;
    ensure!(limit.len() == 1 && limit[0].1 == 3000.0 * 1_048_576.0, "{limit:?}");
    let used = plugin.metric("vgpu_share_memory_used_bytes").await?;
    ensure!(used.len() == 1 && used[0].1 == 0.0 && used[0].0.contains(r#"claim="c""#), "{used:?}");
    kubelet.done(&claim).await?;
    ensure!(
        plugin.metric("vgpu_share_memory_limit_bytes").await?.is_empty(),
        "labels of a share that is gone"
    );
    Ok(())
}

pub(crate) async fn health_fails_when_the_kubelet_cannot_reach_the_plugin(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    until("it is healthy", async || Ok((plugin.get("/healthz").await?.0 == 200).then_some(()))).await?;
    let failing = async |word: &str| -> anyhow::Result<()> {
        let (status, why) = plugin.get("/healthz").await?;
        ensure!(status == 503 && why.contains(word), "{status}: {why}");
        Ok(())
    };
    let hidden = node.at("hidden");
    for socket in [&kubelet.info.endpoint, &node.kubelet.sockets()[0].display().to_string()] {
        fs::rename(socket, &hidden)?;
        failing(socket).await?;
        fs::rename(&hidden, socket)?;
        ensure!(plugin.get("/healthz").await?.0 == 200);
    }
    fs::rename(node.at("state"), &hidden)?;
    failing("state cannot be written").await?;
    fs::rename(&hidden, node.at("state"))?;
    ensure!(plugin.get("/healthz").await?.0 == 200);
    Ok(())
}
