//! The writes to claims and pods, next to an unmodified kube-scheduler.
//!
//! A claim goes Pending -> Guarded (finalizer) -> Allocated (ours) -> Reserved (the scheduler's). An allocation is set or
//! cleared, never edited, and only with the resourceVersion that showed the finalizer. `reservedFor` is never ours.
//!
//! | what fails | what is left | who repairs it |
//! |---|---|---|
//! | we die between finalizer and status | a guarded claim without allocation | the next pass plans it |
//! | conflict on either write | nothing of ours | the pod alone is planned again |
//! | no answer to the allocation | it took, or may take yet | asked and fenced: [`settle`] |
//! | we die between the last claim and the gate | an allocated, gated pod, perhaps nominated | the next pass takes the gate |
//! | the pod goes before it is reserved | an allocation nobody uses | taken back after a fresh look |
//!
//! `allocationTimestamp` is always written: the scheduler would add it later, the API server refuses any change of a set
//! allocation, and the pod would never bind. Source: resource.k8s.io/v1, KEP-5075; seen on 1.36.3.

use std::sync::Arc;

use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::api::resource::v1::DeviceToleration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use vgpu_allocator::PlacedShare;
use vgpu_api::names::{CLAIM_FINALIZER, CORES, DRIVER, GATE, MEMORY, MEMORY_PERCENT, SHARES, pool};
use vgpu_api::{MIB, Quantity};

use crate::claim::Claim;
use crate::pod::Pod;
use crate::{WRITE_DEADLINE, pod};

/// A write that did not take.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else was first, or the object is gone.
    #[error("{what} {object}: it changed meanwhile")]
    Conflict {
        /// What was tried.
        what: &'static str,
        /// Namespace and name.
        object: String,
    },
    /// No answer in time; it may have taken.
    #[error("{what} {object}: no answer in {WRITE_DEADLINE:?}")]
    Timeout {
        /// What was tried.
        what: &'static str,
        /// Namespace and name.
        object: String,
    },
    /// The controller ends; it was not tried.
    #[error("allocate claim {object}: this controller ends")]
    Stopped {
        /// Name.
        object: String,
    },
    /// The API server refused.
    #[error("{what} {object}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Namespace and name.
        object: String,
        /// Its words.
        source: Box<kube::Error>,
    },
}

/// One claim with what it gets.
#[derive(Debug, Clone)]
pub struct Grant {
    /// As last seen.
    pub claim: Arc<Claim>,
    /// Its shares, in the order of its requests.
    pub shares: Vec<PlacedShare>,
    /// Percent of memory a request asked for, by request; written as consumed beside the bytes.
    pub percents: Vec<(String, u32)>,
    /// Configuration, class first.
    pub config: Vec<Value>,
    /// What requests tolerate, by request; Kubernetes ends pods on a GPU with a taint by these.
    pub tolerations: Vec<(String, Vec<DeviceToleration>)>,
}

async fn timed<T>(
    what: &'static str,
    object: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WriteError> {
    let object = object.to_owned();
    match tokio::time::timeout(WRITE_DEADLINE, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            Err(WriteError::Conflict { what, object })
        }
        Ok(Err(source)) => Err(WriteError::Refused { what, object, source: Box::new(source) }),
        Err(_) => Err(WriteError::Timeout { what, object }),
    }
}

fn path<K: ResourceExt>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

fn claims(client: &Client, claim: &Claim) -> Api<Claim> {
    Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default())
}

