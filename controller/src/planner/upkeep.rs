//! What becomes of allocations after they are written: the scheduler may not use them, nobody may use them, and once in
//! a while something is true that cannot be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use vgpu_api::names::DRIVER;

use super::{Planner, Report, chain};
use crate::events::{Saying, reference};
use crate::model::{self, Model};
use crate::{allocation, pod};

/// So long a pod may stay unschedulable with our allocation before it is planned anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// A binding in flight reads its claim again; until it has, nothing is written for another node.
const REST: Duration = Duration::from_secs(2);
/// First penalty of a node for a pod; it doubles up to the last.
const PENALTY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// So long an allocation may be without a pod that will use it.
const UNUSED: Duration = Duration::from_secs(5);

/// What is remembered between passes. Losing it costs time and nothing else.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Pods (UIDs) the scheduler would not take, since when.
    refused: HashMap<String, Instant>,
    /// Pods (UIDs) that are not planned before.
    resting: HashMap<String, Instant>,
    /// Pod and node: not before, and how often so far.
    penalties: HashMap<(String, String), (Instant, u32)>,
    /// Claims (UIDs) nobody will use, since when.
    unused: HashMap<String, Instant>,
    /// Pods (UIDs) told to go.
    evicted: HashSet<String>,
}

impl Upkeep {
    /// Whether a pod is not to be planned yet.
    pub(super) fn must_rest(&self, pod: &str, now: Instant) -> bool {
        self.resting.get(pod).is_some_and(|until| *until > now)
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
    }

    /// Forgets objects that are gone.
    pub(super) fn keep_only(&mut self, alive: &HashSet<String>) {
        self.refused.retain(|uid, _| alive.contains(uid));
        self.resting.retain(|uid, _| alive.contains(uid));
        self.penalties.retain(|(uid, _), _| alive.contains(uid));
        self.unused.retain(|uid, _| alive.contains(uid));
        self.evicted.retain(|uid| alive.contains(uid));
    }
}

impl Planner {
    /// A pod whose claims are all allocated: its gate goes, it gets bound, or it is planned anew.
    pub(super) fn keep_up(
        &mut self,
        pod: &Arc<Pod>,
        claims: Vec<Arc<ResourceClaim>>,
        node: &str,
        now: Instant,
    ) {
        let uid = pod.uid().unwrap_or_default();
        match pod::bound_to(pod) {
            Some(bound) if bound != node => return self.bound_elsewhere(pod, bound, node),
            Some(_) => {
                self.upkeep.refused.remove(&uid);
                return;
            }
            None => {}
        }
        if pod::gate_index(pod).is_some() && !pod::has_other_gates(pod) {
            return self.take_gate(pod);
        }
        if !pod::is_refused(pod) || pod::nominated(pod).is_some() {
            self.upkeep.refused.remove(&uid);
            return;
        }
        let since = *self.upkeep.refused.entry(uid).or_insert(now);
        if now.duration_since(since) >= PATIENCE && !claims.iter().any(|c| model::is_reserved(c)) {
            let why = scheduler_message(pod);
            self.let_go(pod, &why, now);
        }
    }

