//! One active controller, by Lease.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::args::Args;

/// Name of the Lease.
pub const LEASE: &str = "vgpu-controller";
/// After so many seconds without renewal the Lease is free.
const DURATION: u64 = 5;
/// It is renewed so many seconds before that.
const GRACE: u64 = 3;

/// The Lease, held.
pub struct Held {
    active: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, kube_lease_manager::LeaseManagerError>>,
}

/// Waits until this controller is the active one.
///
/// A holder that vanished may have a write on its way: after it, one more Lease duration is waited. A Lease that was
/// never held or was given back needs no wait.
///
/// # Errors
/// The Lease cannot be read or created (RBAC, API server).
pub async fn acquire(client: &Client, args: &Args) -> anyhow::Result<Held> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &args.namespace);
    let before = leases.get_opt(LEASE).await.context("cannot read the Lease")?;
    let held_before = before
        .and_then(|l| l.spec)
        .and_then(|s| s.holder_identity)
        .is_some_and(|holder| !holder.is_empty() && holder != args.identity);
    let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(&args.namespace)
        .with_identity(&args.identity)
        .with_duration(DURATION)
        .with_grace(GRACE)
        .build()
        .await
        .context("cannot create the Lease")?;
    let (mut active, task) = manager.watch().await;
    let waited = tokio::time::Instant::now();
    active.wait_for(|active| *active).await.context("the Lease cannot be renewed")?;
    if held_before && waited.elapsed() > Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_secs(DURATION)).await;
    }
    Ok(Held { active, task })
}

impl Held {
    /// Returns when the Lease is lost.
    pub async fn lost(&mut self) {
        // An error means that the manager's task ended, and with it the renewals.
        let _ = self.active.wait_for(|active| !*active).await;
    }

    /// Gives the Lease back, so that a successor need not wait.
    pub async fn release(self) {
        drop(self.active);
        let _ = tokio::time::timeout(Duration::from_secs(2), self.task).await;
    }
}
