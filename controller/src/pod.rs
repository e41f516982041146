//! Pure: what a pod asks of claims and nodes.

mod object;

use std::collections::BTreeSet;

use kube::ResourceExt;
use vgpu_allocator::Room;
use vgpu_api::Quantity;
use vgpu_api::names::{GANG, GANG_SIZE, GATE};

pub use object::{
    Alike, Amounts, Container, ContainerResources, Pod, PodCondition, PodSpec, PodStatus, Volume,
};

/// Annotation of a pod that a file on its node makes: evicting it ends nothing.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Name of the scheduler that pods have which name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// Annotations that are read of pods.
pub const ANNOTATIONS: [&str; 3] = [GANG, GANG_SIZE, MIRROR];

/// A claim as a pod names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRef {
    /// Name in the pod.
    pub name: String,
    /// Name of the ResourceClaim; `None` while its template has not made it yet.
    pub claim: Option<String>,
    /// Name of the template, if it comes from one.
    pub template: Option<String>,
}

/// Claims of a pod, in the order it names them.
pub fn claims(pod: &Pod) -> Vec<ClaimRef> {
    let statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_deref()).unwrap_or_default();
    let of_template = |name: &str| statuses.iter().find(|s| s.name == name)?.resource_claim_name.clone();
    let named = pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref()).unwrap_or_default();
    let claim = |c: &k8s_openapi::api::core::v1::PodResourceClaim| ClaimRef {
        name: c.name.clone(),
        claim: c.resource_claim_name.clone().or_else(|| of_template(&c.name)),
        template: c.resource_claim_template_name.clone(),
    };
    named.iter().map(claim).collect()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).into_iter().flatten();
    init.chain(spec.map(|s| s.containers.as_slice()).unwrap_or_default())
}

/// Containers (by index, init containers first) that use a request of a claim.
pub fn users(pod: &Pod, claim: &str, request: &str) -> BTreeSet<u32> {
    let uses = |container: &Container| {
        let claims = container.resources.as_ref().and_then(|r| r.claims.as_deref()).unwrap_or_default();
        claims.iter().any(|c| c.name == claim && c.request.as_deref().is_none_or(|r| r == request))
    };
    (0u32..).zip(containers(pod)).filter(|(_, c)| uses(c)).map(|(i, _)| i).collect()
}

/// CPU, memory and a place: the sum of the containers or the largest step of the initialisation, with overhead, as the
/// scheduler counts (init containers that restart run on beside what follows them).
pub fn room(pod: &Pod) -> Room {
    let Some(spec) = pod.spec.as_ref() else { return Room::default() };
    let of = |container: &Container| -> (u64, u64) {
        counted(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
    };
    let add = |a: (u64, u64), b: (u64, u64)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1));
    let max = |a: (u64, u64), b: (u64, u64)| (a.0.max(b.0), a.1.max(b.1));
    let (mut sidecars, mut peak) = ((0, 0), (0, 0));
    for container in spec.init_containers.as_deref().into_iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = add(sidecars, of(container));
            peak = max(peak, sidecars);
        } else {
            peak = max(peak, add(sidecars, of(container)));
        }
    }
    let running = spec.containers.iter().map(of).fold(sidecars, add);
    let (cpu_milli, memory) = add(max(peak, running), counted(spec.overhead.as_ref()));
    Room { cpu_milli, memory, pods: 1 }
}

/// Thousandths of a core, and bytes.
fn counted(amounts: Option<&Amounts>) -> (u64, u64) {
    let read = |of: fn(&Amounts) -> Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        amounts.and_then(of).and_then(|q| q.0.parse::<Quantity>().ok())
    };
    (
        read(|a| a.cpu.as_ref()).map_or(0, |q| q.milli_value().max(0) as u64),
        read(|a| a.memory.as_ref()).map_or(0, |q| q.value().max(0) as u64),
    )
}

/// Node it is bound to.
pub fn bound_to(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether it has ended.
pub fn is_done(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed")
}

/// Whether it is being deleted.
pub fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn gates(pod: &Pod) -> impl Iterator<Item = &str> {
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
    gates.iter().map(|g| g.name.as_str())
}

/// Whether it has our gate.
pub fn is_gated(pod: &Pod) -> bool {
    gates(pod).any(|g| g == GATE)
}

/// Whether somebody else still holds it back.
pub fn has_other_gates(pod: &Pod) -> bool {
    gates(pod).any(|g| g != GATE)
}

/// Whether the scheduler has said that it cannot be scheduled.
pub fn is_refused(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| {
        c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() != Some("SchedulingGated")
    })
}

