//! Events on pods and claims: each said once while it stays true.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::time::Instant;

use crate::{MANAGER, WRITE_DEADLINE};

/// Under one reason an object is told something new after this at the earliest; it doubles up to the last.
const CALM: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(320));

/// Writes events; the last one of each object is remembered, so that a reason that stays the same is not repeated.
pub struct Events {
    client: Client,
    reporter: Reporter,
    last: Mutex<HashMap<Key, Last>>,
}

/// Object (UID) and reason.
type Key = (String, &'static str);

/// What was said last.
struct Last {
    note: String,
    at: Instant,
    calm: Duration,
    /// The API lets no note be changed: a recorder counts one note, another note gets another recorder.
    recorder: Recorder,
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
        Self { client, reporter, last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<Key, Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it back if it is to be said now: it was not the last thing said about the object under that reason, and that
    /// is not too short a while ago. What stays true and is not due is said when it is.
    pub fn due(&self, about: &ObjectReference, saying: Saying, now: Instant) -> Option<Saying> {
        self.next(about, saying, now, true)
    }

    fn next(&self, about: &ObjectReference, saying: Saying, now: Instant, calmly: bool) -> Option<Saying> {
        let key = (about.uid.clone().unwrap_or_default(), saying.reason);
        let mut last = self.last();
        let calm = match last.get(&key) {
            Some(said) if said.note == saying.note => return None,
            Some(said) if calmly && now.duration_since(said.at) < said.calm => return None,
            // A note that was written; one that was not is tried again as calmly as the first.
            Some(said) if !said.note.is_empty() => (said.calm * 2).min(CALM.1),
            _ => CALM.0,
        };
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        last.insert(key, Last { note: saying.note.clone(), at: now, calm, recorder });
        Some(saying)
    }

    /// Says it, if it is due.
    pub async fn say(&self, about: ObjectReference, saying: Saying) {
        if let Some(saying) = self.due(&about, saying, Instant::now()) {
            self.write(about, saying).await;
        }
    }

    /// Says what has happened, however short a while ago something else happened to the object: nobody says it later.
    pub async fn tell(&self, about: ObjectReference, saying: Saying) {
        if let Some(saying) = self.next(&about, saying, Instant::now(), false) {
            self.write(about, saying).await;
        }
    }

    /// Writes what is due. If that fails it is due again after a while.
    pub async fn write(&self, about: ObjectReference, saying: Saying) {
        let key = (about.uid.clone().unwrap_or_default(), saying.reason);
        let Some(recorder) = self.last().get(&key).map(|said| said.recorder.clone()) else { return };
        let event = Event {
            type_: if saying.warning { EventType::Warning } else { EventType::Normal },
            reason: saying.reason.to_owned(),
            // The API takes no longer notes.
            note: Some(saying.note.chars().take(1000).collect()),
            action: "Allocate".to_owned(),
            secondary: None,
        };
        let said = tokio::time::timeout(WRITE_DEADLINE, recorder.publish(&event, &about)).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::warn!(?said, reason = saying.reason, object = about.name, "an event was not written");
            if let Some(said) = self.last().get_mut(&key) {
                said.note.clear();
            }
        }
    }

    /// Forgets objects that are gone.
    pub fn keep_only(&self, alive: &dyn Fn(&str) -> bool) {
        self.last().retain(|(uid, _), _| alive(uid));
    }
}

/// A reference to an object of the API.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}
