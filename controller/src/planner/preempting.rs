//! A pod of higher priority that fits nowhere has others evicted, and its place is kept until they are gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;
use vgpu_allocator::{Demand, Share};

use super::standing::Waiting;
use super::{Planner, given};
use crate::events::{Saying, reference};
use crate::model::Model;
use crate::pod::{self, Pod};
use crate::preemption::{self, Budget, Found};

/// So long a pod stays with the node it was given, from the last time somebody was on the way out of it.
const STAY: Duration = Duration::from_secs(30);
/// First pause of a pod for which nobody can go; it doubles up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is remembered between passes. Losing it costs an eviction too many at worst.
#[derive(Default)]
pub(super) struct Preempting {
    /// Pods (UIDs), the node that is cleared for each, and until when it stays with that node.
    nodes: HashMap<String, (String, Instant)>,
    /// Pods (UIDs) for which nobody could go: not before, and how often so far.
    pauses: HashMap<String, (Instant, u32)>,
}

impl Preempting {
    /// Forgets pods that are gone.
    pub(super) fn keep_only(&mut self, alive: &HashSet<&str>) {
        self.nodes.retain(|uid, _| alive.contains(uid.as_str()));
        self.pauses.retain(|uid, _| alive.contains(uid.as_str()));
    }

    fn pause(&mut self, pod: &str, now: Instant) {
        self.nodes.remove(pod);
        let (until, times) = self.pauses.entry(pod.to_owned()).or_insert((now, 0));
        *until = now + PAUSE.0.saturating_mul(1 << (*times).min(10)).min(PAUSE.1);
        *times += 1;
    }
}

impl Planner {
    /// Sees to it that a refused pod gets a place in the first of its ways for which there are pods to go. True if a place is
    /// kept for it.
    pub(super) fn preempt(
        &mut self,
        model: &mut Model,
        waiting: &Waiting,
        demands: &[Demand],
        now: Instant,
    ) -> bool {
        let pod = &waiting.pod;
        let uid = pod.uid().unwrap_or_default();
        let pauses = self.preempting.pauses.get(&uid).is_some_and(|(until, _)| *until > now);
        if !self.preemption || preemption::never(pod) || pod::bound_to(pod).is_some() || pauses {
            return false;
        }
        let tenants = model.tenants.take().unwrap_or_else(|| preemption::tenants(model));
        let stays = self.preempting.nodes.get(&uid).filter(|(_, until)| *until > now);
        let stays = stays.map(|(node, _)| node.clone());
        let budgets: Vec<Budget> =
            self.stores.budgets.state().iter().filter_map(|b| Budget::read(b)).collect();
        let may_go = |victim: &Pod| {
            let victim_uid = victim.uid().unwrap_or_default();
            victim_uid != uid
                && !self.writing.contains(&victim_uid)
                && !victim.annotations().contains_key(pod::MIRROR)
        };
        let (priority, namespace) = (preemption::priority(pod), pod.namespace().unwrap_or_default());
        let found = demands.iter().find_map(|demand| {
            let only_node = demand.only_node.clone().or_else(|| stays.clone());
            let demand = Demand { only_node, ..demand.clone() };
            let found = preemption::find(&mut model.cluster, &demand, &tenants, priority, &budgets, &may_go)?;
            let shares = waiting.open.iter().flat_map(|(_, claim)| given(&found.placed, claim));
            let shares: Vec<Share> = shares.collect();
            // Nobody goes for what the namespace may not have.
            model.quotas.exceeded(&namespace, &shares).is_none().then_some((found, shares))
        });
        model.tenants = Some(tenants);
        let Some((found, shares)) = found else {
            self.preempting.pause(&uid, now);
            return false;
        };
        self.preempting.pauses.remove(&uid);
        let stay = self
            .preempting
            .nodes
            .entry(uid.clone())
            .or_insert_with(|| (found.placed.node.clone(), now + STAY));
        if stay.0 != found.placed.node || !found.going.is_empty() {
            *stay = (found.placed.node.clone(), now + STAY);
        }
        // Those behind it in the line must not take what others leave for it.
        model.keep_place(&uid, &found.placed.node, shares, pod::room(pod));
        self.send_away(pod, found, now);
        true
    }

    fn send_away(&mut self, pod: &Arc<Pod>, found: Found, now: Instant) {
        let node = found.placed.node;
        let who = |p: &Pod| format!("{}/{}", p.namespace().unwrap_or_default(), p.name_any());
        let priority = preemption::priority(pod);
        if !found.victims.is_empty() {
            let victims: Vec<String> = found.victims.iter().map(|v| who(v)).collect();
            let note =
                format!("{} must go from {node}: their priority is below {priority}", victims.join(", "));
            self.say(reference(&**pod), Saying::normal("Preempting", note));
        }
        for victim in found.victims {
            if !self.may_evict(&victim, now) {
                continue;
            }
            self.writer.metrics.preempted.inc();
            let note = format!(
                "evicted for pod {}, whose priority {priority} is above {}; it needs the room on {node}",
                who(pod),
                preemption::priority(&victim)
            );
            let writer = self.writer.clone();
            self.tasks.spawn(async move { writer.evict(&victim, Saying::warning("Preempted", note)).await });
        }
    }
}
