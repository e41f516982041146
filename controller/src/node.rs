//! Pure: whether a node takes a pod, by everything but GPUs and room.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint};
use kube::ResourceExt;
use vgpu_allocator::{NodeExclusion, Room};
use vgpu_api::Quantity;

use crate::pod::Pod;

/// What the node has for pods.
pub fn room(node: &Node) -> Room {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let amount = |name: &str| -> Option<Quantity> { allocatable?.get(name)?.0.parse().ok() };
    Room {
        cpu_milli: amount("cpu").map_or(0, |q| q.milli_value().max(0) as u64),
        memory: amount("memory").map_or(0, |q| q.value().max(0) as u64),
        pods: amount("pods").map_or(0, |q| u32::try_from(q.value()).unwrap_or(0)),
    }
}

/// Label that tells a node from all others.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What [`exclusion`] sees of a node besides its name.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Traits {
    labels: BTreeMap<String, String>,
    /// Key, value, effect.
    taints: Vec<(String, Option<String>, String)>,
    unschedulable: bool,
    ready: bool,
}

/// Nodes of equal traits are alike to every pod that does not [ask for names](asks_for_names).
pub fn traits(node: &Node) -> Traits {
    let mut labels = node.labels().clone();
    labels.remove(HOSTNAME);
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
    Traits {
        labels,
        taints: taints.iter().map(|t| (t.key.clone(), t.value.clone(), t.effect.clone())).collect(),
        unschedulable: spec.is_some_and(|s| s.unschedulable == Some(true)),
        ready: is_ready(node),
    }
}

/// Whether a pod tells nodes apart by name.
pub fn asks_for_names(pod: &Pod, volumes: &[NodeSelector]) -> bool {
    let spec = pod.spec.as_ref();
    let wanted = spec.and_then(|s| s.node_selector.as_ref());
    let required = spec
        .and_then(|s| s.affinity.as_ref())
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let names = |term: &NodeSelectorTerm| {
        let labels = term.match_expressions.as_deref().unwrap_or_default();
        term.match_fields.as_deref().is_some_and(|f| !f.is_empty())
            || labels.iter().any(|r| r.key == HOSTNAME)
    };
    wanted.is_some_and(|w| w.contains_key(HOSTNAME))
        || required.into_iter().chain(volumes).any(|s| s.node_selector_terms.iter().any(names))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Why a pod may not go there; `None` if it may.
pub fn exclusion(node: &Node, pod: &Pod, volumes: &[NodeSelector]) -> Option<NodeExclusion> {
    let because = |reason: &str| Some(NodeExclusion(reason.to_owned()));
    if !is_ready(node) {
        return because("NotReady");
    }
    let spec = pod.spec.as_ref();
    let tolerations = spec.and_then(|s| s.tolerations.as_deref()).map(Vec::as_slice).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let unschedulable = node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true));
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let repels = |taint: &Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|t| {
                let key = t.key.as_deref().unwrap_or_default();
                let effect = t.effect.as_deref().unwrap_or_default();
                let exists = t.operator.as_deref() == Some("Exists");
                (effect.is_empty() || effect == taint.effect)
                    && ((key.is_empty() && exists) || key == taint.key)
                    && (exists
                        || t.value.as_deref().unwrap_or_default()
                            == taint.value.as_deref().unwrap_or_default())
            })
    };
    if unschedulable && repels(&cordon) {
        return because("Unschedulable");
    }
    if taints.iter().any(repels) {
        return because("Tainted");
    }
    let wanted = spec.and_then(|s| s.node_selector.as_ref());
    if wanted.is_some_and(|w| w.iter().any(|(key, value)| node.labels().get(key) != Some(value))) {
        return because("NodeSelectorMismatch");
    }
    let required = spec
        .and_then(|s| s.affinity.as_ref())
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    if required.is_some_and(|selector| !selects(selector, node)) {
        return because("NodeAffinityMismatch");
    }
    if volumes.iter().any(|selector| !selects(selector, node)) {
        return because("VolumeElsewhere");
    }
    None
}

/// Whether a node selector selects a node: any of its terms, all of a term.
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches(term, node))
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.name_any();
    let of_field = |key: &str| (key == "metadata.name").then_some(name.as_str());
    // A term that says nothing selects nothing.
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|r| holds(r, node.labels().get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, of_field(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = || value.is_some_and(|v| values.iter().any(|w| w == v));
    let compare = |f: fn(i64, i64) -> bool| {
        let number = value.and_then(|v| v.parse().ok());
        let bound = values.first().and_then(|v| v.parse().ok());
        number.zip(bound).is_some_and(|(n, b)| f(n, b))
    };
    match requirement.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|n, b| n > b),
        "Lt" => compare(|n, b| n < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(extra: serde_json::Value) -> Node {
        let mut node = json!({
            "metadata": {"name": "node-a", "labels": {"zone": "1", "gpus": "4"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": "2", "memory": "8Gi", "pods": "110"}},
        });
        node["spec"] = extra;
        serde_json::from_value(node).unwrap()
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[track_caller]
    fn check(node_spec: serde_json::Value, pod_spec: serde_json::Value, want: Option<&str>) {
        let found = exclusion(&node(node_spec), &pod(pod_spec), &[]).map(|e| e.0);
        assert_eq!(found.as_deref(), want);
    }

    #[test]
    fn room_is_what_pods_may_have() {
        assert_eq!(room(&node(json!({}))), Room { cpu_milli: 2000, memory: 8 << 30, pods: 110 });
    }

    #[test]
    fn taints_repel_unless_tolerated() {
        let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        check(tainted.clone(), json!({}), Some("Tainted"));
        check(tainted.clone(), json!({"tolerations": [{"key": "k", "value": "v"}]}), None);
        check(tainted.clone(), json!({"tolerations": [{"key": "k", "value": "other"}]}), Some("Tainted"));
        check(tainted, json!({"tolerations": [{"operator": "Exists"}]}), None);
        check(json!({"unschedulable": true}), json!({}), Some("Unschedulable"));
    }

    #[test]
    fn selectors_and_affinity_are_obeyed() {
        check(json!({}), json!({"nodeSelector": {"zone": "2"}}), Some("NodeSelectorMismatch"));
        let affinity = |operator: &str, values: &[&str]| {
            let requirement = json!({"key": "gpus", "operator": operator, "values": values});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}})
        };
        check(json!({}), affinity("Gt", &["3"]), None);
        check(json!({}), affinity("Lt", &["3"]), Some("NodeAffinityMismatch"));
        check(json!({}), affinity("NotIn", &["4"]), Some("NodeAffinityMismatch"));
    }

    #[test]
    fn a_node_differs_by_name_only_to_pods_that_ask_for_names() {
        let named = |name: &str| {
            let mut found = node(json!({}));
            found.metadata.name = Some(name.into());
            found.metadata.labels.get_or_insert_default().insert(HOSTNAME.into(), name.into());
            found
        };
        assert_eq!(traits(&named("node-a")), traits(&named("node-b")));
        assert_ne!(traits(&named("node-a")), traits(&node(json!({"unschedulable": true}))));
        assert!(asks_for_names(&pod(json!({"nodeSelector": {HOSTNAME: "node-a"}})), &[]));
        assert!(!asks_for_names(&pod(json!({"nodeSelector": {"zone": "1"}})), &[]));
    }

    #[test]
    fn a_node_is_selected_by_its_name() {
        let by_name = json!({"nodeSelectorTerms": [{"matchFields":
            [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}]});
        let selector: NodeSelector = serde_json::from_value(by_name).unwrap();
        assert!(selects(&selector, &node(json!({}))));
    }
}
