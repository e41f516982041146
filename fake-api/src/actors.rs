//! The parts of a cluster that answer what the driver writes, reduced to what it can notice of them.
//!
//! Each is a task that looks at everything whenever anything changed, and ends when it is dropped. They write through the
//! same rules as any client.

mod claim_controller;
mod kubelet;
mod scheduler;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

pub use claim_controller::ClaimController;
pub use kubelet::Kubelets;
pub use scheduler::{Scheduler, SchedulerRules};

use crate::kind;
use crate::selector::Filter;
use crate::server::FakeApi;
use crate::store::{Author, Form, Key};

/// How long an actor lets changes gather.
const GATHER: Duration = Duration::from_millis(1);

/// A task that ends with this.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `pass` now and after every change of what actors look at.
fn on_change(api: &FakeApi, mut pass: impl FnMut() + Send + 'static) -> Task {
    let mut changes = api.work();
    changes.mark_raised();
    Task(tokio::spawn(async move {
        loop {
            changes.raised().await;
            tokio::time::sleep(GATHER).await;
            changes.mark_heard();
            pass();
        }
    }))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn key(object: &Value) -> Key {
    (text(&object["metadata"]["namespace"]).to_owned(), text(&object["metadata"]["name"]).to_owned())
}

fn is_done(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Name of the claim a pod means by an entry of `spec.resourceClaims`; empty while it is not made.
fn claim_name<'a>(pod: &'a Value, entry: &'a Value) -> &'a str {
    let made = || list(&pod["status"]["resourceClaimStatuses"]).iter().find(|s| s["name"] == entry["name"]);
    match entry["resourceClaimName"].as_str() {
        Some(name) => name,
        None => made().map_or("", |s| text(&s["resourceClaimName"])),
    }
}

/// Whether an allocation may be used on a node.
fn reaches(allocation: &Value, node: &str) -> bool {
    let terms = list(&allocation["nodeSelector"]["nodeSelectorTerms"]);
    let holds = |field: &Value| list(&field["values"]).iter().any(|v| v == node);
    allocation["nodeSelector"].is_null() || terms.iter().any(|t| list(&t["matchFields"]).iter().all(holds))
}

impl FakeApi {
    /// Every object of a kind, oldest first.
    fn objects(&self, group: &str, plural: &str) -> Vec<Arc<Value>> {
        let Some(kind) = kind::by_plural(group, plural) else { return Vec::new() };
        let store = self.store();
        let filter = Filter::default();
        let mut all: Vec<Arc<Value>> = store.list(kind, &filter, None).map(|(_, o)| o.clone()).collect();
        // They come by key, and the sort keeps that order among those of one age.
        all.sort_by(|a, b| {
            text(&a["metadata"]["creationTimestamp"]).cmp(text(&b["metadata"]["creationTimestamp"]))
        });
        all
    }

    fn object(&self, group: &str, plural: &str, key: &Key) -> Option<Arc<Value>> {
        self.store().get(kind::by_plural(group, plural)?, key).ok()
    }

    /// A merge patch by an actor; true if it took.
    fn act(&self, group: &str, plural: &str, key: &Key, status: bool, patch: &Value) -> bool {
        let Some(kind) = kind::by_plural(group, plural) else { return false };
        self.store().write(kind, key, patch, Form::MergePatch, Author { manager: "actor", status }).is_ok()
    }
}

const CLAIMS: (&str, &str) = ("resource.k8s.io", "resourceclaims");
