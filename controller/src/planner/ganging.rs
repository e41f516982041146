//! Pods of a gang get all their claims or none: planned together, and their gates taken when every claim is allocated.
//!
//! One task plans, and a gang as one step, so two gangs never wait for each other's half. What a death in between leaves
//! allocated is completed or let go by the next pass. Nobody is evicted for a gang.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt;
use tokio::time::Instant;

use super::deciding::{Decision, No};
use super::standing::Waiting;
use super::{Planner, given};
use crate::claim::Claim;
use crate::events::{Saying, reference};
use crate::model::Model;
use crate::pod::{self, Gang, Pod};

/// How often the members of a gang are looked at for one answer.
const TRIES: u32 = 256;

/// Namespace and name.
pub(super) type Key = (String, String);

/// A pod all of whose claims are allocated.
pub(super) struct Allocated {
    pub(super) pod: Arc<Pod>,
    pub(super) claims: Vec<Arc<Claim>>,
    pub(super) node: String,
}

/// What a pass has seen of the gangs.
#[derive(Default)]
pub(super) struct Gangs {
    /// Members that are bound or have ended.
    settled: BTreeMap<Key, usize>,
    /// Members whose allocation is being written, or not shown yet.
    on_the_way: BTreeMap<Key, usize>,
    /// Members that are allocated and not bound.
    allocated: BTreeMap<Key, Vec<Allocated>>,
    /// Members that wait.
    waiting: BTreeMap<Key, Vec<Waiting>>,
}

/// The gang of a pod whose annotations can be read.
pub(super) fn key(pod: &Pod) -> Option<Key> {
    let gang = pod::gang(pod)?.ok()?;
    Some((pod.namespace().unwrap_or_default(), gang.name))
}

impl Gangs {
    /// A member is bound or has ended.
    pub(super) fn settled(&mut self, pod: &Pod) {
        if let Some(key) = key(pod) {
            *self.settled.entry(key).or_default() += 1;
        }
    }

    /// A member's allocation is being written, or not shown yet.
    pub(super) fn on_the_way(&mut self, pod: &Pod) {
        if let Some(key) = key(pod) {
            *self.on_the_way.entry(key).or_default() += 1;
        }
    }

    /// A member holds its claims and is not bound; whether its gate goes is decided when all have been seen.
    pub(super) fn allocated(&mut self, key: Key, allocated: Allocated) {
        self.allocated.entry(key).or_default().push(allocated);
    }

    /// Members that hold their claims, as far as can be seen.
    fn seen(&self, key: &Key) -> usize {
        self.settled.get(key).copied().unwrap_or(0) + self.allocated.get(key).map_or(0, Vec::len)
    }

    /// Members that have a place.
    fn placed(&self, key: &Key) -> usize {
        self.seen(key) + self.on_the_way.get(key).copied().unwrap_or(0)
    }

    /// A member waits. True for the first one, in whose turn the gang is planned.
    pub(super) fn waits(&mut self, key: Key, waiting: Waiting) -> bool {
        let members = self.waiting.entry(key).or_default();
        members.push(waiting);
        members.len() == 1
    }
}

impl Planner {
    /// A pod whose annotations make no gang is told so, and waits.
    pub(super) fn say_no_gang(&mut self, pod: &Pod, why: &str) {
        self.writer.metrics.invalid.inc();
        self.say(reference(pod), Saying::warning("InvalidGang", why.to_owned()));
    }

    /// Plans all waiting members of a gang, or none.
    pub(super) fn plan_gang(
        &mut self,
        model: &mut Model,
        gangs: &mut Gangs,
        key: &Key,
        ours: &HashSet<String>,
        now: Instant,
    ) {
        let mut members = gangs.waiting.remove(key).unwrap_or_default();
        let placed = gangs.placed(key);
        let sizes: Vec<u32> =
            members.iter().filter_map(|m| pod::gang(&m.pod)?.ok()).map(|g: Gang| g.size).collect();
        let size = sizes.iter().copied().max().unwrap_or(0);
        if let Some(other) = sizes.iter().find(|s| **s != size) {
            let why = format!(
                "pods of gang {} name the sizes {other} and {size}; give all of them the same",
                key.1
            );
            members.iter().for_each(|m| self.say_no_gang(&m.pod, &why));
            return;
        }
        let missing = (size as usize).saturating_sub(placed);
        if missing > members.len() {
            let why = format!("gang {}: {} of its {size} pods are there", key.1, placed + members.len());
            return self.refuse_gang(gangs, key, members, "GangIncomplete", &why, now);
        }
        let more = members.split_off(missing);
        let decisions = match self.decide_gang(model, &members, ours, now) {
            Ok(decisions) => decisions,
            Err((fit, no)) => {
                let fit_words = format!("gang {}: {fit} of {missing} pods fit", key.1);
                let why = match no {
                    No::NotYet => {
                        // In a moment; until then the others keep what they have.
                        *gangs.on_the_way.entry(key.clone()).or_default() += missing;
                        return;
                    }
                    No::Invalid(claim, invalid) => {
                        let pod = &members[fit].pod;
                        self.say_invalid(pod, &claim, &invalid);
                        format!("gang {}: pod {} cannot be placed", key.1, pod.name_any())
                    }
                    No::NotPlaced(_, why) | No::QuotaExceeded(why) => {
                        format!("{fit_words}; for the next: {why}")
                    }
                };
                return self.refuse_gang(gangs, key, members, "NotPlaced", &why, now);
            }
        };
        for (member, decision) in members.into_iter().zip(decisions) {
            self.write(member, decision, false);
            *gangs.on_the_way.entry(key.clone()).or_default() += 1;
        }
        more.into_iter().for_each(|member| self.plan(model, member, ours, now));
    }