/// The status an allocation is.
pub fn allocation(
    node: &str,
    grant: &Grant,
    now: jiff::Timestamp,
    share_id: &mut dyn FnMut() -> String,
) -> Value {
    let result = |share: &PlacedShare| {
        let mut result = json!({
            "request": share.request, "driver": DRIVER, "pool": pool(node), "device": share.gpu,
        });
        if let Some((_, list)) = grant.tolerations.iter().find(|(request, _)| *request == share.request) {
            result["tolerations"] = json!(list);
        }
        if share.looks_only() {
            result["adminAccess"] = true.into();
            return result;
        }
        let percent = grant.percents.iter().find(|(request, _)| *request == share.request).map_or(0, |p| p.1);
        result["shareID"] = share_id().into();
        result["consumedCapacity"] = json!({
            MEMORY: Quantity::bytes(share.memory / MIB * MIB).to_string(),
            MEMORY_PERCENT: percent.to_string(),
            CORES: share.cores.to_string(),
            SHARES: "1",
        });
        result
    };
    let results: Vec<Value> = grant.shares.iter().map(result).collect();
    let seconds = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!({
        "allocationTimestamp": seconds.to_string(),
        "devices": {"results": results, "config": grant.config},
        "nodeSelector": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]},
    })
}

/// Whether a claim has the finalizer without which it is not allocated.
pub fn is_guarded(claim: &Claim) -> bool {
    claim.finalizers().iter().any(|f| f == CLAIM_FINALIZER)
}

/// Guards and allocates a claim; gives it as stored.
///
/// # Errors
/// [`WriteError`].
pub async fn allocate(client: &Client, node: &str, grant: &Grant) -> Result<Claim, WriteError> {
    let (api, name, object) = (claims(client, &grant.claim), grant.claim.name_any(), path(&*grant.claim));
    let mut guarded = (*grant.claim).clone();
    if !is_guarded(&guarded) {
        let mut finalizers = guarded.finalizers().to_vec();
        finalizers.push(CLAIM_FINALIZER.to_owned());
        let patch =
            json!({"metadata": {"resourceVersion": guarded.resource_version(), "finalizers": finalizers}});
        let patch = Patch::Merge(patch);
        guarded = timed("guard claim", &object, api.patch(&name, &PatchParams::default(), &patch)).await?;
    }
    let allocation =
        allocation(node, grant, jiff::Timestamp::now(), &mut || uuid::Uuid::new_v4().to_string());
    let patch = json!({
        "metadata": {"resourceVersion": guarded.resource_version()},
        "status": {"allocation": allocation},
    });
    let patch = Patch::Merge(patch);
    timed("allocate claim", &object, api.patch_status(&name, &PatchParams::default(), &patch)).await
}

/// Clears an allocation nobody has reserved; with `unguard` the finalizer goes too.
///
/// # Errors
/// [`WriteError`]; a claim that was reserved meanwhile is a conflict.
pub async fn clear(client: &Client, claim: &Claim, unguard: bool) -> Result<Claim, WriteError> {
    let (api, name, object) = (claims(client, claim), claim.name_any(), path(claim));
    let patch = json!({
        "metadata": {"resourceVersion": claim.resource_version()},
        "status": {"allocation": null},
    });
    let patch = Patch::Merge(patch);
    let cleared =
        timed("clear claim", &object, api.patch_status(&name, &PatchParams::default(), &patch)).await?;
    if unguard { self::unguard(client, &cleared).await } else { Ok(cleared) }
}

async fn unguard(client: &Client, claim: &Claim) -> Result<Claim, WriteError> {
    let (api, name, object) = (claims(client, claim), claim.name_any(), path(claim));
    let finalizers: Vec<&String> = claim.finalizers().iter().filter(|f| *f != CLAIM_FINALIZER).collect();
    let patch = json!({"metadata": {"resourceVersion": claim.resource_version(), "finalizers": finalizers}});
    let patch = Patch::Merge(patch);
    timed("unguard claim", &object, api.patch(&name, &PatchParams::default(), &patch)).await
}

/// Finds out what became of an allocation without an answer. The claim, if it took; otherwise the guard is taken away,
/// which changes the version the allocation was sent with: from then on it cannot take.
///
/// # Errors
/// [`WriteError`]: still unknown, ask again.
pub async fn settle(client: &Client, claim: &Claim) -> Result<Option<Claim>, WriteError> {
    let (api, name, object) = (claims(client, claim), claim.name_any(), path(claim));
    let found = timed("read claim", &object, api.get_opt(&name)).await?;
    let Some(found) = found.filter(|f| f.uid() == claim.uid()) else { return Ok(None) };
    if crate::claim::is_allocated(&found) {
        return Ok(Some(found));
    }
    // Without the guard it was somebody else who took it: no allocation of that version is left to fear.
    if is_guarded(&found) {
        unguard(client, &found).await?;
    }
    Ok(None)
}

