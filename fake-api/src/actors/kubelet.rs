//! Kubelets: bound pods run if their claims are for their node, deleted ones end: at once, or after the grace period if
//! their spec gives one.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::{CLAIMS, Task, claim_name, is_done, is_going, key, list, on_change, reaches, text};
use crate::server::FakeApi;

/// The kubelets of all nodes.
pub struct Kubelets {
    _task: Task,
}

impl Kubelets {
    /// Starts them.
    pub fn start(api: &FakeApi) -> Self {
        let seen = api.clone();
        let mut ending = HashSet::new();
        Self { _task: on_change(api, move || pass(&seen, &mut ending)) }
    }
}

fn pass(api: &FakeApi, ending: &mut HashSet<String>) {
    for pod in api.objects("", "pods") {
        let (node, key) = (text(&pod["spec"]["nodeName"]), key(&pod));
        if node.is_empty() {
            continue;
        }
        if is_going(&pod) {
            let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(0);
            if grace == 0 {
                // It may have ended by another way meanwhile.
                let _ = api.end_pod(&key);
            } else if ending.insert(text(&pod["metadata"]["uid"]).to_owned()) {
                let api = api.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(grace)).await;
                    let _ = api.end_pod(&key);
                });
            }
            continue;
        }
        let prepared = |claim: &str| {
            let claim = api.object(CLAIMS.0, CLAIMS.1, &(key.0.clone(), claim.to_owned()));
            claim.is_some_and(|c| {
                let allocation = &c["status"]["allocation"];
                let reserved =
                    list(&c["status"]["reservedFor"]).iter().any(|r| r["uid"] == pod["metadata"]["uid"]);
                !allocation.is_null() && reserved && reaches(allocation, node)
            })
        };
        let starts = list(&pod["spec"]["resourceClaims"]).iter().all(|c| prepared(claim_name(&pod, c)));
        if !is_done(&pod) && text(&pod["status"]["phase"]) != "Running" && starts {
            api.act("", "pods", &key, true, &json!({"status": {"phase": "Running"}}));
        }
    }
}
