//! The demo: placement by policy, limits that hold, refusals that say why, on a real cluster.
//!
//! What it shows goes to stdout, one block per point; progress goes to stderr. Every block is also checked: the demo
//! fails if the cluster did anything else. Full GPU UUIDs stand on stdout in the rows of the scenario tables only.

mod kube;
mod limits;
mod placement;
mod refusal;

use anyhow::Context;

use crate::cluster::Cluster;

/// Runs every block on a cluster with the driver installed.
///
/// # Errors
/// The first block that showed something else than it should, with what it saw.
pub fn run(cluster: &Cluster) -> anyhow::Result<()> {
    let kube = kube::Kube::new(cluster);
    for scenario in &placement::SCENARIOS {
        scenario.show(&kube).with_context(|| format!("scenario {}", scenario.letter))?;
    }
    limits::memory(&kube).context("memory limit")?;
    limits::cores(&kube, cluster).context("compute limit")?;
    refusal::too_much_memory(&kube).context("over-request")
}
