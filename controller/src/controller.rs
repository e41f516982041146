//! A controller from its first look at the Lease to its end.

use std::sync::Arc;

use kube::Client;

use crate::args::Args;
use crate::leader;
use crate::metrics::Metrics;
use crate::planner::Planner;

/// The Lease was lost while this controller was active: another may be active by now.
#[derive(Debug, thiserror::Error)]
#[error("the Lease was lost; another controller may be active")]
pub struct LeaseLost;

/// Waits for the Lease, decides while it is held, and gives it back when told to stop.
///
/// Writes under way end before the Lease is given back. If one of them has no known end, the Lease is left to run out, so
/// that the successor waits for it.
///
/// # Errors
/// [`LeaseLost`]; nothing was started since, and the caller had better begin anew.
pub async fn run(
    client: Client,
    args: &Args,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) -> Result<(), LeaseLost> {
    let mut stop = std::pin::pin!(stop);
    let mut lease = tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        lease = leader::acquire(&client, &args.namespace, &args.identity) => lease,
    };
    tracing::info!(identity = args.identity, "this controller is active");
    let planner = Planner::start(client, args, metrics);
    let settled = tokio::select! {
        biased;
        () = lease.lost() => return Err(LeaseLost),
        settled = planner.run(stop) => settled,
    };
    if settled {
        lease.release().await;
    }
    Ok(())
}
