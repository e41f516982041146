//! What the driver keeps for a process, measured and told.

use std::fs;

use anyhow::ensure;
use fake_gpu::{Gpus, Kind, Process};
use vgpu_core::limits;

use crate::node::{Node, until};
use crate::turns::open;

const MIB: u64 = 1 << 20;

pub(crate) async fn what_the_driver_keeps_for_a_process_is_measured_and_told(
    node: &Node,
) -> anyhow::Result<()> {
    node.gpus.lock().gpus[0].context_overhead = 300 * MIB;
    let (plugin, kubelet) = node.running("pod-1").await?;
    let claim = node.claim("a", 0, 3000, 50);
    kubelet.devices(&claim).await?;
    let told = |claim| anyhow::Ok(limits::decode(&fs::read(node.share(claim, 0).limits)?)?.overhead / MIB);
    let become_ =
        async |what: &str, mib: u64| until(what, async || Ok((told(&claim)? == mib).then_some(()))).await;
    ensure!(told(&claim)? == 0, "nothing has been seen yet");
    // This process uses the share as its container would: the books as the limiter keeps them, the GPU by the fake driver.
    let share = open(node, &claim)?;
    let driver = Process::attach(Gpus::open(node.gpus.path())?)?;
    let context = driver.create_context(0)?;
    ensure!(share.ledger.reserve(100 * MIB, 3000 * MIB));
    driver.alloc(context, 100 * MIB, Kind::Device)?;
    become_("its context is seen", 300).await?;
    // It is charged, and no longer counts as asked for.
    share.ledger.charge(300 * MIB);
    share.ledger.say_overhead(300 * MIB);
    driver.charge_overhead(0, 21 * MIB + 5)?;
    become_("its code is seen", 322).await?;
    let metric = plugin.metric("vgpu_share_overhead_bytes").await?;
    ensure!(metric.len() == 1 && metric[0].1 == (322 * MIB) as f64, "{metric:?}");
    // A plugin that takes over leaves it as it was, and a new share begins with it.
    let again = kubelet.devices(&claim).await?;
    ensure!(!again.is_empty() && told(&claim)? == 322);
    let next = node.claim("b", 0, 1000, 10);
    kubelet.devices(&next).await?;
    ensure!(told(&next)? == 322, "{} MiB", told(&next)?);
    // What it asks for is no overhead, whenever it is looked at.
    ensure!(share.ledger.reserve(500 * MIB, 3000 * MIB));
    driver.alloc(context, 500 * MIB, Kind::Device)?;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    ensure!(told(&claim)? == 322, "{} MiB", told(&claim)?);
    Ok(())
}
