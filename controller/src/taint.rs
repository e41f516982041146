//! Pure: device taints, which keep claims that do not tolerate them from GPUs.
//!
//! A taint stands in the slice, or in a DeviceTaintRule that selects the GPU. `NoSchedule` and `NoExecute` keep claims away;
//! that `NoExecute` also ends the pods on the GPU is the business of Kubernetes' own controller. Other effects only inform.
//! Two taints of the slice are left out: the allocator's, by which kube-scheduler leaves the GPUs to this controller, and
//! that of an unhealthy GPU, which is out for everybody. Source: KEP-5055.

use k8s_openapi::api::resource::v1::DeviceToleration;
use k8s_openapi::api::resource::v1beta2::DeviceTaintRuleSpec;
use serde::Serialize;
use serde_json::Value;
use vgpu_api::names::{ALLOCATOR_TAINT_KEY, DRIVER};

use crate::slice::{Device, UNHEALTHY};

/// A taint that keeps claims away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Taint {
    key: String,
    value: String,
    effect: String,
}

/// A DeviceTaintRule, reduced to what counts here. What it does not name it leaves open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    driver: Option<String>,
    pool: Option<String>,
    device: Option<String>,
    taint: Taint,
}

impl Taint {
    fn new(key: &str, value: Option<&str>, effect: &str) -> Option<Self> {
        matches!(effect, "NoSchedule" | "NoExecute").then(|| Self {
            key: key.to_owned(),
            value: value.unwrap_or_default().to_owned(),
            effect: effect.to_owned(),
        })
    }

    /// Those of a GPU of this pool, in order.
    pub fn of(pool: &str, device: &Device, rules: &[Rule]) -> Vec<Self> {
        let own =
            device.taints.iter().flatten().filter(|t| t.key != ALLOCATOR_TAINT_KEY && t.key != UNHEALTHY);
        let own = own.filter_map(|t| Self::new(&t.key, t.value.as_deref(), &t.effect));
        let by_rule = rules.iter().filter(|r| r.selects(pool, &device.name)).map(|r| r.taint.clone());
        let mut all: Vec<Self> = own.chain(by_rule).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether a claim with these tolerations may have the GPU all the same.
    pub fn is_tolerated(&self, tolerations: &[DeviceToleration]) -> bool {
        let is_open = |field: &Option<String>| field.as_deref().is_none_or(str::is_empty);
        tolerations.iter().any(|t| {
            (is_open(&t.effect) || t.effect.as_ref() == Some(&self.effect))
                && (is_open(&t.key) || t.key.as_ref() == Some(&self.key))
                && match t.operator.as_deref() {
                    None | Some("" | "Equal") => t.value.as_deref().unwrap_or_default() == self.value,
                    Some(operator) => operator == "Exists",
                }
        })
    }
}

impl Rule {
    /// Of a rule's `spec`; `None` for one that keeps nobody away.
    pub fn read(spec: &Value) -> Option<Self> {
        let spec: DeviceTaintRuleSpec = serde_json::from_value(spec.clone()).ok()?;
        let selector = spec.device_selector?;
        let taint = Taint::new(&spec.taint.key, spec.taint.value.as_deref(), &spec.taint.effect)?;
        Some(Self { driver: selector.driver, pool: selector.pool, device: selector.device, taint })
    }

    fn selects(&self, pool: &str, device: &str) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        is(&self.driver, DRIVER) && is(&self.pool, pool) && is(&self.device, device)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taints(slice: Value, rules: &[Value]) -> Vec<String> {
        let device: Device = serde_json::from_value(json!({"name": "gpu-a", "taints": slice})).unwrap();
        let rules: Vec<Rule> = rules.iter().filter_map(Rule::read).collect();
        Taint::of("node-a/gpu", &device, &rules)
            .into_iter()
            .map(|t| format!("{}:{}", t.key, t.effect))
            .collect()
    }

    fn rule(selector: Value) -> Value {
        json!({"deviceSelector": selector, "taint": {"key": "broken", "effect": "NoExecute"}})
    }

    #[test]
    fn what_keeps_claims_away_is_taken_from_slice_and_rules() {
        let own = json!([
            {"key": ALLOCATOR_TAINT_KEY, "value": "controller", "effect": "NoSchedule"},
            {"key": UNHEALTHY, "effect": "NoSchedule"},
            {"key": "spare", "effect": "NoSchedule"},
            {"key": "hot", "effect": "None"},
            {"key": "odd", "effect": "OfLaterVersions"},
        ]);
        assert_eq!(taints(own, &[rule(json!({}))]), ["broken:NoExecute", "spare:NoSchedule"]);
    }

    #[test]
    fn a_rule_selects_by_all_that_it_names() {
        for (selector, selects) in [
            (json!({}), true),
            (json!({"driver": DRIVER, "pool": "node-a/gpu", "device": "gpu-a"}), true),
            (json!({"driver": "gpu.example.com"}), false),
            (json!({"pool": "node-b/gpu"}), false),
            (json!({"device": "gpu-b"}), false),
            (Value::Null, false),
        ] {
            assert_eq!(!taints(json!([]), &[rule(selector.clone())]).is_empty(), selects, "{selector}");
        }
    }

    #[test]
    fn tolerations_mean_what_they_mean_for_nodes() {
        let taint = Taint::new("broken", Some("fan"), "NoExecute").unwrap();
        for (toleration, tolerates) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "broken", "operator": "Exists"}), true),
            (json!({"key": "broken", "value": "fan"}), true),
            (json!({"key": "broken", "operator": "Equal", "value": "fan", "effect": "NoExecute"}), true),
            (json!({"key": "broken"}), false),
            (json!({"key": "broken", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "broken", "operator": "Like", "value": "fan"}), false),
        ] {
            let list = [serde_json::from_value(toleration.clone()).unwrap()];
            assert_eq!(taint.is_tolerated(&list), tolerates, "{toleration}");
        }
        assert!(!taint.is_tolerated(&[]));
    }
}