/// The scheduler that is to bind it, if it is not kube-scheduler under its usual name.
pub fn other_scheduler(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.scheduler_name.as_deref().filter(|name| !["", DEFAULT_SCHEDULER].contains(name))
}

/// Node it is expected on, by whomever: the controller, or the scheduler before it binds it or while others end for it.
pub fn nominated(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
}

/// Pods that get all their claims or none, by their annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gang {
    /// Name in the namespace.
    pub name: String,
    /// Pods it takes.
    pub size: u32,
}

/// The gang a pod names. Error: what is wrong with its annotations, with the cure.
pub fn gang(pod: &Pod) -> Option<Result<Gang, String>> {
    let (name, size) = (pod.annotations().get(GANG), pod.annotations().get(GANG_SIZE));
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        let alone =
            || format!("metadata.annotations[{GANG_SIZE}] without {GANG}: name the gang or remove the size");
        return size.map(|_| Err(alone()));
    };
    let number = size.and_then(|s| s.parse::<u32>().ok()).filter(|n| *n > 0);
    Some(number.map(|size| Gang { name: name.clone(), size }).ok_or_else(|| {
        let given = size.map_or_else(|| "is missing".to_owned(), |s| format!("is {s:?}"));
        format!("metadata.annotations[{GANG_SIZE}] {given}: write how many pods gang {name} takes, from 1")
    }))
}

/// Who comes first: higher priority, then older, then by name.
pub fn order<'a>(a: &'a Pod, b: &'a Pod) -> std::cmp::Ordering {
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let name = |p: &'a Pod| (p.metadata.namespace.as_deref(), p.metadata.name.as_deref());
    priority(b)
        .cmp(&priority(a))
        .then_with(|| created(a).cmp(&created(b)))
        .then_with(|| name(a).cmp(&name(b)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}})
    }

    #[test]
    fn room_is_the_larger_of_running_and_starting() {
        let mut sidecar = container("300m");
        sidecar["restartPolicy"] = "Always".into();
        let p = pod(json!({
            "initContainers": [sidecar, container("1500m")],
            "containers": [container("500m"), container("500m")],
            "overhead": {"cpu": "50m"},
        }));
        assert_eq!(room(&p), Room { cpu_milli: 1850, memory: 3 << 30, pods: 1 });
    }

    #[test]
    fn users_of_a_request_are_those_that_name_it_or_its_whole_claim() {
        let with = |claims: serde_json::Value| json!({"name": "c", "resources": {"claims": claims}});
        let p = pod(json!({"containers": [
            with(json!([{"name": "gpu"}])),
            with(json!([{"name": "gpu", "request": "small"}])),
            with(json!([{"name": "other"}])),
        ]}));
        assert_eq!(users(&p, "gpu", "large"), BTreeSet::from([0]));
        assert_eq!(users(&p, "gpu", "small"), BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_gang_has_a_name_and_a_size_or_is_refused_with_the_cure() {
        let with = |annotations: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "annotations": annotations}})).unwrap()
        };
        assert_eq!(gang(&with(json!({}))), None);
        let good = gang(&with(json!({GANG: "train", GANG_SIZE: "4"})));
        assert_eq!(good, Some(Ok(Gang { name: "train".into(), size: 4 })));
        for (annotations, words) in [
            (json!({GANG: "train"}), "vgpu-dra.io/gang-size] is missing"),
            (json!({GANG: "train", GANG_SIZE: "0"}), "is \"0\": write how many pods gang train takes"),
            (json!({GANG_SIZE: "4"}), "name the gang or remove the size"),
        ] {
            let why = gang(&with(annotations)).unwrap().unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_template_gives_its_claim_when_it_is_made() {
        let mut p = pod(
            json!({"containers": [], "resourceClaims": [{"name": "a", "resourceClaimTemplateName": "t"}]}),
        );
        assert_eq!(claims(&p)[0].claim, None);
        p.status = serde_json::from_value(
            json!({"resourceClaimStatuses": [{"name": "a", "resourceClaimName": "p-a-x"}]}),
        )
        .unwrap();
        assert_eq!(claims(&p)[0].claim.as_deref(), Some("p-a-x"));
    }
}
