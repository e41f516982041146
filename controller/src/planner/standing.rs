//! How a pod stands with its claims, before anything is decided.

use std::collections::HashSet;
use std::sync::Arc;

use kube::ResourceExt;
use tokio::time::Instant;

use super::Planner;
use crate::claim::{self, Claim};
use crate::gate;
use crate::pod::{self, Pod};
use crate::request::Invalid;

/// A claim with its name in the pod.
pub(super) type Named = (String, Arc<Claim>);

/// A pod that waits, and what it waits for.
pub(super) struct Waiting {
    pub(super) pod: Arc<Pod>,
    /// All of its claims that are ours, with their names in the pod.
    pub(super) claims: Vec<Named>,
    /// Those that are not allocated yet.
    pub(super) open: Vec<Named>,
    /// Node of the claims that are allocated already.
    pub(super) node: Option<String>,
}

/// What a pod's claims are like.
pub(super) enum Standing {
    /// Nothing to do with us, or not complete yet.
    Aside,
    /// Something is to be allocated.
    Waiting(Waiting),
    /// All is allocated, on this node.
    Allocated { claims: Vec<Arc<Claim>>, node: String },
    /// It cannot be understood.
    Invalid(Arc<Claim>, Invalid),
}

impl Planner {
    /// What it is now, by what the watches have shown and what was promised since.
    pub(super) fn standing(&self, pod: &Arc<Pod>, ours: &HashSet<String>) -> Standing {
        let namespace = pod.namespace().unwrap_or_default();
        let (mut claims, mut complete): (Vec<Named>, bool) = (Vec::new(), true);
        for named in pod::claims(pod) {
            let found = named.claim.and_then(|c| self.stores.claims.get_in(&namespace, &c));
            let Some(claim) = found.filter(|c| c.metadata.deletion_timestamp.is_none()) else {
                complete = false;
                continue;
            };
            let classes = gate::classes(claim.spec.devices.as_ref());
            if !classes.iter().any(|c| ours.contains(*c)) {
                continue;
            }
            if let Some(other) = classes.iter().find(|c| !ours.contains(**c)) {
                let note = format!(
                    "spec.devices.requests: {other:?} is another driver's class; a claim cannot mix drivers, put it into \
                     a claim of its own"
                );
                return Standing::Invalid(claim, Invalid { reason: "MixedDrivers", note });
            }
            if self.promised.contains_key(&claim.uid().unwrap_or_default()) && !claim::is_allocated(&claim) {
                // Written, and not shown yet.
                return Standing::Aside;
            }
            claims.push((named.name, claim));
        }
        if claims.is_empty() || !complete {
            return Standing::Aside;
        }
        let node = claims.iter().find_map(|(_, c)| claim::node_of(c));
        let open: Vec<Named> = claims.iter().filter(|(_, c)| !claim::is_allocated(c)).cloned().collect();
        match (open.is_empty(), node) {
            (true, Some(node)) => {
                Standing::Allocated { claims: claims.into_iter().map(|(_, claim)| claim).collect(), node }
            }
            (true, None) => Standing::Aside,
            (false, node) => Standing::Waiting(Waiting { pod: pod.clone(), claims, open, node }),
        }
    }

    /// Node of a waiting pod one of whose claims was allocated before and is not any more, by whomever.
    pub(super) fn lost_node(&self, waiting: &Waiting, now: Instant) -> Option<String> {
        if pod::bound_to(&waiting.pod).is_some() || self.nominations.awaited(&waiting.pod, now).is_some() {
            return None;
        }
        let open = waiting.open.iter().filter_map(|(_, claim)| claim.uid());
        self.upkeep.lost(&waiting.pod.uid().unwrap_or_default(), open)
    }
}
