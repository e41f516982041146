//! The tasks that write for the planner, and what they report.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc};

use super::version;
use crate::allocation::{self, Grant, WriteError};
use crate::claim::Claim;
use crate::events::{Events, Saying, reference};
use crate::metrics::Metrics;
use crate::pod::{self, Pod};

/// Without an answer to a write it is asked again this often what became of it.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What the tasks that write have in common.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) events: Arc<Events>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) turns: Arc<Semaphore>,
    /// For events that may wait: so few at a time that they do not hold up what is written beside them.
    pub(super) calm: Arc<Semaphore>,
    /// The controller ends: what is begun is finished, nothing is begun.
    pub(super) stopping: Arc<AtomicBool>,
    /// Some write may still take.
    pub(super) unsettled: Arc<AtomicBool>,
}

/// How a write ended.
#[derive(Default)]
pub(super) struct Report {
    pub(super) pod: String,
    /// Not all of it took.
    pub(super) failed: bool,
    /// Claims (UIDs) with the version they were stored at; none if the write failed.
    pub(super) written: Vec<(String, u64)>,
    /// Claims (UIDs) that were to be written.
    pub(super) promised: Vec<String>,
    /// Version of the pod without its gate, if that was taken.
    pub(super) ungated: Option<u64>,
}

impl Writer {
    /// Writes where a pod goes, and reports.
    pub(super) async fn place(
        &self,
        pod: &Pod,
        node: &str,
        grants: &[Grant],
        promised: Vec<String>,
        note: String,
        ungate: bool,
    ) {
        let turn = self.turns.acquire().await;
        let mut written = Vec::new();
        let done = self.write_pod(pod, node, grants, &mut written, ungate).await;
        let (failed, mut ungated) = (done.is_err(), None);
        match done {
            Ok(version) => {
                ungated = version;
                self.metrics.placed.inc();
            }
            Err(error) => {
                self.metrics.failed_writes.inc();
                tracing::info!(error = %chain(&error), "a pod is planned again");
            }
        }
        let pod_uid = pod.uid().unwrap_or_default();
        // Nobody listens any more when the controller ends.
        let _ = self.reports.send(Report { pod: pod_uid, failed, written, promised, ungated });
        drop(turn);
        if failed {
            return;
        }
        // Good news waits while there is work; when the controller ends it is not told any more.
        let _calm = self.calm.acquire().await;
        if !self.stopping.load(Ordering::Relaxed) {
            self.events.tell(reference(pod), Saying::normal("Placed", note)).await;
        }
    }

    /// Allocates a pod's claims and takes its gate, if it may have it; `written` gets every claim that took with its
    /// version. Gives the version of the pod without the gate.
    async fn write_pod(
        &self,
        pod: &Pod,
        node: &str,
        grants: &[Grant],
        written: &mut Vec<(String, u64)>,
        ungate: bool,
    ) -> Result<Option<u64>, WriteError> {
        for grant in grants {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(WriteError::Stopped { object: grant.claim.name_any() });
            }
            let stored = match allocation::allocate(&self.client, node, grant).await {
                Err(WriteError::Timeout { what, object }) => {
                    // It may have taken, or take yet: until that is known its shares are nobody else's.
                    let found = self.settle(&grant.claim).await;
                    written.extend(found.map(|c| (c.uid().unwrap_or_default(), version(&c))));
                    return Err(WriteError::Timeout { what, object });
                }
                other => other?,
            };
            written.push((stored.uid().unwrap_or_default(), version(&stored)));
        }
        let ungated = if ungate { self.ungate(pod, Some(node)).await? } else { None };
        Ok(ungated.as_ref().map(version))
    }

    /// Takes a pod's gate, after it was nominated to the node it has GPUs on.
    pub(super) async fn ungate(&self, pod: &Pod, node: Option<&str>) -> Result<Option<Pod>, WriteError> {
        // Other schedulers have uses of their own for the field.
        let told = node.filter(|_| pod::other_scheduler(pod).is_none() && pod::is_gated(pod));
        if let Some(node) = told.filter(|node| pod::nominated(pod) != Some(*node)) {
            // The scheduler only takes longer without it.
            if let Err(error) = allocation::nominate(&self.client, pod, node).await {
                tracing::info!(error = %chain(&error), "a pod goes without its node being nominated");
            }
        }
        allocation::ungate(&self.client, pod).await
    }

    /// Asks until it is known what became of an allocation; the claim, if it took.
    pub(super) async fn settle(&self, claim: &Claim) -> Option<Claim> {
        loop {
            match allocation::settle(&self.client, claim).await {
                Ok(found) => return found,
                Err(error) => tracing::info!(error = %chain(&error), "an allocation has no known end yet"),
            }
            if self.stopping.load(Ordering::Relaxed) {
                self.unsettled.store(true, Ordering::Relaxed);
                return None;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
