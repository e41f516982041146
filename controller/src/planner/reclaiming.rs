//! What is taken back whatever becomes of its pod: allocations nobody will use, and what a GPU was promised and does not have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use super::Planner;
use super::upkeep::{EVICT_AGAIN, timeout};
use crate::claim::{self, Claim};
use crate::events::{Saying, reference};
use crate::model::Model;
use crate::pod::Pod;
use crate::{allocation, pod};

/// So long more than there is must stay promised before a pod goes for it.
const OVERCOMMITTED: Duration = Duration::from_secs(2);
/// So long an allocation may be without a pod that will use it.
const UNUSED: Duration = Duration::from_secs(5);

/// What is remembered between passes. Losing it costs time and nothing else.
#[derive(Default)]
pub(super) struct Reclaiming {
    /// Claims (UIDs) nobody will use, since when.
    unused: HashMap<String, Instant>,
    /// GPUs promised more than they have, since when.
    overcommitted: BTreeMap<(String, String), Instant>,
}

impl Planner {
    /// Allocations nobody has reserved and no pod will use.
    pub(super) fn take_back(&mut self, model: &Model, now: Instant) {
        let is_unused = |claim: &Claim| {
            !claim::is_reserved(claim)
                && !claim::own_results(claim).is_empty()
                && !model.users(claim).iter().any(|p| uses(p, claim))
        };
        let mut unused: BTreeMap<&String, &Arc<Claim>> = BTreeMap::new();
        unused.extend(model.claims.iter().filter(|(_, claim)| is_unused(claim)));
        self.reclaiming.unused.retain(|uid, _| unused.contains_key(uid));
        // In the order of their names: the map's own order is another each time.
        let mut unused: Vec<_> = unused.into_iter().collect();
        unused.sort_by_key(|(_, c)| (c.namespace(), c.name_any()));
        for (uid, claim) in unused {
            let since = *self.reclaiming.unused.entry(uid.clone()).or_insert(now);
            if now.duration_since(since) < UNUSED {
                continue;
            }
            // Tried again after another while, if it does not take.
            self.reclaiming.unused.insert(uid.clone(), now);
            let (writer, claim) = (self.writer.clone(), claim.clone());
            self.tasks.spawn(async move {
                match take_back_one(&writer.client, &claim).await {
                    Ok(true) => drop(writer.metrics.taken_back.inc()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::info!(claim = claim.name_any(), %error, "an allocation was not taken back")
                    }
                }
            });
        }
    }

    /// More on a GPU than it has cannot happen; if it does and stays, the youngest pod that has not started goes.
    pub(super) fn check_overcommitment(&mut self, model: &Model, now: Instant) {
        let found = model.cluster.overcommitted();
        self.writer.metrics.overcommitted.set(found.len() as i64);
        let is_over = |(node, gpu): &(String, String)| found.iter().any(|o| o.node == *node && o.gpu == *gpu);
        self.reclaiming.overcommitted.retain(|key, _| is_over(key));
        for over in &found {
            let key = (over.node.clone(), over.gpu.clone());
            let since = *self.reclaiming.overcommitted.entry(key.clone()).or_insert(now);
            if now.saturating_duration_since(since) < OVERCOMMITTED {
                continue;
            }
            // The next one goes only if what this one held did not help.
            self.reclaiming.overcommitted.insert(key, now + EVICT_AGAIN);
            let claims = over.claims.iter().filter_map(|uid| model.claims.get(uid));
            let pods = claims.flat_map(|claim| model.users(claim));
            let waits = |p: &&Arc<Pod>| {
                p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending") == "Pending"
                    && !pod::is_going(p)
            };
            let age = |p: &&Arc<Pod>| (p.creation_timestamp().map(|t| t.0), p.namespace(), p.name_any());
            let youngest = pods.filter(waits).max_by_key(age).cloned();
            let note = format!("{} on {} is promised more than it has", over.gpu, over.node);
            tracing::error!(node = over.node, gpu = over.gpu, claims = ?over.claims, "a GPU is promised more than it has");
            if let Some(gpu_node) = self.stores.gpu_nodes.get(&over.node) {
                self.say(reference(&*gpu_node), Saying::warning("Overcommitted", note.clone()));
            }
            let Some(pod) = youngest.filter(|p| self.may_evict(p, now)) else { continue };
            let note = format!("{note}; the youngest pod that has not started is evicted");
            let writer = self.writer.clone();
            self.tasks.spawn(async move {
                writer.evict(&pod, Saying::warning("Overcommitted", note)).await;
            });
        }
    }
}

/// Whether a pod holds on to a claim: it names it, is not done, and the claim is the one it means.
fn uses(pod: &Pod, claim: &Claim) -> bool {
    let owner = claim.owner_references().iter().find(|o| o.kind == "Pod");
    !pod::is_done(pod) && owner.is_none_or(|o| Some(&o.uid) == pod.uid().as_ref())
}

/// Looks once more at the claim and the pods as they are now, and clears it if nobody will use it.
async fn take_back_one(client: &Client, claim: &Claim) -> anyhow::Result<bool> {
    let namespace = claim.namespace().unwrap_or_default();
    let claims: Api<Claim> = Api::namespaced(client.clone(), &namespace);
    let Some(fresh) = timeout(claims.get_opt(&claim.name_any())).await? else { return Ok(false) };
    if fresh.uid() != claim.uid() || claim::own_results(&fresh).is_empty() || claim::is_reserved(&fresh) {
        return Ok(false);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let named = |p: &Pod| pod::claims(p).iter().any(|c| c.claim.as_deref() == Some(&fresh.name_any()));
    if timeout(pods.list(&ListParams::default())).await?.items.iter().any(|p| named(p) && uses(p, &fresh)) {
        return Ok(false);
    }
    allocation::clear(client, &fresh, true).await?;
    Ok(true)
}
