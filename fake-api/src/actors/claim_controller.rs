//! kube-controller-manager's resourceclaim controller: makes claims of templates, frees those of pods that are done.
//!
//! Its code keys deallocation on the finalizer `resource.kubernetes.io/delete-protection`. A claim that is allocated and was
//! never reserved is left alone until it is deleted.

use serde_json::{Value, json};

use super::{CLAIMS, Task, claim_name, is_done, is_going, key, list, on_change, text};
use crate::kind::by_plural;
use crate::server::FakeApi;

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// The controller.
pub struct ClaimController {
    _task: Task,
}

impl ClaimController {
    /// Starts it.
    pub fn start(api: &FakeApi) -> Self {
        let seen = api.clone();
        Self { _task: on_change(api, move || pass(&seen)) }
    }
}

fn pass(api: &FakeApi) {
    for pod in api.objects("", "pods") {
        if !is_done(&pod) && !is_going(&pod) {
            make_claims(api, &pod);
            reserve_for_bound(api, &pod);
        }
    }
    for claim in api.objects(CLAIMS.0, CLAIMS.1) {
        sync(api, &claim);
    }
}

fn make_claims(api: &FakeApi, pod: &Value) {
    let (namespace, name) = key(pod);
    let mut statuses = list(&pod["status"]["resourceClaimStatuses"]).to_vec();
    let before = statuses.len();
    for entry in list(&pod["spec"]["resourceClaims"]) {
        let template = text(&entry["resourceClaimTemplateName"]);
        if template.is_empty() || !claim_name(pod, entry).is_empty() {
            continue;
        }
        let template =
            api.object(CLAIMS.0, "resourceclaimtemplates", &(namespace.clone(), template.to_owned()));
        let Some(template) = template else { continue };
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {
                "generateName": format!("{name}-{}-", text(&entry["name"])),
                "namespace": namespace,
                "annotations": {"resource.kubernetes.io/pod-claim-name": entry["name"]},
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"],
                    "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": template["spec"]["spec"],
        });
        if let Ok(claim) = api.try_create(claim) {
            statuses.push(json!({"name": entry["name"], "resourceClaimName": claim["metadata"]["name"]}));
        }
    }
    if statuses.len() > before {
        api.act("", "pods", &key(pod), true, &json!({"status": {"resourceClaimStatuses": statuses}}));
    }
}

/// A pod that did not come through the scheduler has its allocated claims reserved here.
fn reserve_for_bound(api: &FakeApi, pod: &Value) {
    if text(&pod["spec"]["nodeName"]).is_empty() {
        return;
    }
    for entry in list(&pod["spec"]["resourceClaims"]) {
        let at = (key(pod).0, claim_name(pod, entry).to_owned());
        let Some(claim) = api.object(CLAIMS.0, CLAIMS.1, &at) else { continue };
        let mut reserved = list(&claim["status"]["reservedFor"]).to_vec();
        let is_mine = reserved.iter().any(|r| r["uid"] == pod["metadata"]["uid"]);
        if is_mine || claim["status"]["allocation"].is_null() || is_going(&claim) {
            continue;
        }
        reserved.push(
            json!({"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}),
        );
        api.act(CLAIMS.0, CLAIMS.1, &at, true, &json!({"status": {"reservedFor": reserved}}));
    }
}

fn sync(api: &FakeApi, claim: &Value) {
    let at = key(claim);
    let still = |reference: &Value| {
        let pod = api.object("", "pods", &(at.0.clone(), text(&reference["name"]).to_owned()));
        pod.is_some_and(|p| {
            let never_ran = is_going(&p) && text(&p["spec"]["nodeName"]).is_empty();
            p["metadata"]["uid"] == reference["uid"] && !is_done(&p) && !never_ran
        })
    };
    let reserved = list(&claim["status"]["reservedFor"]);
    let valid: Vec<Value> = reserved.iter().filter(|r| still(r)).cloned().collect();
    let guarded = list(&claim["metadata"]["finalizers"]).iter().any(|f| f == FINALIZER);
    let freed = valid.len() < reserved.len();
    if freed || (is_going(claim) && guarded && valid.is_empty()) {
        let mut patch = json!({"status": {"reservedFor": valid}});
        if valid.is_empty() {
            patch["status"]["reservedFor"] = Value::Null;
            if guarded {
                patch["status"]["allocation"] = Value::Null;
            }
        }
        api.act(CLAIMS.0, CLAIMS.1, &at, true, &patch);
        if valid.is_empty() && guarded {
            let others = list(&claim["metadata"]["finalizers"]).iter().filter(|f| *f != FINALIZER);
            let others: Vec<&Value> = others.collect();
            api.act(CLAIMS.0, CLAIMS.1, &at, false, &json!({"metadata": {"finalizers": others}}));
        }
    }
    // A template's claim goes with its pod's end, not only with the pod.
    let owner = list(&claim["metadata"]["ownerReferences"])
        .iter()
        .find(|o| o["kind"] == "Pod" && o["controller"] == true);
    let ended = owner.is_some_and(|o| valid.is_empty() && !is_going(claim) && !still(o));
    if let Some(kind) = by_plural(CLAIMS.0, CLAIMS.1).filter(|_| ended) {
        // It may be gone already.
        let _ = api.store().delete(kind, &at, &Value::Null);
    }
}
