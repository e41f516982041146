//! The objects, what happened to them, and the rules of writing them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::kind::{Kind, kinds};
use crate::ownership::Owners;
use crate::selector::Filter;
use crate::signal::{Listener, Signal};
use crate::status::Refused;
use crate::validate;

/// Namespace (empty for cluster-scoped objects) and name.
pub(crate) type Key = (String, String);

/// What happened.
#[derive(Debug, Clone)]
pub(crate) struct Happening {
    pub(crate) version: u64,
    pub(crate) before: Option<Arc<Value>>,
    /// As it is now; of a deleted object, as it was last, with the version of its deletion.
    pub(crate) object: Arc<Value>,
    pub(crate) deleted: bool,
}

/// How a write is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Put,
    JsonPatch,
    MergePatch,
    StrategicPatch,
    Apply { force: bool },
}

/// Who writes what part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) manager: &'a str,
    /// The status subresource.
    pub(crate) status: bool,
}

#[derive(Default)]
struct Table {
    objects: BTreeMap<Key, Arc<Value>>,
    owners: BTreeMap<Key, Owners>,
    log: VecDeque<Happening>,
    /// Version of the last happening that is not in the log any more.
    forgotten: u64,
    /// Version of the last happening.
    last: u64,
    /// Whether actors look at objects of this kind.
    is_work: bool,
}

/// Everything stored.
pub(crate) struct Store {
    tables: Vec<Table>,
    version: u64,
    /// Happenings up to this version are forgotten.
    compacted: u64,
    uids: u64,
    started: Instant,
    pub(crate) gates_off: BTreeSet<String>,
    signals: Vec<Signal>,
    /// Told of every write of any kind.
    pub(crate) any: Signal,
    /// Told of every write of a kind that actors look at.
    pub(crate) work: Signal,
}

/// The day on which every test begins.
const EPOCH: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

impl Store {
    pub(crate) fn new() -> Self {
        let is_work = |kind: &Kind| !matches!(kind.kind.as_str(), "Lease" | "Event");
        let table = |kind: &Kind| Table { is_work: is_work(kind), ..Table::default() };
        let tables: Vec<Table> = kinds().iter().map(table).collect();
        let signals = kinds().iter().map(|_| Signal::default()).collect();
        Self {
            tables,
            version: 1,
            compacted: 0,
            uids: 0,
            started: Instant::now(),
            gates_off: BTreeSet::new(),
            signals,
            any: Signal::default(),
            work: Signal::default(),
        }
    }

    /// Version of the last write to an object of a kind.
    pub(crate) fn last(&self, kind: usize) -> u64 {
        self.tables[kind].last
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn signal(&self, kind: usize) -> Listener {
        self.signals[kind].listen()
    }

    /// Tokio's clock, counted from the day on which every test begins.
    pub(crate) fn now(&self) -> String {
        let seconds = EPOCH + i64::try_from(self.started.elapsed().as_secs()).unwrap_or(0);
        jiff::Timestamp::from_second(seconds).map(|t| t.to_string()).unwrap_or_default()
    }

    /// Forgets what happened so far: watches that are behind are told 410.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
        for table in &mut self.tables {
            if let Some(last) = table.log.back() {
                table.forgotten = last.version;
            }
            table.log.clear();
        }
    }

    /// Whether a watch that has seen this version has missed something it cannot be told any more.
    pub(crate) fn missed(&self, kind: usize, seen: u64) -> bool {
        seen < self.tables[kind].forgotten
    }

    pub(crate) fn happenings(&self, kind: usize, after: u64) -> Vec<Happening> {
        let log = &self.tables[kind].log;
        log.iter().skip(log.partition_point(|h| h.version <= after)).cloned().collect()
    }

    pub(crate) fn get(&self, kind: usize, key: &Key) -> Result<Arc<Value>, Refused> {
        let found = self.tables[kind].objects.get(key).cloned();
        found.ok_or_else(|| Refused::not_found(&kinds()[kind].plural, &key.1))
    }

