//! The Pod as the controller knows it: what is read of pods and nothing else, under the names of the API.
//!
//! There are many pods, and the API's own type takes ten times the memory: a volume alone, which every pod has for its
//! token, three kilobytes. What pods of one template have alike is there once ([`Shared`]).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, PersistentVolumeClaimVolumeSource, PodResourceClaim, PodResourceClaimStatus, PodSchedulingGate,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::kind::kind;
use crate::shared::{Copies, Shared};

/// `core/v1` Pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Its name, labels and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: Option<PodSpec>,
    /// What became of it.
    #[serde(default)]
    pub status: Option<PodStatus>,
}

/// What is asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it may go.
    pub affinity: Option<Shared<Affinity>>,
    /// Containers.
    pub containers: Shared<Vec<Container>>,
    /// Containers that run before them, or beside them if they restart always.
    pub init_containers: Option<Shared<Vec<Container>>>,
    /// Node it is bound to.
    pub node_name: Option<String>,
    /// Labels its node must have.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// What it takes beside its containers.
    pub overhead: Option<Amounts>,
    /// Whether others may go for it.
    pub preemption_policy: Option<String>,
    /// Of its PriorityClass.
    pub priority: Option<i32>,
    /// Claims it names.
    pub resource_claims: Option<Vec<PodResourceClaim>>,
    /// Who binds it.
    pub scheduler_name: Option<Box<str>>,
    /// What holds it back.
    pub scheduling_gates: Option<Vec<PodSchedulingGate>>,
    /// Taints of nodes it does not mind.
    pub tolerations: Option<Shared<Vec<Toleration>>>,
    /// Volumes.
    pub volumes: Option<Vec<Volume>>,
}

/// One container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// What it takes.
    pub resources: Option<ContainerResources>,
    /// Of an init container: `Always` if it is a sidecar.
    pub restart_policy: Option<String>,
}

/// What a container takes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerResources {
    /// Claims of the pod it uses.
    pub claims: Option<Vec<k8s_openapi::api::core::v1::ResourceClaim>>,
    /// Room.
    pub requests: Option<Amounts>,
}

/// What is counted of a node's room.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// Cores.
    pub cpu: Option<Quantity>,
    /// Bytes.
    pub memory: Option<Quantity>,
}

/// A volume, if it is of a claim.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// The claim.
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// What is true of it.
    pub conditions: Option<Vec<PodCondition>>,
    /// Node for which others are being preempted.
    pub nominated_node_name: Option<String>,
    /// Pending, Running, Succeeded, Failed.
    pub phase: Option<String>,
    /// Claims that were made of its templates.
    pub resource_claim_statuses: Option<Vec<PodResourceClaimStatus>>,
}

/// Something that is true of a pod, or not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    /// For people.
    pub message: Option<String>,
    /// CamelCase.
    pub reason: Option<String>,
    /// True, False or Unknown.
    pub status: String,
    /// `PodScheduled` and so on.
    #[serde(rename = "type")]
    pub type_: String,
}

kind!(Pod, "v1", "", "Pod", "pods", NamespaceResourceScope);

/// What pods have alike.
#[derive(Debug, Default)]
pub struct Alike {
    affinities: Copies<Affinity>,
    containers: Copies<Vec<Container>>,
    tolerations: Copies<Vec<Toleration>>,
}

impl Pod {
    /// Leaves away what need not be remembered: annotations but these, volumes of no claim, conditions but that the scheduler
    /// refused it, and of a pod on a node what told where it may go. Shares with other pods what they have alike.
    pub fn reduce(&mut self, annotations: &[&str], alike: &mut Alike) {
        self.metadata.generate_name = None;
        if let Some(all) = &mut self.metadata.annotations {
            all.retain(|key, _| annotations.contains(&key.as_str()));
        }
        self.metadata.annotations.take_if(|all| all.is_empty());
        if let Some(spec) = &mut self.spec {
            spec.volumes.iter_mut().for_each(|v| v.retain(|v| v.persistent_volume_claim.is_some()));
            spec.volumes.take_if(|volumes| volumes.is_empty());
            if spec.node_name.as_deref().is_some_and(|node| !node.is_empty()) {
                (spec.affinity, spec.node_selector, spec.tolerations) = (None, None, None);
            }
            alike.containers.share(&mut spec.containers);
            spec.init_containers.iter_mut().for_each(|containers| alike.containers.share(containers));
            spec.affinity.iter_mut().for_each(|affinity| alike.affinities.share(affinity));
            spec.tolerations.iter_mut().for_each(|tolerations| alike.tolerations.share(tolerations));
            // Nearly every pod has the usual one.
            spec.scheduler_name.take_if(|name| **name == *super::DEFAULT_SCHEDULER);
        }
        if let Some(conditions) = self.status.as_mut().and_then(|s| s.conditions.as_mut()) {
            conditions.retain(|c| c.type_ == "PodScheduled" && c.status != "True");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_of_pods_stays_and_the_rest_goes() {
        let given = json!({
            "metadata": {"name": "p", "labels": {"app": "a"}, "annotations": {"keep": "1", "drop": "2"}},
            "spec": {
                "nodeName": "n", "schedulerName": "default-scheduler", "tolerations": [{"key": "k"}], "priority": 7,
                "volumes": [{"name": "token", "projected": {}},
                            {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}, "limits": {}}}],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"},
                                                          {"type": "PodScheduled", "status": "False"}]},
        });
        let mut pod: Pod = serde_json::from_value(given).unwrap();
        pod.reduce(&["keep"], &mut Alike::default());
        let of = |value: serde_json::Value, at: &str| value.pointer(at).cloned().unwrap_or_default();
        let left = serde_json::to_value(&pod).unwrap();
        assert_eq!(of(left.clone(), "/metadata/annotations"), json!({"keep": "1"}));
        assert_eq!(of(left.clone(), "/spec/schedulerName"), json!(null));
        assert_eq!(of(left.clone(), "/metadata/labels"), json!({"app": "a"}));
        assert_eq!(of(left.clone(), "/spec/containers/0/resources/requests/cpu"), json!("1"));
        assert_eq!(of(left.clone(), "/spec/volumes/0/persistentVolumeClaim/claimName"), json!("c"));
        assert_eq!(of(left.clone(), "/spec/volumes/1"), json!(null));
        assert_eq!(
            (of(left.clone(), "/spec/tolerations"), of(left.clone(), "/spec/priority")),
            (json!(null), json!(7))
        );
        assert_eq!(of(left.clone(), "/status/conditions/0/type"), json!("PodScheduled"));
        assert_eq!(of(left, "/status/phase"), json!("Running"));
    }
}
