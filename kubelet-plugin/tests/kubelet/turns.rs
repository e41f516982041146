//! Turns on a shared GPU, and what the plugin tells shares of them.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::ensure;
use serde_json::json;
use vgpu_arbiter::{Clock, Monotonic};
use vgpu_core::compute::words::Turn;
use vgpu_core::compute::{Enforcement, Priority};
use vgpu_core::limits;
use vgpu_kubelet_plugin::proto::dra;
use vgpu_share::Share;

use crate::api::CLAIMS;
use crate::node::{NAME, Node, until};

/// A claim's share as its container sees it, used by this process.
pub(crate) fn open(node: &Node, claim: &dra::Claim) -> anyhow::Result<Share> {
    let (paths, inside) = (node.share(claim, 0), node.at(&format!("inside-{}", claim.name)));
    fs::create_dir(&inside)?;
    for (file, name) in [(paths.limits, "limits"), (paths.usage, "usage"), (paths.bell, "bell")] {
        symlink(file, inside.join(name))?;
    }
    Ok(Share::open(&inside)?)
}

pub(crate) async fn shares_of_a_gpu_take_turns_as_long_as_a_plugin_lives(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let claims = ["a", "b"].map(|name| node.claim(name, 0, 3000, 50));
    let mut shares = Vec::new();
    for claim in &claims {
        kubelet.devices(claim).await?;
        shares.push(open(node, claim)?);
    }
    let clock = Monotonic::of_this_thread();
    let turns = || {
        let mut turns: Vec<Turn> = shares.iter().map(|share| share.limits.lease.turn(clock.now())).collect();
        turns.sort_by_key(|turn| *turn as u8);
        turns
    };
    let become_ = async |what: &str, wanted: [Turn; 2]| {
        until(what, async || Ok((turns() == wanted).then_some(()))).await
    };
    until("the arbiter sees both", async || {
        Ok(shares.iter().all(|share| share.limits.lease.is_served()).then_some(()))
    })
    .await?;
    ensure!(turns() == [Turn::Open, Turn::Open]);
    for share in &shares {
        share.usage.compute.waiting.set(share.ledger.slot(), true);
        share.ring();
    }
    let one = [Turn::Held, Turn::Denied];
    become_("one of them holds the turn", one).await?;
    let counted = async || anyhow::Ok(plugin.metric("vgpu_kubelet_plugin_turns_total").await?[0].1);
    until("turns are counted", async || Ok((counted().await? >= 2.0).then_some(()))).await?;
    plugin.kill()?;
    become_("nobody waits for a killed plugin", [Turn::Open, Turn::Open]).await?;
    let (second, _kubelet) = node.running("pod-2").await?;
    become_("the next plugin arbitrates", one).await?;
    // Two stand side by side, as during an upgrade.
    let (third, kubelet) = node.running("pod-3").await?;
    ensure!(second.stop().await?.success());
    become_("the one that is left arbitrates", one).await?;
    kubelet.done(&claims[0]).await?;
    become_("a share alone needs no turn", [Turn::Open, Turn::Open]).await?;
    ensure!(third.stop().await?.success());
    Ok(())
}

pub(crate) async fn what_a_claim_says_of_its_cores_is_in_its_limits(node: &Node) -> anyhow::Result<()> {
    let (_plugin, kubelet) = node.running("pod-1").await?;
    let configured = |name: &str, fields: serde_json::Value| {
        let claim = node.allocated(name, &[node.result(NAME, 0, 1000, 30)]);
        let mut object = node.api.get(CLAIMS, &format!("ns/{name}"));
        let mut parameters = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig"});
        for (key, value) in fields.as_object().into_iter().flatten() {
            parameters[key] = value.clone();
        }
        object["status"]["allocation"]["devices"]["config"] = json!([{"source": "FromClaim",
            "requests": [], "opaque": {"driver": "gpu.vgpu-dra.io", "parameters": parameters}}]);
        node.api.put(CLAIMS, object);
        claim
    };
    let claim = configured("elastic", json!({"cores": {"enforcement": "Elastic"}, "priority": "High"}));
    kubelet.devices(&claim).await?;
    let read = limits::decode(&fs::read(node.share(&claim, 0).limits)?)?;
    ensure!(
        (read.cores, read.enforcement, read.priority) == (30, Enforcement::Elastic, Priority::High),
        "{read:?}"
    );
    let wrong = configured("wrong", json!({"cores": {"enforcement": "Soft"}}));
    let answer = kubelet.prepare(std::slice::from_ref(&wrong)).await?;
    let error = &answer.claims[&wrong.uid].error;
    ensure!(
        error
            .contains("cores.enforcement: unknown variant `Soft`, expected one of `Hard`, `Elastic`, `None`"),
        "{error}"
    );
    Ok(())
}
