//! Where a pod goes, or why nowhere.

use std::collections::HashSet;
use std::sync::Arc;

use kube::ResourceExt;
use tokio::time::Instant;
use vgpu_allocator::{Demand, Placement as Placed, Share};

use super::standing::{Named, Waiting};
use super::ways::{Way, alternatives};
use super::{Planner, given};
use crate::claim::{self, Claim};
use crate::events::{Saying, reference};
use crate::model::Model;
use crate::pod;
use crate::quota::Exceeded;
use crate::request::{Asked, Invalid, RESULTS, WAYS};

/// Ways whose refusals are told; the rest are counted.
const TOLD: usize = 4;

/// Where a pod goes.
pub(super) struct Decision {
    pub(super) demand: Demand,
    pub(super) placed: Placed,
    /// Of each claim that is not allocated yet.
    pub(super) asked: Vec<Asked>,
}

/// Why it goes nowhere now.
pub(super) enum No {
    /// Its turn has not come.
    NotYet,
    /// A claim of it cannot be understood.
    Invalid(Arc<Claim>, Invalid),
    /// It fits nowhere, in none of its ways.
    NotPlaced(Vec<Demand>, String),
    /// Its namespace would hold too much.
    QuotaExceeded(String),
}

/// Whether a claim gets more than its allocation can hold: how many GPUs are all of a node's is known only now.
fn is_too_long(placed: &Placed) -> bool {
    let claims: HashSet<&str> = placed.shares.iter().map(|s| s.claim.as_str()).collect();
    let results = |claim: &str| placed.shares.iter().filter(|s| s.claim == claim).count();
    placed.shares.len() > RESULTS as usize
        && claims.into_iter().any(|claim| results(claim) > RESULTS as usize)
}

impl Decision {
    /// What the claims that are not allocated yet get.
    fn shares(&self, waiting: &Waiting) -> Vec<Share> {
        waiting.open.iter().flat_map(|(_, claim)| given(&self.placed, claim)).collect()
    }

    /// Holds it in the model.
    pub(super) fn hold(&self, model: &mut Model, waiting: &Waiting) {
        for (_, claim) in &waiting.open {
            let shares = given(&self.placed, claim);
            model.quotas.hold(&claim.namespace().unwrap_or_default(), &shares);
            model.cluster.hold_claim(&claim.uid().unwrap_or_default(), shares);
        }
        model.hold_pod(&waiting.pod, &self.placed.node);
    }

    /// What the event says: `node-a: gpu-1a2b..., gpu-3c4d...; node Binpack, GPU Spread, score 0.497`, with `; as gpu/large`
    /// after the GPUs if that alternative was taken.
    pub(super) fn note(&self) -> String {
        let Self { demand, placed, .. } = self;
        let name = |policy: vgpu_allocator::Policy| {
            vgpu_allocator::POLICIES.iter().find(|p| p.1 == policy).map_or("", |p| p.0)
        };
        let mut gpus: Vec<&str> = placed.shares.iter().map(|s| s.gpu.as_str()).collect();
        gpus.dedup();
        let mut policies: Vec<&str> = demand.requests.iter().map(|r| name(r.gpu_policy)).collect();
        policies.dedup();
        let chosen = alternatives(demand).map(|names| format!("; as {names}")).unwrap_or_default();
        format!(
            "{}: {}{chosen}; node {}, GPU {}, score {}",
            placed.node,
            gpus.join(", "),
            name(demand.node_policy),
            policies.join("/"),
            placed.score
        )
    }
}

impl Planner {
    /// Finds a place for one pod, or says why there is none.
    pub(super) fn plan(&mut self, model: &mut Model, waiting: Waiting, ours: &HashSet<String>, now: Instant) {
        match self.decide(model, &waiting, ours, now, 0) {
            Ok((decision, _)) => {
                decision.hold(model, &waiting);
                self.write(waiting, decision, true);
            }
            Err(No::NotYet) => {}
            Err(No::Invalid(claim, invalid)) => self.say_invalid(&waiting.pod, &claim, &invalid),
            Err(No::NotPlaced(demands, why)) => {
                let kept = self.preempt(model, &waiting, &demands, now);
                self.refuse(&waiting, "NotPlaced", why, kept, now);
            }
            Err(No::QuotaExceeded(why)) => self.refuse(&waiting, "QuotaExceeded", why, false, now),
        }
    }