/// Tells where a pod is expected. kube-scheduler tries that node first, and does not have to write it before it binds
/// (KEP-5278): its own limit of writes per second goes to bindings.
///
/// # Errors
/// [`WriteError`].
pub async fn nominate(client: &Client, pod: &Pod, node: &str) -> Result<(), WriteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    // Another pod may have its name by now.
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": node}}));
    let (name, parameters) = (pod.name_any(), PatchParams::default());
    timed("nominate a node for pod", &path(pod), api.patch_status(&name, &parameters, &patch)).await.map(drop)
}

/// Takes back where a pod is expected, if nobody wrote to the pod since it was seen so.
///
/// # Errors
/// [`WriteError`]; a pod the scheduler has written to is a conflict: what it nominated may be for room it is making.
pub async fn forget_nomination(client: &Client, pod: &Pod) -> Result<(), WriteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let seen = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version()});
    let patch = Patch::Strategic(json!({"metadata": seen, "status": {"nominatedNodeName": null}}));
    let (name, parameters) = (pod.name_any(), PatchParams::default());
    timed("forget the node of pod", &path(pod), api.patch_status(&name, &parameters, &patch)).await.map(drop)
}

/// Takes our gate, and only ours, from a pod; gives the pod as stored. A pod without it is left alone.
///
/// # Errors
/// [`WriteError`].
pub async fn ungate(client: &Client, pod: &Pod) -> Result<Option<Pod>, WriteError> {
    if !pod::is_gated(pod) {
        return Ok(None);
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    // By its name, wherever in the list it is by now. Another pod may have this one's name.
    let gates = json!([{"$patch": "delete", "name": GATE}]);
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "spec": {"schedulingGates": gates}}));
    let (name, parameters) = (pod.name_any(), PatchParams::default());
    timed("take the gate from pod", &path(pod), api.patch(&name, &parameters, &patch)).await.map(Some)
}

/// Evicts a pod, budgets respected.
///
/// # Errors
/// [`WriteError`].
pub async fn evict(client: &Client, pod: &Pod) -> Result<(), WriteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    // Another pod may have its name by now.
    let this_one = Preconditions { uid: pod.uid(), resource_version: None };
    let eviction = Eviction {
        metadata: kube::core::ObjectMeta { name: Some(pod.name_any()), ..Default::default() },
        delete_options: Some(DeleteOptions { preconditions: Some(this_one), ..DeleteOptions::default() }),
    };
    let (name, parameters) = (pod.name_any(), PostParams::default());
    let call = api.create_subresource::<Eviction, Value>("eviction", &name, &parameters, &eviction);
    timed("evict pod", &path(pod), call).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_names_everything_the_scheduler_and_the_kubelet_need() {
        let share = PlacedShare {
            claim: "u".into(),
            request: "gpu".into(),
            gpu: "gpu-ab".into(),
            memory: 7500 * MIB,
            cores: 30,
            oversubscribed: Default::default(),
        };
        let grant = Grant {
            claim: Arc::new(Claim::default()),
            shares: vec![share],
            percents: vec![],
            config: vec![],
            tolerations: vec![],
        };
        let at = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let status = allocation("node-a", &grant, at, &mut || "id".to_owned());
        assert_eq!(status["allocationTimestamp"], "2026-01-02T03:04:05Z");
        assert_eq!(
            status["devices"]["results"][0],
            json!({
                "request": "gpu", "driver": "gpu.vgpu-dra.io", "pool": "node-a/gpu", "device": "gpu-ab", "shareID": "id",
                "consumedCapacity": {"memory": "7500Mi", "memoryPercent": "0", "cores": "30", "shares": "1"},
            })
        );
        let field = &status["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0];
        assert_eq!(field["values"], json!(["node-a"]));
    }
}