    /// Objects in the order of their keys, after `from`.
    pub(crate) fn list<'a>(
        &'a self,
        kind: usize,
        filter: &'a Filter,
        from: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let start = from.map_or(std::ops::Bound::Unbounded, |key| std::ops::Bound::Excluded(key.clone()));
        let range = self.tables[kind].objects.range((start, std::ops::Bound::Unbounded));
        range.filter(|(_, object)| filter.takes(object))
    }

    fn happened(&mut self, kind: usize, before: Option<Arc<Value>>, object: Arc<Value>, deleted: bool) {
        let version = self.version;
        let table = &mut self.tables[kind];
        table.log.push_back(Happening { version, before, object, deleted });
        table.last = version;
        self.signals[kind].raise();
        if table.is_work {
            self.work.raise();
        }
        self.any.raise();
    }

    fn put(&mut self, kind: usize, key: Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let before = self.tables[kind].objects.insert(key, object.clone());
        self.happened(kind, before, object.clone(), false);
        object
    }

    /// Takes an object away, and with it everything only it owned.
    fn remove(&mut self, kind: usize, key: &Key) -> Option<Arc<Value>> {
        let before = self.tables[kind].objects.remove(key)?;
        self.tables[kind].owners.remove(key);
        self.version += 1;
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let last = Arc::new(last);
        self.happened(kind, Some(before), last.clone(), true);
        self.collect_garbage(meta(&last, "uid"));
        Some(last)
    }

    fn collect_garbage(&mut self, owner: &str) {
        let mut orphans = Vec::new();
        for (kind, table) in self.tables.iter().enumerate() {
            for (key, object) in &table.objects {
                let owners = object["metadata"]["ownerReferences"].as_array();
                if owners.is_some_and(|o| o.iter().any(|o| o["uid"] == owner)) {
                    orphans.push((kind, key.clone()));
                }
            }
        }
        for (kind, key) in orphans {
            let Some(object) = self.tables[kind].objects.get(&key) else { continue };
            let mut object = (**object).clone();
            let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() else { continue };
            owners.retain(|o| o["uid"] != owner);
            if owners.is_empty() {
                // The reference stays on an object that waits for its finalizers.
                let _ = self.delete(kind, &key, &json!({"gracePeriodSeconds": 0}));
            } else {
                self.put(kind, key, object);
            }
        }
    }

    fn check_namespace(&self, kind: &Kind, namespace: &str) -> Result<(), Refused> {
        if !kind.namespaced {
            return Ok(());
        }
        let namespaces = crate::kind::by_plural("", "namespaces").unwrap_or_default();
        let found = self.get(namespaces, &(String::new(), namespace.to_owned()))?;
        if found["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        Err(Refused::code(403, why))
    }

    pub(crate) fn create(
        &mut self,
        kind: usize,
        namespace: &str,
        mut object: Value,
        manager: &str,
        seed: bool,
    ) -> Result<Arc<Value>, Refused> {
        let known = &kinds()[kind];
        if !object.is_object() {
            return Err(Refused::bad_request("the body is not an object"));
        }
        let given = meta(&object, "namespace").to_owned();
        if known.namespaced && !given.is_empty() && given != namespace {
            return Err(Refused::bad_request(
                "the namespace of the object does not match the namespace on the request",
            ));
        }
        self.check_namespace(known, namespace)?;
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(Refused::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let (prefix, now) = (meta(&object, "generateName").to_owned(), self.now());
        self.uids += 1;
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.uids, self.uids);
        if meta(&object, "name").is_empty() && !prefix.is_empty() {
            object["metadata"]["name"] = format!("{prefix}{:05x}", self.uids).into();
        }
        let Some(metadata) = object["metadata"].as_object_mut() else {
            return Err(Refused::invalid(
                "metadata.name",
                "Required value: name or generateName is required",
            ));
        };
        for own in ["deletionTimestamp", "managedFields", "selfLink"] {
            metadata.remove(own);
        }
        metadata.insert("uid".into(), uid.into());
        metadata.insert("creationTimestamp".into(), now.into());
        metadata.insert("generation".into(), 1.into());
        if known.namespaced {
            metadata.insert("namespace".into(), namespace.into());
        }
        if known.status && !seed {
            object.as_object_mut().map(|o| o.remove("status"));
        }
        if known.kind == "Pod" && object["status"].is_null() {
            object["status"] = json!({"phase": "Pending"});
        }
        object["apiVersion"] = known.api_version().into();
        object["kind"] = known.kind.as_str().into();
        let mut object = known.decode(object).map_err(Refused::bad_request)?;
        validate::drop_fields(&known.kind, &mut object, &self.gates_off);
        validate::write(&known.kind, &Value::Null, &object, false)?;
        let key = (meta(&object, "namespace").to_owned(), meta(&object, "name").to_owned());
        if self.tables[kind].objects.contains_key(&key) {
            return Err(Refused::exists(&known.plural, &key.1));
        }
        let stored = self.put(kind, key.clone(), object);
        if !manager.is_empty() {
            let owners = self.tables[kind].owners.entry(key).or_default();
            owners.updated(manager, None, stored.clone());
        }
        Ok(stored)
    }

    /// PUT and every kind of PATCH.
    pub(crate) fn write(
        &mut self,
        kind: usize,
        key: &Key,
        body: &Value,
        form: Form,
        author: Author<'_>,
    ) -> Result<Arc<Value>, Refused> {
        let known = &kinds()[kind];
        let Some(old) = self.tables[kind].objects.get(key).cloned() else {
            return match form {
                Form::Apply { .. } if !author.status => self.apply_new(kind, key, body, author.manager),
                _ => Err(Refused::not_found(&known.plural, &key.1)),
            };
        };
        let mut owners = None;
        let mut new = match form {
            Form::Put => body.clone(),
            Form::Apply { force } => {
                // A manager's fields in the two halves of an object are two sets.
                let manager = if author.status {
                    format!("{} (status)", author.manager)
                } else {
                    author.manager.into()
                };
                let mut found = self.tables[kind].owners.get(key).cloned().unwrap_or_default();
                let applied = found.apply(&manager, &old, body, force);
                owners = Some(found);
                applied.map_err(|c| {
                    Refused::conflict(&known.plural, &key.1, &format!("Apply failed: {}", c.join(", ")))
                })?
            }
            _ => crate::patch::patched(&old, body, form)?,
        };
        if !new["metadata"].is_object() {
            return Err(Refused::bad_request("metadata: Required value"));
        }
        // Only a version the author named can be in conflict.
        let claimed = if form == Form::Put { &new } else { body };
        let named = match form {
            Form::JsonPatch => meta(&new, "resourceVersion").to_owned(),
            _ => meta(claimed, "resourceVersion").to_owned(),
        };
        if !named.is_empty() && named != meta(&old, "resourceVersion") {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refused::conflict(&known.plural, &key.1, why));
        }
        if !meta(&new, "uid").is_empty() && meta(&new, "uid") != meta(&old, "uid") {
            if form != Form::Put {
                return Err(Refused::invalid("metadata.uid", "Invalid value: field is immutable"));
            }
            return Err(Refused::conflict(&known.plural, &key.1, "Precondition failed: UID in precondition"));
        }
        if meta(&new, "name") != key.1 {
            return Err(Refused::bad_request("the name of the object does not match the name on the URL"));
        }
        self.keep_servers_own(known, &old, &mut new, author.status);
        let mut new = known.decode(new).map_err(Refused::bad_request)?;
        validate::drop_fields(&known.kind, &mut new, &self.gates_off);
        validate::write(&known.kind, &old, &new, author.status)?;
        if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        if let Some(owners) = owners {
            self.tables[kind].owners.insert(key.clone(), owners);
        }
        if new == *old {
            return Ok(old);
        }
        let stored = self.put(kind, key.clone(), new);
        if !matches!(form, Form::Apply { .. }) {
            let owners = self.tables[kind].owners.entry(key.clone()).or_default();
            owners.updated(author.manager, Some(old), stored.clone());
        }
        if !stored["metadata"]["deletionTimestamp"].is_null()
            && !has_finalizers(&stored)
            && known.kind != "Pod"
        {
            return Ok(self.remove(kind, key).unwrap_or(stored));
        }
        Ok(stored)
    }

    fn apply_new(
        &mut self,
        kind: usize,
        key: &Key,
        body: &Value,
        manager: &str,
    ) -> Result<Arc<Value>, Refused> {
        if !meta(body, "resourceVersion").is_empty() || !meta(body, "uid").is_empty() {
            return Err(Refused::conflict(
                &kinds()[kind].plural,
                &key.1,
                "it does not exist and a version was named",
            ));
        }
        let mut owners = Owners::default();
        let mut object = owners.apply(manager, &Value::Null, body, false).unwrap_or_else(|_| body.clone());
        object["metadata"]["name"] = key.1.clone().into();
        let stored = self.create(kind, &key.0, object, "", false)?;
        self.tables[kind].owners.insert(key.clone(), owners);
        Ok(stored)
    }

    /// Puts back what a client cannot change, and the half that belongs to the other subresource.
    fn keep_servers_own(&self, known: &Kind, old: &Value, new: &mut Value, status: bool) {
        let keep = |at: &mut Value, field: &str, from: &Value| match from[field].is_null() {
            true => drop(at.as_object_mut().and_then(|m| m.remove(field))),
            false => at[field] = from[field].clone(),
        };
        if status {
            let wanted = new["status"].take();
            *new = old.clone();
            match wanted.is_null() {
                true => drop(new.as_object_mut().and_then(|m| m.remove("status"))),
                false => new["status"] = wanted,
            }
        } else if known.status {
            keep(new, "status", old);
        }
        let fixed = [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "namespace",
        ];
        for field in fixed.into_iter().chain(["generateName", "resourceVersion"]) {
            keep(&mut new["metadata"], field, &old["metadata"]);
        }
    }

    /// Deletes at once, or marks what has finalizers or runs on a node.
    pub(crate) fn delete(&mut self, kind: usize, key: &Key, options: &Value) -> Result<Arc<Value>, Refused> {
        let known = &kinds()[kind];
        let old = self.get(kind, key)?;
        for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let want = options["preconditions"][field].as_str();
            if want.is_some_and(|w| w != meta(&old, field)) {
                return Err(Refused::conflict(
                    &known.plural,
                    &key.1,
                    &format!("Precondition failed: {what}"),
                ));
            }
        }
        // The kubelet ends a bound pod and deletes it again with no grace.
        let runs = known.kind == "Pod"
            && !old["spec"]["nodeName"].is_null()
            && !matches!(old["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
            && options["gracePeriodSeconds"] != 0;
        if !has_finalizers(&old) && !runs {
            return self.remove(kind, key).ok_or_else(|| Refused::not_found(&known.plural, &key.1));
        }
        if !old["metadata"]["deletionTimestamp"].is_null() {
            return Ok(old);
        }
        let mut new = (*old).clone();
        new["metadata"]["deletionTimestamp"] = self.now().into();
        new["metadata"]["deletionGracePeriodSeconds"] = i64::from(runs).wrapping_mul(30).into();
        Ok(self.put(kind, key.clone(), new))
    }

    /// Stores an object that is known to be right, as the server itself would.
    pub(crate) fn replace(&mut self, kind: usize, key: &Key, object: Value) -> Arc<Value> {
        self.put(kind, key.clone(), object)
    }
}
