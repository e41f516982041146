//! Ends and beginnings of the plugin.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::ensure;

use crate::node::{Node, WHOLE, until};

fn inode(path: &Path) -> anyhow::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

pub(crate) async fn a_killed_plugin_goes_on_where_it_was(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let claim = node.claim("c", 0, 3000, 30);
    let first = kubelet.devices(&claim).await?;
    let share = node.share(&claim, 0);
    let before = (inode(&share.limits)?, inode(&share.usage)?);
    plugin.kill()?;
    ensure!(node.kubelet.sockets().len() == 1, "a killed plugin leaves its socket");
    // Its pod is replaced, so that nobody else will ever remove that socket.
    let (_plugin, kubelet) = node.running("pod-2").await?;
    ensure!(node.kubelet.sockets().len() == 1, "{:?}", node.kubelet.sockets());
    ensure!((inode(&share.limits)?, inode(&share.usage)?) == before, "a running container lost its files");
    ensure!(kubelet.devices(&claim).await? == first);
    let over = kubelet.prepare(&[node.claim("over", 0, 13_000, 0)]).await?;
    ensure!(over.claims["uid-of-over"].error.contains("held by ns/c"), "{over:?}");
    kubelet.done(&claim).await?;
    ensure!(node.files().is_empty() && node.mounts().is_empty(), "{:?}", node.files());
    Ok(())
}

pub(crate) async fn a_plugin_told_to_stop_leaves_containers_alone(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let claim = node.claim("c", 0, 3000, 30);
    let first = kubelet.devices(&claim).await?;
    let before = (node.files(), node.mounts(), node.status());
    let status = plugin.stop().await?;
    ensure!(status.success(), "{status}");
    ensure!(node.kubelet.sockets().is_empty() && !Path::new(&kubelet.info.endpoint).exists());
    ensure!((node.files(), node.mounts(), node.status()) == before);
    let (_plugin, kubelet) = node.running("pod-1").await?;
    ensure!(kubelet.devices(&claim).await? == first);
    Ok(())
}

pub(crate) async fn a_damaged_checkpoint_is_told_and_rebuilt_from_specs_and_the_api(
    node: &Node,
) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let (part, whole) = (node.claim("part", 0, 3000, 30), node.claim("whole", 1, WHOLE, 0));
    let first = (kubelet.devices(&part).await?, kubelet.devices(&whole).await?);
    plugin.kill()?;
    fs::write(node.at("state/checkpoint"), "garbage")?;
    let (plugin, kubelet) = node.running("pod-2").await?;
    until("the event", async || Ok((node.api.notes("CheckpointDamaged").len() == 1).then_some(()))).await?;
    let note = &node.api.notes("CheckpointDamaged")[0];
    ensure!(note.contains("checkpoint is damaged") && note.contains("checkpoint.damaged"), "{note}");
    ensure!(fs::read_to_string(node.at("state/checkpoint.damaged"))? == "garbage");
    until("both claims", async || {
        Ok((plugin.metric("vgpu_kubelet_plugin_claims_prepared").await?[0].1 == 2.0).then_some(()))
    })
    .await?;
    let over = kubelet.prepare(&[node.claim("over", 1, 1000, 0)]).await?;
    ensure!(over.claims["uid-of-over"].error.contains("held by ns/whole"), "{over:?}");
    ensure!((kubelet.devices(&part).await?, kubelet.devices(&whole).await?) == first);
    ensure!(plugin.metric("vgpu_kubelet_plugin_checkpoint_rebuilds_total").await?[0].1 == 1.0);
    Ok(())
}

pub(crate) async fn leftovers_are_removed_at_the_start(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let kept = node.claim("kept", 0, 3000, 30);
    kubelet.devices(&kept).await?;
    let (files, mounts) = (node.files(), node.mounts());
    let checkpoint = fs::read(node.at("state/checkpoint"))?;
    kubelet.devices(&node.claim("gone", 1, 3000, 30)).await?;
    plugin.kill()?;
    // As if the plugin had been killed before it recorded the second claim.
    fs::write(node.at("state/checkpoint"), checkpoint)?;
    fs::write(node.at("cdi/.vgpu-dra.io-share-uid-of-gone.json.tmp"), "{")?;
    let (_plugin, _kubelet) = node.running("pod-2").await?;
    ensure!(node.files() == files && node.mounts() == mounts, "{:?} {:?}", node.files(), node.mounts());
    Ok(())
}
