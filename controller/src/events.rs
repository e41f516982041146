//! Events on pods and claims: each said once while it stays true.

use std::collections::HashMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::{MANAGER, WRITE_DEADLINE};

/// Writes events; the last one of each object is remembered, so that a reason that stays the same is not repeated.
pub struct Events {
    recorder: Recorder,
    last: Mutex<HashMap<(String, &'static str), String>>,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub note: String,
    /// Whether something is wrong.
    pub warning: bool,
}

impl Saying {
    /// All is well.
    pub fn normal(reason: &'static str, note: String) -> Self {
        Self { reason, note, warning: false }
    }

    /// Something is wrong or missing.
    pub fn warning(reason: &'static str, note: String) -> Self {
        Self { reason, note, warning: true }
    }
}

impl Events {
    /// A recorder for this controller.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance };
        Self { recorder: Recorder::new(client, reporter), last: Mutex::default() }
    }

    /// Says it about an object, unless it was the last thing said about it under that reason.
    pub async fn say(&self, about: ObjectReference, saying: Saying) {
        let key = (about.uid.clone().unwrap_or_default(), saying.reason);
        {
            let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if last.get(&key) == Some(&saying.note) {
                return;
            }
            last.insert(key, saying.note.clone());
        }
        let event = Event {
            type_: if saying.warning { EventType::Warning } else { EventType::Normal },
            reason: saying.reason.to_owned(),
            // The API takes no longer notes.
            note: Some(saying.note.chars().take(1000).collect()),
            action: "Allocate".to_owned(),
            secondary: None,
        };
        let said = tokio::time::timeout(WRITE_DEADLINE, self.recorder.publish(&event, &about)).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::warn!(?said, reason = saying.reason, object = about.name, "an event was not written");
        }
    }

    /// Forgets objects that are gone.
    pub fn keep_only(&self, alive: &dyn Fn(&str) -> bool) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.retain(|(uid, _), _| alive(uid));
    }
}

/// A reference to an object of the API.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}
