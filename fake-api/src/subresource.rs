//! `pods/binding` and `pods/eviction`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kind::by_plural;
use crate::selector::Filter;
use crate::status::Refused;
use crate::store::{Key, Store};

impl Store {
    /// Binds a pod to a node, once and for all.
    pub(crate) fn bind(&mut self, key: &Key, binding: &Value) -> Result<Arc<Value>, Refused> {
        let pods = by_plural("", "pods").unwrap_or_default();
        let pod = self.get(pods, key)?;
        let target = binding["target"]["name"].as_str().unwrap_or_default();
        let refuse = |why: String| Err(Refused::conflict("pods/binding", &key.1, &why));
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return refuse(format!("pod {} is being deleted, cannot be assigned to a host", key.1));
        }
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            return refuse(format!("pod {} is already assigned to node {node:?}", key.1));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            return refuse(format!("pod {} has non-empty .spec.schedulingGates", key.1));
        }
        let mut bound = (*pod).clone();
        bound["spec"]["nodeName"] = target.into();
        let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": self.now()});
        let mut conditions = bound["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(condition);
        bound["status"]["conditions"] = conditions.into();
        bound["status"].as_object_mut().map(|s| s.remove("nominatedNodeName"));
        Ok(self.replace(pods, key, bound))
    }

    /// Deletes a pod unless a budget forbids it.
    pub(crate) fn evict(&mut self, key: &Key, eviction: &Value) -> Result<Arc<Value>, Refused> {
        let pods = by_plural("", "pods").unwrap_or_default();
        let pod = self.get(pods, key)?;
        let phase = pod["status"]["phase"].as_str().unwrap_or("Pending");
        if phase == "Running" && pod["metadata"]["deletionTimestamp"].is_null() {
            let budgets = by_plural("policy", "poddisruptionbudgets").unwrap_or_default();
            let here = Filter::all_in(&key.0);
            let guards = |budget: &Value| {
                let labels = budget["spec"]["selector"]["matchLabels"].as_object();
                labels.is_some_and(|l| l.iter().all(|(k, v)| pod["metadata"]["labels"][k.as_str()] == *v))
                    && budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) <= 0
            };
            if self.list(budgets, &here, None).any(|(_, b)| guards(b)) {
                return Err(Refused::code(
                    429,
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                ));
            }
        }
        self.delete(pods, key, &eviction["deleteOptions"])
    }
}
