//! Every way to satisfy claims of a pod: requests may name alternatives, and of all combinations the first that fits is taken.

use std::collections::HashSet;

use kube::ResourceExt;
use tokio::time::Instant;
use vgpu_allocator::{Constraint, Demand, NodeExclusion, Policy, Request};

use super::Planner;
use super::deciding::No;
use super::standing::{Named, Waiting};
use crate::claim::{self, Claim};
use crate::model::{self, Model};
use crate::pod;
use crate::request::{self, Asked, Known, Unread};

/// One of them.
pub(super) struct Way {
    /// What it asks of the engine.
    pub(super) demand: Demand,
    /// What the allocation of each claim needs.
    pub(super) asked: Vec<Asked>,
}

/// Alternatives a demand is made of, `gpu/large + aux/small`; `None` if its claims name none.
pub(super) fn alternatives(demand: &Demand) -> Option<String> {
    let names = demand.requests.iter().map(|r| r.name.as_str()).filter(|n| n.contains('/'));
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| names.join(" + "))
}

impl Planner {
    /// Every way to satisfy a claim, the one it likes best first. `fits`: whether a request fits somewhere by itself.
    pub(super) fn read(
        &self,
        claim: &Claim,
        ours: &HashSet<String>,
        fits: &dyn Fn(&Request) -> bool,
    ) -> Result<Vec<Asked>, Unread> {
        let known = Known {
            classes: &|name| self.stores.classes.get(name),
            is_ours: &|name| ours.contains(name),
            selectors: &self.selectors,
            shapes: &self.shapes,
            attribute: &|name| self.attributes.get(name, || self.stores.slices.state()),
            fits,
            defaults: self.defaults,
        };
        request::read(claim, &known)
    }

    /// Every way to satisfy claims of a pod, the one they like best first. A claim that is allocated has the one it got.
    pub(super) fn ways(
        &self,
        model: &Model,
        waiting: &Waiting,
        claims: &[Named],
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<Vec<Way>, No> {
        let pod = &waiting.pod;
        let frame = self.frame(model, waiting, now);
        let fits = |requests: &[Request], constraints: &[Constraint]| {
            let (requests, constraints) = (requests.to_vec(), constraints.to_vec());
            model.cluster.plan(&Demand { requests, constraints, ..frame.clone() }).is_ok()
        };
        let mut of_claims: Vec<Vec<Asked>> = Vec::new();
        for (name, claim) in claims {
            let ways = self.read(claim, ours, &|request| fits(std::slice::from_ref(request), &[]));
            let mut ways = ways.map_err(|unread| match unread {
                Unread::New => No::NotYet,
                Unread::Invalid(invalid) => No::Invalid(claim.clone(), invalid),
            })?;
            let results = claim::own_results(claim);
            ways.retain(|way| results.iter().all(|r| way.requests.iter().any(|q| q.name == r.request)));
            for request in ways.iter_mut().flat_map(|w| &mut w.requests) {
                request.containers = pod::users(pod, name, request::main_name(&request.name));
            }
            of_claims.push(ways);
        }
        request::keep_possible(&mut of_claims, |asked| fits(&asked.requests, &asked.constraints));
        let (mut found, mut contradiction) = (Vec::new(), None);
        for asked in request::ways(&of_claims) {
            let policies: Vec<_> = asked.iter().flat_map(|a| a.node_policies.iter().copied()).collect();
            match request::node_policy(&policies, self.defaults.node) {
                Ok(node_policy) => {
                    let demand = Demand { node_policy, ..joined(&asked, frame.clone()) };
                    found.push(Way { demand, asked: asked.into_iter().cloned().collect() });
                }
                // Alternatives that agree may come yet.
                Err(invalid) => drop(contradiction.get_or_insert(invalid)),
            }
        }
        match contradiction.filter(|_| found.is_empty()) {
            Some(invalid) => Err(No::Invalid(claims[0].1.clone(), invalid)),
            None => Ok(found),
        }
    }

    /// What a pod asks whatever is chosen: its demand without requests.
    fn frame(&self, model: &Model, waiting: &Waiting, now: Instant) -> Demand {
        let pod = &waiting.pod;
        let volumes = model::volume_affinity(&self.stores, pod);
        let bound = pod::bound_to(pod);
        // A bound pod goes nowhere else, whatever the node has become.
        let mut excluded = if bound.is_some() { Default::default() } else { model.excluded(pod, &volumes) };
        let awaited = self.nominations.awaited(pod, now);
        let penalties = self.upkeep.avoided(&pod.uid().unwrap_or_default(), now);
        // The node others are preempted on for this pod is the one to go to, whatever was before.
        for node in penalties.into_iter().filter(|n| bound.is_none() && awaited != Some(n.as_str())) {
            excluded.nodes.entry(node).or_insert(NodeExclusion("RejectedByScheduler".to_owned()));
        }
        Demand {
            room: if bound.is_some() { Default::default() } else { pod::room(pod) },
            requests: Vec::new(),
            constraints: Vec::new(),
            node_policy: Policy::Binpack,
            only_node: bound.or(waiting.node.as_deref()).or(awaited).map(str::to_owned),
            excluded,
        }
    }
}

/// A pod's demand with the requests of its claims one after the other.
fn joined(asked: &[&Asked], mut demand: Demand) -> Demand {
    for claim in asked {
        let before = demand.requests.len();
        demand.requests.extend(claim.requests.iter().cloned());
        demand.constraints.extend(
            claim.constraints.iter().map(|c| Constraint {
                requests: c.requests.iter().map(|r| r + before).collect(),
                ..c.clone()
            }),
        );
    }
    demand
}