    fn take_gate(&mut self, pod: &Arc<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        self.writing.insert(uid.clone());
        let (client, reports, pod) = (self.client.clone(), self.reports.0.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = allocation::ungate(&client, &pod).await {
                tracing::info!(error = %chain(&error), "the gate is tried again");
            }
            let _ = reports.send(Report { pod: uid, written: vec![], promised: vec![] });
        });
    }

    /// Clears every allocation of a pod that nobody has reserved, and plans it anew elsewhere after a rest.
    pub(super) fn let_go(&mut self, pod: &Arc<Pod>, why: &str, now: Instant) {
        let uid = pod.uid().unwrap_or_default();
        let namespace = pod.namespace().unwrap_or_default();
        let named = pod::claims(pod).into_iter().filter_map(|c| c.claim);
        let found = named.filter_map(|c| self.stores.claims.get(&ObjectRef::new(&c).within(&namespace)));
        let claims: Vec<Arc<ResourceClaim>> =
            found.filter(|c| !model::own_results(c).is_empty() && !model::is_reserved(c)).collect();
        let Some(node) = claims.iter().find_map(|c| model::node_of(c)) else { return };
        self.upkeep.penalise(&uid, &node, now);
        self.writing.insert(uid.clone());
        self.metrics.cleared.inc();
        let note = format!("{node} cannot take the pod ({why}); it is planned again");
        self.say(reference(&**pod), Saying::warning("Replanned", note));
        let (client, reports, metrics) = (self.client.clone(), self.reports.0.clone(), self.metrics.clone());
        tokio::spawn(async move {
            for claim in &claims {
                if let Err(error) = allocation::clear(&client, claim, false).await {
                    metrics.failed_writes.inc();
                    tracing::info!(error = %chain(&error), "an allocation was not cleared");
                }
            }
            let _ = reports.send(Report { pod: uid, written: vec![], promised: vec![] });
        });
    }

    /// Its shares are on another node than it runs on: it can never start.
    fn bound_elsewhere(&mut self, pod: &Arc<Pod>, bound: &str, node: &str) {
        let note =
            format!("the pod is bound to {bound} and its claims are allocated on {node}; it is evicted");
        self.evict(pod, "BoundElsewhere", note);
    }

    fn evict(&mut self, pod: &Arc<Pod>, reason: &'static str, note: String) {
        if !self.upkeep.evicted.insert(pod.uid().unwrap_or_default()) {
            return;
        }
        self.say(reference(&**pod), Saying::warning(reason, note));
        let (client, pod) = (self.client.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = allocation::evict(&client, &pod).await {
                tracing::warn!(error = %chain(&error), "a pod was not evicted");
            }
        });
    }

    /// Allocations nobody has reserved and no pod will use.
    pub(super) fn take_back(&mut self, model: &Model, now: Instant) {
        for (uid, claim) in &model.claims {
            let key = (claim.namespace().unwrap_or_default(), claim.name_any());
            let is_ours = model::own_results(claim).iter().any(|r| r.driver == DRIVER);
            let used = model.users.get(&key).is_some_and(|pods| pods.iter().any(|p| uses(p, claim)));
            if !is_ours || model::is_reserved(claim) || used {
                self.upkeep.unused.remove(uid);
                continue;
            }
            let since = *self.upkeep.unused.entry(uid.clone()).or_insert(now);
            if now.duration_since(since) < UNUSED {
                continue;
            }
            // Tried again after another while, if it does not take.
            self.upkeep.unused.insert(uid.clone(), now);
            let (client, claim, metrics) = (self.client.clone(), claim.clone(), self.metrics.clone());
            tokio::spawn(async move {
                match take_back_one(&client, &claim).await {
                    Ok(true) => drop(metrics.taken_back.inc()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::info!(claim = claim.name_any(), %error, "an allocation was not taken back")
                    }
                }
            });
        }
    }

    /// More on a GPU than it has cannot happen; if it does, the youngest pod that has not started goes.
    pub(super) fn check_overcommitment(&mut self, model: &Model) {
        for over in model.cluster.overcommitted() {
            let claims = over.claims.iter().filter_map(|uid| model.claims.get(uid));
            let keys = claims.map(|c| (c.namespace().unwrap_or_default(), c.name_any()));
            let pods = keys.filter_map(|key| model.users.get(&key)).flatten();
            let waits = |p: &&Arc<Pod>| {
                p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending") == "Pending"
                    && !pod::is_going(p)
            };
            let youngest = pods.filter(waits).max_by_key(|p| p.creation_timestamp().map(|t| t.0)).cloned();
            let note = format!("{} on {} is promised more than it has", over.gpu, over.node);
            tracing::error!(node = over.node, gpu = over.gpu, claims = ?over.claims, "a GPU is promised more than it has");
            if let Some(pod) = youngest {
                self.evict(
                    &pod,
                    "Overcommitted",
                    format!("{note}; the youngest pod that has not started is evicted"),
                );
            }
        }
    }
}

/// Whether a pod holds on to a claim: it names it, is not done, and the claim is the one it means.
fn uses(pod: &Pod, claim: &ResourceClaim) -> bool {
    let owner = claim.owner_references().iter().find(|o| o.kind == "Pod");
    !pod::is_done(pod) && owner.is_none_or(|o| Some(&o.uid) == pod.uid().as_ref())
}

/// Looks once more at the claim and the pods as they are now, and clears it if nobody will use it.
async fn take_back_one(client: &Client, claim: &ResourceClaim) -> anyhow::Result<bool> {
    let namespace = claim.namespace().unwrap_or_default();
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), &namespace);
    let Some(fresh) = claims.get_opt(&claim.name_any()).await? else { return Ok(false) };
    if fresh.uid() != claim.uid() || model::own_results(&fresh).is_empty() || model::is_reserved(&fresh) {
        return Ok(false);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let named = |p: &Pod| pod::claims(p).iter().any(|c| c.claim.as_deref() == Some(&fresh.name_any()));
    if pods.list(&ListParams::default()).await?.items.iter().any(|p| named(p) && uses(p, &fresh)) {
        return Ok(false);
    }
    allocation::clear(client, &fresh, true).await?;
    Ok(true)
}

/// What the scheduler said last.
fn scheduler_message(pod: &Pod) -> String {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let message = conditions.iter().find(|c| c.type_ == "PodScheduled").and_then(|c| c.message.clone());
    message.unwrap_or_else(|| "the scheduler gave no reason".to_owned())
}
