//! Answers to people: the same decisions on a snapshot, with nothing written.

use std::sync::Arc;

use kube::{Client, ResourceExt};
use tokio::time::Instant;
use vgpu_allocator::{Demand, NodeReason, Refusal};

use super::Planner;
use super::deciding::{Decision, No};
use super::standing::{Standing, Waiting};
use crate::args::Allocator;
use crate::claim;
use crate::explanation::{Explanation, NodeAnswer, Outcome};
use crate::metrics::Metrics;
use crate::model::{self, Model};
use crate::pod::{self, Pod};
use crate::snapshot::Snapshot;
use crate::stores::Stores;

impl Planner {
    /// On what a snapshot holds. The client is never used. Must be made inside a tokio runtime.
    pub fn over(snapshot: Snapshot, client: Client) -> Self {
        let defaults = snapshot.defaults;
        let stores = Stores::of(snapshot, client.clone());
        let metrics = Arc::new(Metrics::default());
        let planner = Self::new(client, stores, defaults.placement(), Allocator::Controller, metrics);
        Self { hami_quotas: defaults.hami_quotas, ..planner }
    }

    /// What is to be said of the pods that `is_asked` takes, in the order the controller looks at them. Pods that wait before
    /// them are given their places first, as the controller would.
    pub fn explain(&mut self, is_asked: &dyn Fn(&Pod) -> bool) -> Vec<Explanation> {
        let mut model =
            Model::build(&self.stores, &mut self.shapes, self.hami_quotas, model::Kept::default());
        let ours = self.our_classes(&model);
        let now = Instant::now();
        let mut pods = self.stores.pods.state();
        pods.sort_by(|a, b| pod::order(a, b));
        self.nominations.look(&pods, now);
        let (mut explained, mut waiting) = (Vec::new(), Vec::new());
        for pod in pods.iter().filter(|p| !pod::is_going(p) && !pod::is_done(p)) {
            let asked = is_asked(pod);
            match self.standing(pod, &ours) {
                Standing::Waiting(found) => waiting.push(found),
                Standing::Allocated { claims, node } => {
                    let on = pod::bound_to(pod).unwrap_or(&node).to_owned();
                    model.hold_pod(pod, &on);
                    self.learn_of(pod, &claims, &ours);
                    let results = claims.iter().flat_map(|c| claim::own_results(c));
                    let gpus: Vec<String> = results.map(|r| r.device.clone()).collect();
                    if asked {
                        let state = if pod::bound_to(pod).is_some() { "bound" } else { "not bound yet" };
                        let note = format!("its claims are allocated on {node}; it is {state}");
                        explained.push(Explanation {
                            node: Some(on),
                            gpus,
                            ..say(pod, Outcome::Allocated, note)
                        });
                    }
                }
                Standing::Invalid(claim, invalid) if asked => {
                    let note = format!("ResourceClaim {}: {}", claim.name_any(), invalid.note);
                    explained.push(say(pod, Outcome::Invalid, note));
                }
                Standing::Aside if asked => explained.push(aside(pod)),
                Standing::Invalid(..) | Standing::Aside => {}
            }
        }
        for found in waiting {
            let decision = self.decide(&mut model, &found, &ours, now, 0).map(|(decision, _)| decision);
            if is_asked(&found.pod) {
                explained.push(self.answer(&mut model, &found, &decision));
            }
            if let Ok(decision) = decision {
                decision.hold(&mut model, &found);
            }
        }
        explained
    }

    fn answer(&self, model: &mut Model, waiting: &Waiting, decision: &Result<Decision, No>) -> Explanation {
        let pod = &waiting.pod;
        match decision {
            Ok(decision) => Explanation {
                node: Some(decision.placed.node.clone()),
                gpus: decision.placed.shares.iter().map(|s| s.gpu.clone()).collect(),
                nodes: self.nodes(model, std::slice::from_ref(&decision.demand)),
                ..say(pod, Outcome::Fits, decision.note())
            },
            Err(No::NotPlaced(demands, why)) => {
                Explanation { nodes: self.nodes(model, demands), ..say(pod, Outcome::NotPlaced, why.clone()) }
            }
            Err(No::QuotaExceeded(why)) => say(pod, Outcome::QuotaExceeded, why.clone()),
            Err(No::Invalid(claim, invalid)) => {
                say(pod, Outcome::Invalid, format!("ResourceClaim {}: {}", claim.name_any(), invalid.note))
            }
            Err(No::NotYet) => say(pod, Outcome::Waits, "something else holds it back".to_owned()),
        }
    }

    /// What each node with GPUs says to the first of these ways it can take, or to the last.
    fn nodes(&self, model: &mut Model, ways: &[Demand]) -> Vec<NodeAnswer> {
        let mut sizes: std::collections::BTreeMap<String, u32> = Default::default();
        for slice in self.stores.slices.state() {
            let gpus = slice.spec.devices.as_ref().map_or(0, Vec::len);
            let node = slice.spec.node_name.clone().unwrap_or_default();
            *sizes.entry(node).or_default() += u32::try_from(gpus).unwrap_or(u32::MAX);
        }
        let mut answers = Vec::new();
        for (node, gpus) in sizes {
            let mut said = None;
            for way in ways {
                said = Some(if way.only_node.as_ref().is_some_and(|only| *only != node) {
                    Err("the pod can go to another node only".to_owned())
                } else {
                    let demand = Demand { only_node: Some(node.clone()), ..way.clone() };
                    model.cluster.plan(&demand).map_err(|refusal| of_one_node(refusal, gpus))
                });
                if matches!(said, Some(Ok(_))) {
                    break;
                }
            }
            let Some(said) = said else { continue };
            answers.push(match said {
                Ok(placed) => (
                    placed.score.0,
                    NodeAnswer {
                        node,
                        fits: true,
                        score: Some(placed.score.to_string()),
                        gpus: placed.shares.into_iter().map(|s| s.gpu).collect(),
                        note: String::new(),
                    },
                ),
                Err(note) => (0, NodeAnswer { node, fits: false, score: None, gpus: Vec::new(), note }),
            });
        }
        answers.sort_by(|(a, x), (b, y)| (!x.fits, b, &x.node).cmp(&(!y.fits, a, &y.node)));
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

fn say(pod: &Pod, outcome: Outcome, note: String) -> Explanation {
    let namespace = pod.namespace().unwrap_or_default();
    Explanation {
        namespace,
        pod: pod.name_any(),
        outcome,
        note,
        node: None,
        gpus: Vec::new(),
        nodes: Vec::new(),
    }
}

fn aside(pod: &Pod) -> Explanation {
    let claims = pod::claims(pod);
    let missing: Vec<&str> = claims.iter().filter(|c| c.claim.is_none()).map(|c| c.name.as_str()).collect();
    if missing.is_empty() {
        let note = "none of its claims is of a DeviceClass of this driver, or one of them does not exist";
        return say(pod, Outcome::NotOurs, note.to_owned());
    }
    let note =
        format!("spec.resourceClaims {}: the claim of the template is not made yet", missing.join(", "));
    say(pod, Outcome::Waits, note)
}

/// A refusal of the whole cluster with one candidate, as the candidate's own.
fn of_one_node(mut refusal: Refusal, gpus: u32) -> String {
    refusal.gpus = gpus;
    refusal.node_reasons.remove(&NodeReason::NotTheNode);
    refusal.to_string()
}
