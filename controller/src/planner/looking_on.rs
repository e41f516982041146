//! A pass where kube-scheduler allocates: slices are published, nobody is held back, and what the scheduler would not heed
//! is said.

use std::sync::Arc;

use kube::ResourceExt;
use tokio::time::Instant;

use super::Planner;
use crate::claim;
use crate::model::Model;
use crate::pod::Pod;
use crate::{gate, pod, scheduler_mode};

impl Planner {
    pub(super) async fn look_on(&mut self) {
        self.publisher.sync(&self.stores, &self.writer.events).await;
        self.gate.sync(&self.stores, &|_| false).await;
        let kept = std::mem::take(&mut self.kept);
        let mut model = Model::build(&self.stores, &mut self.shapes, self.hami_quotas, kept);
        model.complete();
        let ours = self.our_classes(&model);
        let now = Instant::now();
        let mut pods = self.stores.pods.state();
        pods.sort_by(|a, b| pod::order(a, b));
        for pod in pods.iter().filter(|p| !pod::is_going(p) && !pod::is_done(p)) {
            if pod::bound_to(pod).is_some() {
                continue;
            }
            // From the time when the controller allocated.
            if pod::is_gated(pod) && !self.writing.contains(&pod.uid().unwrap_or_default()) {
                self.take_gate(pod, None, now);
            }
            self.say_unheeded(pod, &|class| ours.contains(class));
        }
        self.take_back(&model, now);
        self.check_overcommitment(&model, now);
        self.keep_only_what_is_there(&pods, &model);
        self.kept = model.keep();
    }

    fn say_unheeded(&mut self, pod: &Arc<Pod>, is_ours: &dyn Fn(&str) -> bool) {
        let namespace = pod.namespace().unwrap_or_default();
        let named = pod::claims(pod).into_iter().filter_map(|c| c.claim);
        let claims: Vec<_> = named.filter_map(|c| self.stores.claims.get_in(&namespace, &c)).collect();
        let (mut any, stores) = (None, self.stores.classes.clone());
        for claim in &claims {
            if !gate::classes(claim.spec.devices.as_ref()).into_iter().any(is_ours) {
                continue;
            }
            any = Some(claim.clone());
            if claim::is_allocated(claim) {
                continue;
            }
            let class = |name: &str| stores.get(name);
            if let Some(unheeded) = scheduler_mode::unheeded_claim(claim, &class) {
                self.say_invalid(pod, claim, &unheeded);
            }
        }
        if let (Some(claim), Some(unheeded)) = (any, scheduler_mode::unheeded_pod(pod)) {
            self.say_invalid(pod, &claim, &unheeded);
        }
    }
}
