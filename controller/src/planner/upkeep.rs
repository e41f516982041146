//! What becomes of allocations after they are written: the gate goes, the pod is bound, or the scheduler does not use them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use super::writer::{Report, Writer, chain};
use super::{Planner, version};
use crate::claim::{self, Claim};
use crate::events::{Saying, reference};
use crate::pod::Pod;
use crate::{WRITE_DEADLINE, allocation, pod};

/// So long a pod may stay unschedulable with our allocation before it is planned anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// So long a pod of a scheduler of another name may be neither bound nor refused before its GPUs are given back, and so long it
/// then waits; that doubles up to the last. kube-scheduler is waited for: while it is not there nobody else is bound either.
const UNHEARD: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
/// A binding in flight reads its claim again; until it has, nothing is written for another node.
pub(super) const REST: Duration = Duration::from_secs(2);
/// First penalty of a node for a pod; it doubles up to the last.
const PENALTY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// First pause of a pod after a write that failed; it doubles up to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// An eviction is tried again after this, while it is still due.
pub(super) const EVICT_AGAIN: Duration = Duration::from_secs(10);

/// What is remembered between passes. Losing it costs time and nothing else.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Pods (UIDs) the scheduler would not take, since when.
    refused: HashMap<String, Instant>,
    /// Pods (UIDs) of which another scheduler says nothing, since when, and how often their GPUs were given back for it.
    unheard: HashMap<String, (Instant, u32)>,
    /// Pods (UIDs) that are not planned before.
    resting: HashMap<String, Instant>,
    /// Pod and node: not before, and how often so far.
    penalties: HashMap<(String, String), (Instant, u32)>,
    /// Pods (UIDs) told to go, and when that is tried again.
    evicted: HashMap<String, Instant>,
    /// Node and claims (UIDs) of pods that were seen allocated and are not bound.
    held: HashMap<String, (String, BTreeSet<String>)>,
    /// Pods (UIDs) whose gate was taken, and the version of the pod that shows it.
    ungated: HashMap<String, u64>,
    /// Failed writes of a pod in a row.
    failures: HashMap<String, u32>,
}

impl Upkeep {
    /// Whether a pod is not to be planned yet.
    pub(super) fn must_rest(&self, pod: &str, now: Instant) -> bool {
        self.resting.get(pod).is_some_and(|until| *until > now)
    }

    /// A pod's claim is allocated on a node.
    pub(super) fn allocated(&mut self, pod: &str, node: &str, claim: &str) {
        let held = self.held.entry(pod.to_owned()).or_default();
        if held.0 != node {
            *held = (node.to_owned(), BTreeSet::new());
        }
        held.1.insert(claim.to_owned());
    }

    /// A pod has lost its gate with this version.
    pub(super) fn took_gate(&mut self, pod: &str, version: u64) {
        self.ungated.insert(pod.to_owned(), version);
    }

    /// Node a pod's claims are allocated on.
    pub(super) fn held_on(&self, pod: &str) -> Option<&str> {
        self.held.get(pod).map(|(node, _)| node.as_str())
    }

    /// Node on which one of these claims of a pod was allocated.
    pub(super) fn lost(&self, pod: &str, mut open: impl Iterator<Item = String>) -> Option<String> {
        let (node, claims) = self.held.get(pod)?;
        open.any(|claim| claims.contains(&claim)).then(|| node.clone())
    }

    /// A write for a pod ended.
    pub(super) fn wrote(&mut self, pod: &str, took: bool, now: Instant) {
        if took {
            self.failures.remove(pod);
            return;
        }
        let failures = self.failures.entry(pod.to_owned()).or_default();
        let pause = RETRY.0.saturating_mul(1 << (*failures).min(10)).min(RETRY.1);
        *failures += 1;
        let until = self.resting.entry(pod.to_owned()).or_insert(now);
        *until = (*until).max(now + pause);
    }

    /// Nodes a pod was rejected on a short while ago.
    pub(super) fn avoided(&self, pod: &str, now: Instant) -> Vec<String> {
        let now_avoided =
            |((p, _), (until, _)): &(&(String, String), &(Instant, u32))| p == pod && *until > now;
        self.penalties.iter().filter(now_avoided).map(|((_, node), _)| node.clone()).collect()
    }

    fn penalise(&mut self, pod: &str, node: &str, now: Instant) {
        let entry = self.penalties.entry((pod.to_owned(), node.to_owned())).or_insert((now, 0));
        let length = PENALTY.0.saturating_mul(1 << entry.1.min(10)).min(PENALTY.1);
        *entry = (now + length, entry.1 + 1);
        self.resting.insert(pod.to_owned(), now + REST);
        self.refused.remove(pod);
        self.held.remove(pod);
    }

