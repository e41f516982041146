//! Where a pod goes, or why nowhere.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use vgpu_allocator::{Demand, NodeExclusion, Placement as Placed, Request, Share};
use vgpu_api::Policy;

use super::{Named, Planner, Waiting, given};
use crate::events::{Saying, reference};
use crate::model::{self, Model};
use crate::pod;
use crate::request::{self, Asked, Invalid, Known, Unread};

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
    Invalid(Arc<ResourceClaim>, Invalid),
    /// It fits nowhere.
    NotPlaced(Box<Demand>, String),
    /// Its namespace would hold too much.
    QuotaExceeded(String),
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
        let pod = &waiting.pod;
        model.cluster.hold_pod(&pod.uid().unwrap_or_default(), &self.placed.node, pod::room(pod));
    }

    /// What the event says: `node-a: gpu-1a2b..., gpu-3c4d...; node Binpack, GPU Spread, score 0.497`.
    pub(super) fn note(&self) -> String {
        let Self { demand, placed, .. } = self;
        let name = |policy: vgpu_allocator::Policy| {
            vgpu_allocator::POLICIES.iter().find(|p| p.1 == policy).map_or("", |p| p.0)
        };
        let mut gpus: Vec<&str> = placed.shares.iter().map(|s| s.gpu.as_str()).collect();
        gpus.dedup();
        let mut policies: Vec<&str> = demand.requests.iter().map(|r| name(r.gpu_policy)).collect();
        policies.dedup();
        format!(
            "{}: {}; node {}, GPU {}, score {}",
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
        match self.decide(model, &waiting, ours, now) {
            Ok(decision) => {
                decision.hold(model, &waiting);
                self.write(waiting, decision, true);
            }
            Err(No::NotYet) => {}
            Err(No::Invalid(claim, invalid)) => self.say_invalid(&waiting.pod, &claim, &invalid),
            Err(No::NotPlaced(demand, why)) => {
                let kept = self.preempt(model, &waiting, &demand, now);
                self.refuse(&waiting, "NotPlaced", why, kept, now);
            }
            Err(No::QuotaExceeded(why)) => self.refuse(&waiting, "QuotaExceeded", why, false, now),
        }
    }

    /// Where a pod goes as things are.
    pub(super) fn decide(
        &mut self,
        model: &mut Model,
        waiting: &Waiting,
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<Decision, No> {
        let pod = &waiting.pod;
        let uid = pod.uid().unwrap_or_default();
        // Another pod of this pass may have been given a claim they share.
        let is_promised =
            |claim: &ResourceClaim| self.promised.contains_key(&claim.uid().unwrap_or_default());
        if pod::has_other_gates(pod)
            || waiting.open.iter().any(|(_, claim)| is_promised(claim))
            || self.upkeep.must_rest(&uid, now)
        {
            return Err(No::NotYet);
        }
        let (demand, placed, asked) = match self.complete(model, waiting, ours, now)? {
            Some(complete) => complete,
            None => {
                let (demand, asked) = self.demand(model, waiting, &waiting.open, ours, now)?;
                self.learning.count(&uid, &demand);
                self.learning.teach(model, &demand);
                let began = std::time::Instant::now();
                let answer = model.cluster.plan(&demand);
                self.writer.metrics.plan_seconds.observe(began.elapsed().as_secs_f64());
                match answer {
                    Ok(placed) => (demand, placed, asked),
                    Err(refusal) => return Err(No::NotPlaced(Box::new(demand), refusal.to_string())),
                }
            }
        };
        let decision = Decision { demand, placed, asked };
        match model.quotas.exceeded(&pod.namespace().unwrap_or_default(), &decision.shares(waiting)) {
            Some(exceeded) => Err(No::QuotaExceeded(exceeded.to_string())),
            None => Ok(decision),
        }
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
    ) -> Result<Option<(Demand, Placed, Vec<Asked>)>, No> {
        let uid = |claim: &ResourceClaim| claim.uid().unwrap_or_default();
        let held: Vec<&Named> = waiting.claims.iter().filter(|(_, c)| model::is_allocated(c)).collect();
        if held.is_empty() {
            return Ok(None);
        }
        let (demand, asked) = match self.demand(model, waiting, &waiting.claims, ours, now) {
            Err(No::NotYet) => return Err(No::NotYet),
            Err(_) => return Ok(None),
            Ok(whole) => whole,
        };
        self.learning.teach(model, &demand);
        held.iter().for_each(|(_, claim)| model.cluster.drop_claim(&uid(claim)));
        let placed = model.cluster.plan(&demand);
        held.iter().for_each(|(_, claim)| model.cluster.hold_claim(&uid(claim), model::shares(claim)));
        let Ok(placed) = placed else { return Ok(None) };
        let agrees = |(_, claim): &&Named| {
            let planned = placed.shares.iter().filter(|s| s.claim == uid(claim)).map(|s| &s.gpu);
            planned.eq(model::own_results(claim).iter().map(|r| &r.device))
        };
        let open = waiting.claims.iter().zip(asked).filter(|((_, c), _)| !model::is_allocated(c));
        let asked = open.map(|(_, asked)| asked).collect();
        Ok(held.iter().all(agrees).then_some((demand, placed, asked)))
    }

    /// What a claim of ours asks for.
    pub(super) fn read(&self, claim: &ResourceClaim, ours: &HashSet<String>) -> Result<Asked, Unread> {
        let known = Known {
            classes: &|name| self.stores.classes.get(&ObjectRef::new(name)),
            is_ours: &|name| ours.contains(name),
            selectors: &self.selectors,
            shapes: &self.shapes,
            defaults: self.defaults,
        };
        request::read(claim, &known)
    }

    /// What claims of a pod ask of the engine, and of each claim what its allocation needs.
    fn demand(
        &self,
        model: &Model,
        waiting: &Waiting,
        claims: &[Named],
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<(Demand, Vec<Asked>), No> {
        let pod = &waiting.pod;
        let (mut requests, mut all, mut policies): (Vec<Request>, Vec<Asked>, Vec<Policy>) =
            Default::default();
        for (name, claim) in claims {
            let mut asked = self.read(claim, ours).map_err(|unread| match unread {
                Unread::New => No::NotYet,
                Unread::Invalid(invalid) => No::Invalid(claim.clone(), invalid),
            })?;
            for request in &mut asked.requests {
                request.containers = pod::users(pod, name, &request.name);
            }
            policies.extend(&asked.node_policies);
            requests.extend(asked.requests.iter().cloned());
            all.push(asked);
        }
        let policy = request::node_policy(&policies, self.defaults.node);
        let node_policy = policy.map_err(|invalid| No::Invalid(claims[0].1.clone(), invalid))?;
        let volumes = model::volume_affinity(&self.stores, pod);
        let bound = pod::bound_to(pod);
        // A bound pod goes nowhere else, whatever the node has become.
        let mut excluded = if bound.is_some() { Default::default() } else { model.excluded(pod, &volumes) };
        let nominated = pod::nominated(pod);
        let penalties = self.upkeep.avoided(&pod.uid().unwrap_or_default(), now);
        // The node others are preempted on for this pod is the one to go to, whatever was before.
        for node in penalties.into_iter().filter(|n| bound.is_none() && nominated != Some(n.as_str())) {
            excluded.nodes.entry(node).or_insert(NodeExclusion("RejectedByScheduler".to_owned()));
        }
        let only_node = bound.or(waiting.node.as_deref()).or(nominated).map(str::to_owned);
        let room = if bound.is_some() { Default::default() } else { pod::room(pod) };
        Ok((Demand { room, requests, node_policy, only_node, excluded }, all))
    }
}