    /// Where a pod goes as things are, and in which of its ways; the first so many of them are passed over.
    pub(super) fn decide(
        &mut self,
        model: &mut Model,
        waiting: &Waiting,
        ours: &HashSet<String>,
        now: Instant,
        passed: usize,
    ) -> Result<(Decision, usize), No> {
        let pod = &waiting.pod;
        let uid = pod.uid().unwrap_or_default();
        // Another pod of this pass may have been given a claim they share.
        let is_promised = |claim: &Claim| self.promised.contains_key(&claim.uid().unwrap_or_default());
        if pod::has_other_gates(pod)
            || waiting.open.iter().any(|(_, claim)| is_promised(claim))
            || self.upkeep.must_rest(&uid, now)
        {
            return Err(No::NotYet);
        }
        if passed == 0
            && let Some(complete) = self.complete(model, waiting, ours, now)?
        {
            // Of what is written in part there is no other way.
            return Ok((complete, WAYS));
        }
        let ways = self.ways(model, waiting, &waiting.open, ours, now)?;
        if let Some(first) = ways.first() {
            self.learning.count(&uid, &first.demand);
        }
        let began = std::time::Instant::now();
        let answer = self.first_that_fits(model, waiting, ways, passed);
        self.writer.metrics.plan_seconds.observe(began.elapsed().as_secs_f64());
        answer
    }

    /// The first way that fits as things are, and that the namespace's quotas allow, after so many that are passed over.
    fn first_that_fits(
        &mut self,
        model: &mut Model,
        waiting: &Waiting,
        ways: Vec<Way>,
        passed: usize,
    ) -> Result<(Decision, usize), No> {
        let are_all = ways.len() < WAYS;
        let (mut demands, mut refusals): (Vec<Demand>, Vec<String>) = Default::default();
        let mut exceeded: Option<Exceeded> = None;
        for (at, Way { demand, asked }) in ways.into_iter().enumerate().skip(passed) {
            self.learning.teach(model, &demand);
            match model.cluster.plan(&demand) {
                Ok(placed) if is_too_long(&placed) => refusals.push(format!(
                    "{}: {} GPUs match a request for all of them, an allocation holds {RESULTS} at most; select fewer",
                    placed.node,
                    placed.shares.len()
                )),
                Ok(placed) => {
                    let decision = Decision { demand, placed, asked };
                    let namespace = waiting.pod.namespace().unwrap_or_default();
                    match model.quotas.exceeded(&namespace, &decision.shares(waiting)) {
                        None => return Ok((decision, at)),
                        Some(more) => drop(exceeded.get_or_insert(more)),
                    }
                }
                Err(refusal) => {
                    refusals.push(match alternatives(&demand) {
                        Some(names) => format!("as {names}: {refusal}"),
                        None => refusal.to_string(),
                    });
                    demands.push(demand);
                }
            }
        }
        if let Some(exceeded) = exceeded {
            return Err(No::QuotaExceeded(exceeded.to_string()));
        }
        let more = refusals.len().saturating_sub(TOLD);
        refusals.truncate(TOLD);
        refusals.extend((more > 0).then(|| format!("and {more} more ways that do not fit")));
        refusals.extend((!are_all).then(|| format!("no more than {WAYS} ways are tried")));
        Err(No::NotPlaced(demands, refusals.join("; ")))
    }

    /// Says why a pod is not placed. Unless a place is kept for it, it lets go of what it has.
    fn refuse(&mut self, waiting: &Waiting, reason: &'static str, note: String, kept: bool, now: Instant) {
        let pod = &waiting.pod;
        self.writer.metrics.refused.inc();
        self.say(reference(&**pod), Saying::warning(reason, note));
        if let Some(node) = waiting.node.as_deref().filter(|_| !kept && pod::bound_to(pod).is_none()) {
            // Part of it is allocated where the rest cannot be: it must not hold on to that part.
            self.let_go(pod, node, "the pod's other claims cannot be had there", now);
        }
    }

    /// The rest of a plan of which a part is written: the plan of the whole pod, if it gives the allocated claims what they
    /// have. Otherwise the world has changed, and the rest is planned by itself.
    fn complete(
        &mut self,
        model: &mut Model,
        waiting: &Waiting,
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<Option<Decision>, No> {
        let uid = |claim: &Claim| claim.uid().unwrap_or_default();
        let held: Vec<&Named> = waiting.claims.iter().filter(|(_, c)| claim::is_allocated(c)).collect();
        if held.is_empty() {
            return Ok(None);
        }
        held.iter().for_each(|(_, claim)| model.cluster.drop_claim(&uid(claim)));
        let ways = self.ways(model, waiting, &waiting.claims, ours, now);
        let whole = ways.and_then(|ways| self.first_that_fits(model, waiting, ways, 0));
        held.iter().for_each(|(_, claim)| model.cluster.hold_claim(&uid(claim), claim::shares(claim)));
        let Decision { demand, placed, asked } = match whole {
            Err(No::NotYet) => return Err(No::NotYet),
            Err(_) => return Ok(None),
            Ok((whole, _)) => whole,
        };
        let agrees = |(_, claim): &&Named| {
            let planned = placed.shares.iter().filter(|s| s.claim == uid(claim)).map(|s| &s.gpu);
            planned.eq(claim::own_results(claim).iter().map(|r| &r.device))
        };
        let open = waiting.claims.iter().zip(asked).filter(|((_, c), _)| !claim::is_allocated(c));
        let asked = open.map(|(_, asked)| asked).collect();
        Ok(held.iter().all(agrees).then_some(Decision { demand, placed, asked }))
    }
}