    /// Forgets objects that are gone.
    pub(super) fn keep_only(&mut self, alive: &HashSet<&str>) {
        self.refused.retain(|uid, _| alive.contains(uid.as_str()));
        self.unheard.retain(|uid, _| alive.contains(uid.as_str()));
        self.resting.retain(|uid, _| alive.contains(uid.as_str()));
        self.penalties.retain(|(uid, _), _| alive.contains(uid.as_str()));
        self.evicted.retain(|uid, _| alive.contains(uid.as_str()));
        self.held.retain(|uid, _| alive.contains(uid.as_str()));
        self.failures.retain(|uid, _| alive.contains(uid.as_str()));
        self.ungated.retain(|uid, _| alive.contains(uid.as_str()));
    }
}

impl Planner {
    /// A pod whose claims are all allocated: its gate goes, it gets bound, or it is planned anew.
    pub(super) fn keep_up(&mut self, pod: &Arc<Pod>, claims: Vec<Arc<Claim>>, node: &str, now: Instant) {
        let uid = pod.uid().unwrap_or_default();
        match pod::bound_to(pod) {
            Some(bound) if bound != node => return self.bound_elsewhere(pod, bound, now),
            Some(_) => {
                self.upkeep.refused.remove(&uid);
                self.upkeep.held.remove(&uid);
                return;
            }
            None => {}
        }
        if pod::is_gated(pod) && !pod::has_other_gates(pod) {
            return self.take_gate(pod, Some(node), now);
        }
        if self.nominations.awaited(pod, now).is_some() {
            self.upkeep.refused.remove(&uid);
            self.upkeep.unheard.remove(&uid);
            return;
        }
        if !pod::is_refused(pod) {
            self.upkeep.refused.remove(&uid);
            return self.listen(pod, &claims, now);
        }
        self.upkeep.unheard.remove(&uid);
        let since = *self.upkeep.refused.entry(uid).or_insert(now);
        if now.duration_since(since) >= PATIENCE && !claims.iter().any(|c| claim::is_reserved(c)) {
            let why = scheduler_message(pod);
            self.let_go(pod, node, &why, now);
        }
    }

    /// Gives back what a pod holds whose scheduler seems not to be there: nobody ever says that it cannot run.
    fn listen(&mut self, pod: &Arc<Pod>, claims: &[Arc<Claim>], now: Instant) {
        // One that nominates a node has been heard of: it is never done for it.
        let Some(scheduler) = pod::other_scheduler(pod).filter(|_| pod::nominated(pod).is_none()) else {
            return;
        };
        let uid = pod.uid().unwrap_or_default();
        let (since, times) = self.upkeep.unheard.entry(uid.clone()).or_insert((now, 0));
        if now.saturating_duration_since(*since) < UNHEARD.0 || claims.iter().any(|c| claim::is_reserved(c)) {
            return;
        }
        let pause = UNHEARD.0.saturating_mul(1 << (*times).min(10)).min(UNHEARD.1);
        (*since, *times) = (now + pause, *times + 1);
        let note = format!(
            "spec.schedulerName: {scheduler:?} has neither bound the pod nor refused it in {} s, so that its GPUs are given \
             back; it is planned again in {} s. Is that scheduler running, and does it know resource claims?",
            UNHEARD.0.as_secs(),
            pause.as_secs()
        );
        self.say(reference(&**pod), Saying::warning("NoScheduler", note));
        self.release(pod, now);
        self.upkeep.resting.insert(uid, now + pause);
    }

    /// Tells the scheduler of the node the pod has GPUs on, if there is one, and lets it try.
    pub(super) fn take_gate(&mut self, pod: &Arc<Pod>, node: Option<&str>, now: Instant) {
        let uid = pod.uid().unwrap_or_default();
        // Until the watch shows that it is gone it is not taken again.
        let is_taken = self.upkeep.ungated.get(&uid).is_some_and(|gone| version(&**pod) < *gone);
        if is_taken || self.upkeep.must_rest(&uid, now) {
            return;
        }
        self.writing.insert(uid.clone());
        let (writer, pod, node) = (self.writer.clone(), pod.clone(), node.map(str::to_owned));
        self.tasks.spawn(async move {
            let done = writer.ungate(&pod, node.as_deref()).await;
            if let Err(error) = &done {
                tracing::info!(error = %chain(error), "the gate is tried again");
            }
            let (failed, ungated) = (done.is_err(), done.ok().flatten().as_ref().map(version));
            let _ = writer.reports.send(Report { pod: uid, failed, ungated, ..Report::default() });
        });
    }

    /// Clears every allocation of a pod that nobody has reserved, and plans it anew elsewhere after a rest.
    pub(super) fn let_go(&mut self, pod: &Arc<Pod>, node: &str, why: &str, now: Instant) {
        self.upkeep.penalise(&pod.uid().unwrap_or_default(), node, now);
        let note = format!("{node} cannot take the pod ({why}); it is planned again");
        self.say(reference(&**pod), Saying::warning("Replanned", note));
        self.clear(pod);
    }

