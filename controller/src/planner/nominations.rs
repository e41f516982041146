//! Nodes kube-scheduler makes room on: it refuses a pod, ends others of lower priority and nominates the node.
//!
//! A pod that was not refused, or that may preempt nobody, can be nominated too: the controller does so for the node it gives
//! a pod (KEP-5278), and the scheduler before it binds. Nobody ends for those.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use crate::pod::{self, Pod};
use crate::preemption;

/// So long a refused pod may be nominated to a node on which nobody is ending: evictions take a moment to begin, and the
/// scheduler takes one to come back when they are over. Without its preemption it would leave the name there for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is remembered between passes. Losing it costs time and nothing else.
#[derive(Default)]
pub(super) struct Nominations {
    /// Pods (UIDs) with their nodes, and since when nobody ends there.
    waiting: HashMap<String, (String, Instant)>,
}

impl Nominations {
    /// Takes in all pods as they are.
    pub(super) fn look(&mut self, pods: &[Arc<Pod>], now: Instant) {
        let ending: HashSet<&str> =
            pods.iter().filter(|p| pod::is_going(p)).filter_map(|p| pod::bound_to(p)).collect();
        let mut before = std::mem::take(&mut self.waiting);
        for pod in pods.iter().filter(|p| may_wait(p)) {
            let (Some(node), Some(uid)) = (pod::nominated(pod), pod.uid()) else { continue };
            let known = before.remove(&uid).filter(|(on, _)| on == node && !ending.contains(node));
            self.waiting.insert(uid, known.unwrap_or_else(|| (node.to_owned(), now)));
        }
    }

    /// Node on which room is being made for a pod.
    pub(super) fn awaited(&self, pod: &Pod, now: Instant) -> Option<&str> {
        let (node, since) = self.waiting.get(pod.metadata.uid.as_ref()?)?;
        (now.saturating_duration_since(*since) < PATIENCE).then_some(node.as_str())
    }
}

fn may_wait(pod: &Pod) -> bool {
    pod::bound_to(pod).is_none() && pod::is_refused(pod) && !pod::is_going(pod) && !preemption::never(pod)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value, status: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": spec, "status": status});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn refused() -> Value {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"});
        json!({"nominatedNodeName": "node-a", "conditions": [condition]})
    }

    fn ending_on(node: &str) -> Arc<Pod> {
        let mut pod = Pod::clone(&pod("victim", json!({"nodeName": node}), json!({})));
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        Arc::new(pod)
    }

    #[test]
    fn only_a_refused_pod_that_may_preempt_waits_for_room() {
        let now = Instant::now();
        let mut nominations = Nominations::default();
        let expected = pod("expected", json!({}), json!({"nominatedNodeName": "node-a"}));
        let meek = pod("meek", json!({"preemptionPolicy": "Never"}), refused());
        let strong = pod("strong", json!({}), refused());
        nominations.look(&[expected.clone(), meek.clone(), strong.clone()], now);
        assert_eq!(nominations.awaited(&expected, now), None);
        assert_eq!(nominations.awaited(&meek, now), None);
        assert_eq!(nominations.awaited(&strong, now), Some("node-a"));
    }

    #[test]
    fn it_waits_as_long_as_somebody_ends_there_and_a_moment_more() {
        let start = Instant::now();
        let mut nominations = Nominations::default();
        let strong = pod("strong", json!({}), refused());
        let long = start + PATIENCE * 100;
        for at in [start, long] {
            nominations.look(&[strong.clone(), ending_on("node-a")], at);
            assert_eq!(nominations.awaited(&strong, at), Some("node-a"));
        }
        for (later, awaited) in [(PATIENCE / 2, Some("node-a")), (PATIENCE, None)] {
            nominations.look(&[strong.clone(), ending_on("node-b")], long + later);
            assert_eq!(nominations.awaited(&strong, long + later), awaited);
        }
    }
}
