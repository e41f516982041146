//! Pure: what of a pod and its claims kube-scheduler would not heed, where it allocates (`--allocator=scheduler`).
//!
//! It takes the first GPU that fits. It knows nothing of this driver's policies, of memory in percent of the GPU it happens
//! to choose, and of pods that go together; whoever asks for these is told so.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::{CapacityRequirements, DeviceClass, OpaqueDeviceConfiguration};
use vgpu_api::names::{DRIVER, GANG, MEMORY_PERCENT};
use vgpu_api::{Placement, ShareConfig};

use crate::claim::Claim;
use crate::gate;
use crate::pod::{self, Pod};
use crate::request::Invalid;

const CURE: &str = "or let the controller allocate (--allocator=controller)";

fn unheeded(note: String) -> Invalid {
    Invalid { reason: "NeedsController", note }
}

/// What it would not heed of a claim's own words and of the classes it names; the first of it.
pub fn unheeded_claim(claim: &Claim, class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>) -> Option<Invalid> {
    let devices = claim.spec.devices.as_ref()?;
    for request in devices.requests.iter().flatten() {
        let field = format!("spec.devices.requests[{}]", request.name);
        let exactly = request.exactly.iter().map(|e| (format!("{field}.exactly"), e.capacity.as_ref()));
        let others = request.first_available.iter().flatten();
        let others = others.map(|s| (format!("{field}.firstAvailable[{}]", s.name), s.capacity.as_ref()));
        for (field, capacity) in exactly.chain(others) {
            if let Some(key) = percent_key(capacity) {
                return Some(unheeded(format!(
                    "{field}.capacity.requests.{key}: kube-scheduler allocates here, which knows no percentage of a \
                     GPU's memory; ask for memory, {CURE}"
                )));
            }
        }
    }
    for (index, config) in devices.config.iter().flatten().enumerate() {
        if places(config.opaque.as_ref()) {
            return Some(unheeded(format!(
                "spec.devices.config[{index}].opaque.parameters.placement: kube-scheduler allocates here, first fit and \
                 by no policy; remove it, {CURE}"
            )));
        }
    }
    let classes = gate::classes(Some(devices)).into_iter().filter_map(class);
    let placing = |c: &Arc<DeviceClass>| c.spec.config.iter().flatten().any(|c| places(c.opaque.as_ref()));
    classes.into_iter().find(placing).map(|class| {
        let name = class.metadata.name.clone().unwrap_or_default();
        unheeded(format!(
            "DeviceClass {name}: spec.config[].opaque.parameters.placement: kube-scheduler allocates here, first fit and by \
             no policy; use a class without it, {CURE}"
        ))
    })
}

/// The same of a pod itself.
pub fn unheeded_pod(pod: &Pod) -> Option<Invalid> {
    pod::gang(pod).map(|_| {
        unheeded(format!(
            "metadata.annotations[{GANG}]: kube-scheduler allocates here, one pod after another; remove it, {CURE}"
        ))
    })
}

fn percent_key(capacity: Option<&CapacityRequirements>) -> Option<String> {
    let qualified = format!("{DRIVER}/{MEMORY_PERCENT}");
    let requests = capacity?.requests.as_ref()?;
    [MEMORY_PERCENT, &qualified].into_iter().find(|key| requests.contains_key(*key)).map(str::to_owned)
}

fn places(opaque: Option<&OpaqueDeviceConfiguration>) -> bool {
    let decoded = opaque.filter(|o| o.driver == DRIVER).map(|o| ShareConfig::decode(&o.parameters.0));
    matches!(decoded, Some(Ok(config)) if config.placement != Placement::default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(parameters: Value) -> Value {
        let mut all = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig"});
        for (key, value) in parameters.as_object().unwrap() {
            all[key] = value.clone();
        }
        json!([{"opaque": {"driver": DRIVER, "parameters": all}}])
    }

    fn note(requests: Value, own: Value, of_class: Value) -> Option<String> {
        let request =
            json!({"name": "gpu", "exactly": {"deviceClassName": "c", "capacity": {"requests": requests}}});
        let claim =
            json!({"metadata": {"name": "x"}, "spec": {"devices": {"requests": [request], "config": own}}});
        let class: DeviceClass =
            serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"config": of_class}})).unwrap();
        let class = Arc::new(class);
        let claim = serde_json::from_value(claim).unwrap();
        unheeded_claim(&claim, &|_| Some(class.clone())).map(|i| i.note)
    }

    #[test]
    fn amounts_alone_are_heeded() {
        assert_eq!(note(json!({"memory": "1Gi", "cores": "10"}), config(json!({})), json!([])), None);
    }

    #[test]
    fn percentages_and_policies_are_named_with_their_place() {
        let placed = || config(json!({"placement": {"gpu": "Spread"}}));
        for (requests, own, of_class, words) in [
            (
                json!({"memoryPercent": "5"}),
                json!([]),
                json!([]),
                "requests[gpu].exactly.capacity.requests.memoryPercent",
            ),
            (json!({}), placed(), json!([]), "spec.devices.config[0].opaque.parameters.placement"),
            (json!({}), json!([]), placed(), "DeviceClass c: spec.config"),
        ] {
            let note = note(requests, own, of_class).unwrap();
            assert!(note.contains(words) && note.contains("--allocator=controller"), "{note}");
        }
    }
}