    /// The same for a pod that may well come back to that node.
    pub(super) fn release(&mut self, pod: &Arc<Pod>, now: Instant) {
        let uid = pod.uid().unwrap_or_default();
        self.upkeep.resting.insert(uid.clone(), now + REST);
        self.upkeep.held.remove(&uid);
        self.clear(pod);
    }

    fn clear(&mut self, pod: &Arc<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        let namespace = pod.namespace().unwrap_or_default();
        let named = pod::claims(pod).into_iter().filter_map(|c| c.claim);
        let found = named.filter_map(|c| self.stores.claims.get_in(&namespace, &c));
        let claims: Vec<Arc<Claim>> =
            found.filter(|c| !claim::own_results(c).is_empty() && !claim::is_reserved(c)).collect();
        self.writing.insert(uid.clone());
        self.writer.metrics.cleared.inc();
        let (writer, pod) = (self.writer.clone(), pod.clone());
        self.tasks.spawn(async move {
            let mut failed = false;
            for claim in &claims {
                if let Err(error) = allocation::clear(&writer.client, claim, false).await {
                    failed = true;
                    writer.metrics.failed_writes.inc();
                    tracing::info!(error = %chain(&error), "an allocation was not cleared");
                }
            }
            // The scheduler keeps the pod's room on a node it is nominated to. It takes the name away itself where it looked for
            // others to preempt; before it has refused the pod it may be about to, and the name is left to it.
            if pod::is_refused(&pod) && pod::nominated(&pod).is_some() && pod::other_scheduler(&pod).is_none()
            {
                let done = allocation::forget_nomination(&writer.client, &pod).await;
                let _ = done.inspect_err(|e| tracing::info!(error = %chain(e), "a pod stays nominated"));
            }
            let _ = writer.reports.send(Report { pod: uid, failed, ..Report::default() });
        });
    }

    /// Its shares are on another node than it runs on: it can never start. The two watches may only be out of step, so
    /// pod and claims are read again before it is evicted.
    fn bound_elsewhere(&mut self, pod: &Arc<Pod>, bound: &str, now: Instant) {
        if !self.may_evict(pod, now) {
            return;
        }
        let (writer, pod, bound) = (self.writer.clone(), pod.clone(), bound.to_owned());
        self.tasks.spawn(async move {
            match node_elsewhere(&writer.client, &pod).await {
                Ok(None) => {}
                Ok(Some(node)) => {
                    let note = format!(
                        "the pod is bound to {bound} and its claims are allocated on {node}; it is evicted"
                    );
                    writer.evict(&pod, Saying::warning("BoundElsewhere", note)).await;
                }
                Err(error) => tracing::info!(%error, "a pod bound elsewhere is looked at again"),
            }
        });
    }

    pub(super) fn may_evict(&mut self, pod: &Pod, now: Instant) -> bool {
        let again = self.upkeep.evicted.entry(pod.uid().unwrap_or_default()).or_insert(now);
        let due = *again <= now;
        if due {
            *again = now + EVICT_AGAIN;
        }
        due
    }
}

impl Writer {
    /// Says why and evicts. A pod that a budget protects is tried again as long as it is due.
    pub(super) async fn evict(&self, pod: &Pod, why: Saying) {
        self.events.say(reference(pod), why).await;
        if let Err(error) = allocation::evict(&self.client, pod).await {
            self.metrics.failed_writes.inc();
            tracing::warn!(error = %chain(&error), "a pod was not evicted");
        }
    }
}

/// Reads a bound pod and its claims; the other node its claims are allocated on, if it is still so.
async fn node_elsewhere(client: &Client, pod: &Pod) -> anyhow::Result<Option<String>> {
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let fresh = timeout(pods.get_opt(&pod.name_any())).await?;
    let Some(fresh) = fresh.filter(|f| f.uid() == pod.uid() && !pod::is_done(f) && !pod::is_going(f)) else {
        return Ok(None);
    };
    let claims: Api<Claim> = Api::namespaced(client.clone(), &namespace);
    for name in pod::claims(&fresh).into_iter().filter_map(|c| c.claim) {
        let claim = timeout(claims.get_opt(&name)).await?;
        let node = claim.as_ref().and_then(claim::node_of);
        if let Some(node) = node.filter(|n| pod::bound_to(&fresh) != Some(n.as_str())) {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

pub(super) async fn timeout<T>(call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(WRITE_DEADLINE, call).await??)
}

/// What the scheduler said last.
fn scheduler_message(pod: &Pod) -> String {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let message = conditions.iter().find(|c| c.type_ == "PodScheduled").and_then(|c| c.message.clone());
    message.unwrap_or_else(|| "the scheduler gave no reason".to_owned())
}
