//! Where a pod goes, or why nowhere.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use vgpu_allocator::{Constraint, Demand, NodeExclusion, Placement as Placed, Request, Share};
use vgpu_api::Policy;

use super::{Named, Planner, Waiting, given};
use crate::events::{Saying, reference};
use crate::model::{self, Model};
use crate::request::{self, Asked, Invalid, Known, WAYS};
use crate::{attribute, pod};

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
    Invalid(Arc<ResourceClaim>, Invalid),
    /// It fits nowhere, in none of its ways.
    NotPlaced(Vec<Demand>, String),
    /// Its namespace would hold too much.
    QuotaExceeded(String),
}

/// One way to satisfy claims of a pod: what it asks of the engine, and what each claim's allocation needs.
type Way = (Demand, Vec<Asked>);

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
        let chosen = chosen(demand).map(|names| format!("; as {names}")).unwrap_or_default();
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

/// Alternatives a way is made of; `None` if its claims name none.
fn chosen(demand: &Demand) -> Option<String> {
    let names: Vec<&str> = demand.requests.iter().map(|r| r.name.as_str()).filter(|n| n.contains('/')).collect();
    (!names.is_empty()).then(|| names.join(" + "))
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
            Err(No::NotPlaced(demands, why)) => {
                let kept = self.preempt(model, &waiting, &demands, now);
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
        let decision = match self.complete(model, waiting, ours, now) {
            Some(complete) => complete,
            None => {
                let ways = self.ways(model, waiting, &waiting.open, ours, now);
                let ways = ways.map_err(|(claim, invalid)| No::Invalid(claim, invalid))?;
                if let Some((first, _)) = ways.first() {
                    self.learning.count(&uid, first);
                }
                let began = std::time::Instant::now();
                let answer = self.first_that_fits(model, ways);
                self.writer.metrics.plan_seconds.observe(began.elapsed().as_secs_f64());
                answer?
            }
        };
        match model.quotas.exceeded(&pod.namespace().unwrap_or_default(), &decision.shares(waiting)) {
            Some(exceeded) => Err(No::QuotaExceeded(exceeded.to_string())),
            None => Ok(decision),
        }
    }

    fn first_that_fits(&mut self, model: &mut Model, ways: Vec<Way>) -> Result<Decision, No> {
        let (mut demands, mut refusals) = (Vec::new(), Vec::new());
        for (demand, asked) in ways {
            self.learning.teach(model, &demand);
            match model.cluster.plan(&demand) {
                Ok(placed) => return Ok(Decision { demand, placed, asked }),
                Err(refusal) => {
                    refusals.push(match chosen(&demand) {
                        Some(names) => format!("as {names}: {refusal}"),
                        None => refusal.to_string(),
                    });
                    demands.push(demand);
                }
            }
        }
        let more = refusals.len().saturating_sub(TOLD);
        refusals.truncate(TOLD);
        refusals.extend((more > 0).then(|| format!("and {more} ways more that do not fit")));
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
    ) -> Option<Decision> {
        let uid = |claim: &ResourceClaim| claim.uid().unwrap_or_default();
        let held: Vec<&Named> = waiting.claims.iter().filter(|(_, c)| model::is_allocated(c)).collect();
        if held.is_empty() {
            return None;
        }
        let ways = self.ways(model, waiting, &waiting.claims, ours, now).ok()?;
        held.iter().for_each(|(_, claim)| model.cluster.drop_claim(&uid(claim)));
        let whole = self.first_that_fits(model, ways);
        held.iter().for_each(|(_, claim)| model.cluster.hold_claim(&uid(claim), model::shares(claim)));
        let Decision { demand, placed, asked } = whole.ok()?;
        let agrees = |(_, claim): &&Named| {
            let planned = placed.shares.iter().filter(|s| s.claim == uid(claim)).map(|s| &s.gpu);
            planned.eq(model::own_results(claim).iter().map(|r| &r.device))
        };
        let open = waiting.claims.iter().zip(asked).filter(|((_, c), _)| !model::is_allocated(c));
        let asked = open.map(|(_, asked)| asked).collect();
        held.iter().all(agrees).then_some(Decision { demand, placed, asked })
    }

    /// Every way to satisfy a claim, the one it likes best first.
    pub(super) fn read(&self, claim: &ResourceClaim, ours: &HashSet<String>) -> Result<Vec<Asked>, Invalid> {
        let known = Known {
            classes: &|name| self.stores.classes.get(&ObjectRef::new(name)),
            is_ours: &|name| ours.contains(name),
            selectors: &self.selectors,
            shapes: &self.shapes,
            attribute: &|name| Arc::new(attribute::values(&self.stores.slices.state(), name)),
            defaults: self.defaults,
        };
        request::read(claim, &known)
    }

    /// Every way to satisfy claims of a pod, the one they like best first. What is allocated has one.
    #[allow(clippy::type_complexity, reason = "an error is the claim it is about and what is wrong with it")]
    fn ways(
        &self,
        model: &Model,
        waiting: &Waiting,
        claims: &[Named],
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<Vec<Way>, (Arc<ResourceClaim>, Invalid)> {
        let pod = &waiting.pod;
        let mut of_claims: Vec<Vec<Asked>> = Vec::new();
        for (name, claim) in claims {
            let mut ways = self.read(claim, ours).map_err(|i| (claim.clone(), i))?;
            let results = model::own_results(claim);
            ways.retain(|way| results.iter().all(|r| way.requests.iter().any(|q| q.name == r.request)));
            for request in ways.iter_mut().flat_map(|w| &mut w.requests) {
                request.containers = pod::users(pod, name, request::main_name(&request.name));
            }
            of_claims.push(ways);
        }
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
        let mut found = Vec::new();
        for way in request::ways(&of_claims).into_iter().take(WAYS) {
            let (mut requests, mut constraints, mut policies): (Vec<Request>, Vec<Constraint>, Vec<Policy>) =
                Default::default();
            for asked in &way {
                let before = requests.len();
                requests.extend(asked.requests.iter().cloned());
                policies.extend(&asked.node_policies);
                constraints.extend(asked.constraints.iter().map(|c| Constraint {
                    requests: c.requests.iter().map(|r| r + before).collect(),
                    ..c.clone()
                }));
            }
            let node_policy = request::node_policy(&policies, self.defaults.node)
                .map_err(|invalid| (claims[0].1.clone(), invalid))?;
            let (only_node, excluded) = (only_node.clone(), excluded.clone());
            let demand = Demand { room, requests, constraints, node_policy, only_node, excluded };
            found.push((demand, way.into_iter().cloned().collect()));
        }
        Ok(found)
    }
}