    /// A place for each member, all of them held, or for how many there is one and why the next has none. Where members
    /// have alternatives, one that leaves too little for those after it is passed over for its next one.
    fn decide_gang(
        &mut self,
        model: &mut Model,
        members: &[Waiting],
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<Vec<Decision>, (usize, No)> {
        // With the number of the way each decision is.
        let mut decisions: Vec<(Decision, usize)> = Vec::new();
        let (mut passed, mut tries) = (0, 0);
        // The most that fit so far, and why no more did.
        let mut failed: Option<(usize, No)> = None;
        while let Some(member) = members.get(decisions.len()) {
            tries += 1;
            match self.decide(model, member, ours, now, passed) {
                Ok((decision, way)) => {
                    decision.hold(model, member);
                    decisions.push((decision, way));
                    passed = 0;
                    continue;
                }
                Err(no) => {
                    let is_for_good = matches!(no, No::NotYet | No::Invalid(..)) || tries >= TRIES;
                    if failed.as_ref().is_none_or(|(fit, _)| is_for_good || *fit < decisions.len()) {
                        failed = Some((decisions.len(), no));
                    }
                    if is_for_good {
                        break;
                    }
                }
            }
            let Some((last, way)) = decisions.pop() else { break };
            last.release(model, &members[decisions.len()]);
            passed = way + 1;
        }
        if decisions.len() == members.len() {
            return Ok(decisions.into_iter().map(|(decision, _)| decision).collect());
        }
        for ((decision, _), member) in decisions.iter().zip(members) {
            decision.release(model, member);
        }
        Err(failed.unwrap_or((0, No::NotYet)))
    }

    fn refuse_gang(
        &mut self,
        gangs: &mut Gangs,
        key: &Key,
        members: Vec<Waiting>,
        reason: &'static str,
        why: &str,
        now: Instant,
    ) {
        for member in members {
            self.writer.metrics.refused.inc();
            self.say(reference(&*member.pod), Saying::warning(reason, why.to_owned()));
            if member.node.is_some() && pod::bound_to(&member.pod).is_none() {
                self.release(&member.pod, now);
            }
        }
        // Those that have their claims must not hold on to them; those that may run already do.
        for member in gangs.allocated.remove(key).unwrap_or_default() {
            if pod::is_gated(&member.pod) {
                self.release(&member.pod, now);
            } else {
                self.keep_up(&member.pod, member.claims, &member.node, now);
            }
        }
    }

    /// Members that are allocated may go when all of their gang are; a gang some of whose pods are missing lets go.
    pub(super) fn keep_gangs_up(&mut self, mut gangs: Gangs, now: Instant) {
        let keys: Vec<Key> = gangs.allocated.keys().cloned().collect();
        for key in keys {
            let (seen, placed) = (gangs.seen(&key), gangs.placed(&key));
            let members = gangs.allocated.remove(&key).unwrap_or_default();
            let size = members
                .iter()
                .filter_map(|m| pod::gang(&m.pod)?.ok())
                .map(|g| g.size as usize)
                .max()
                .unwrap_or(0);
            for member in members {
                if seen >= size || !pod::is_gated(&member.pod) {
                    self.keep_up(&member.pod, member.claims, &member.node, now);
                } else if placed < size {
                    self.release(&member.pod, now);
                }
            }
        }
    }
}

impl Decision {
    fn release(&self, model: &mut Model, waiting: &Waiting) {
        for (_, claim) in &waiting.open {
            model.quotas.release(&claim.namespace().unwrap_or_default(), &given(&self.placed, claim));
            model.cluster.drop_claim(&claim.uid().unwrap_or_default());
        }
        model.cluster.drop_pod(&waiting.pod.uid().unwrap_or_default());
    }
}
