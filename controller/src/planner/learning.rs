//! The mix of requests that LeastFragmentation places by: of every pod with shares that is, or was, there.
//!
//! Nothing of it is stored. A controller that starts counts the pods it finds, and goes on from there.

use std::collections::HashSet;
use std::sync::Arc;

use kube::ResourceExt;
use vgpu_allocator::{Demand, LESSON, Mix, Policy};

use super::Planner;
use crate::claim::Claim;
use crate::model::Model;
use crate::pod::{self, Pod};

/// What pods asked for so far.
#[derive(Default)]
pub(super) struct Learning {
    mix: Mix,
    /// Pods (UIDs) that are counted and not gone.
    counted: HashSet<String>,
    /// Pods counted since the model was taught last.
    news: u64,
}

impl Learning {
    /// Counts a pod once, whether it is placed or not.
    pub(super) fn count(&mut self, pod: &str, demand: &Demand) {
        if self.counted.insert(pod.to_owned()) {
            self.mix.arrived(demand);
            self.news += 1;
        }
    }

    /// Pods that are not alive have left.
    pub(super) fn keep_only(&mut self, alive: &HashSet<&str>) {
        let before = self.counted.len();
        self.counted.retain(|uid| alive.contains(uid.as_str()));
        (self.counted.len()..before).for_each(|_| self.mix.departed());
    }

    /// Hands what is known to the model when it is new, if the pod asks for a policy that needs it.
    pub(super) fn teach(&mut self, model: &mut Model, demand: &Demand) {
        let asks = demand.node_policy == Policy::LeastFragmentation
            || demand.requests.iter().any(|r| r.gpu_policy == Policy::LeastFragmentation);
        if asks && (self.mix.draw() || self.news >= LESSON || !model.taught) {
            (model.taught, self.news) = (true, 0);
            model.cluster.learn(&self.mix);
        }
    }
}

impl Planner {
    /// Counts a pod whose claims are allocated already, if it is not counted: it was placed before this controller began.
    pub(super) fn learn_of(&mut self, pod: &Pod, claims: &[Arc<Claim>], ours: &HashSet<String>) {
        let uid = pod.uid().unwrap_or_default();
        if self.learning.counted.contains(&uid) {
            return;
        }
        let ways = claims.iter().filter_map(|claim| self.read(claim, ours, &|_| true).ok());
        // What it likes best stands for it, as it does for a pod that is not placed yet.
        let first = ways.filter_map(|ways| ways.into_iter().next());
        let demand = Demand {
            room: pod::room(pod),
            requests: first.flat_map(|asked| asked.requests).collect(),
            constraints: Vec::new(),
            node_policy: Policy::Binpack,
            only_node: None,
            excluded: Default::default(),
        };
        self.learning.count(&uid, &demand);
    }
}
