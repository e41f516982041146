//! Who set which field: what server-side apply needs to take back fields that are no longer applied.
//!
//! Kept beside the objects and not shown in `metadata.managedFields`. Lists are one field each (atomic), but for
//! finalizers (a set) and owner references (by UID), as in the schemas of the kinds the driver applies.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

/// A field: the keys that lead to it.
type Path = Vec<String>;

/// One manager's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Manager {
    name: String,
    apply: bool,
    fields: BTreeSet<Path>,
}

/// The managers of one object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners {
    managers: Vec<Manager>,
    /// Updates since, oldest first: whose fields they are is found out when somebody applies, which few do.
    updates: Vec<Update>,
}

/// What an update made of an object; of nothing, when it was created.
#[derive(Debug, Clone)]
struct Update {
    manager: String,
    old: Option<Arc<Value>>,
    new: Arc<Value>,
}

/// Key of an element of a list that is a set or a map.
fn element_key(list: &[String], element: &Value) -> Option<String> {
    match list {
        [a, b] if a == "metadata" && b == "finalizers" => element.as_str().map(str::to_owned),
        [a, b] if a == "metadata" && b == "ownerReferences" => element["uid"].as_str().map(str::to_owned),
        _ => None,
    }
}

fn is_keyed(path: &[String]) -> bool {
    matches!(path, [a, b] if a == "metadata" && (b == "finalizers" || b == "ownerReferences"))
}

fn collect(at: &mut Path, value: &Value, into: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                at.push(key.clone());
                collect(at, value, into);
                at.pop();
            }
        }
        Value::Array(list) if is_keyed(at) => {
            for element in list {
                let key = element_key(at, element).unwrap_or_default();
                at.push(key);
                into.insert(at.clone());
                at.pop();
            }
        }
        _ => drop(into.insert(at.clone())),
    }
}

/// Every field of an object that can be owned.
fn fields(object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    collect(&mut Vec::new(), object, &mut found);
    let free = |path: &Path| {
        let at: Vec<&str> = path.iter().map(String::as_str).collect();
        matches!(at[..], ["apiVersion"] | ["kind"])
            || (at.first() == Some(&"metadata")
                && !matches!(at.get(1), Some(&("labels" | "annotations" | "finalizers" | "ownerReferences"))))
    };
    found.retain(|path| !free(path));
    found
}

fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = object;
    for (depth, key) in path.iter().enumerate() {
        at = match at {
            Value::Array(list) => {
                list.iter().find(|e| element_key(&path[..depth], e).as_deref() == Some(key))?
            }
            other => other.get(key)?,
        };
    }
    Some(at)
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let Some(parent) = parents.iter().try_fold(&mut *object, |at, key| at.get_mut(key)) else { return };
    match parent {
        Value::Array(list) => list.retain(|e| element_key(parents, e).as_deref() != Some(last)),
        Value::Object(map) => drop(map.remove(last)),
        _ => return,
    }
    // A parent that only this field held goes with it.
    let empty = match get(object, parents) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => false,
    };
    if empty && parents.len() > 1 {
        remove(object, parents);
    }
}

/// Lays an applied configuration over an object.
fn lay(at: &mut Path, live: &mut Value, applied: &Value) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            for (key, value) in applied {
                at.push(key.clone());
                lay(at, live.entry(key.clone()).or_insert(Value::Null), value);
                at.pop();
            }
        }
        (Value::Array(live), Value::Array(applied)) if is_keyed(at) => {
            for element in applied {
                let key = element_key(at, element);
                match live.iter_mut().find(|e| element_key(at, e) == key) {
                    Some(found) => *found = element.clone(),
                    None => live.push(element.clone()),
                }
            }
        }
        (live, applied) => *live = applied.clone(),
    }
}

impl Owners {
    fn entry(&mut self, name: &str, apply: bool) -> &mut BTreeSet<Path> {
        let found = self.managers.iter().position(|m| m.name == name && m.apply == apply);
        let at = found.unwrap_or_else(|| {
            self.managers.push(Manager { name: name.to_owned(), apply, fields: BTreeSet::new() });
            self.managers.len() - 1
        });
        &mut self.managers[at].fields
    }

    /// A create, update or patch changed an object: its author owns what changed.
    pub(crate) fn updated(&mut self, manager: &str, old: Option<Arc<Value>>, new: Arc<Value>) {
        self.updates.push(Update { manager: manager.to_owned(), old, new });
    }

    fn take(&mut self, Update { manager, old, new }: &Update) {
        let (old, new) = (old.as_deref().unwrap_or(&Value::Null), &**new);
        let (before, after) = (fields(old), fields(new));
        let changed: BTreeSet<Path> =
            after.into_iter().filter(|p| !before.contains(p) || get(old, p) != get(new, p)).collect();
        for other in &mut self.managers {
            other.fields.retain(|p| !changed.contains(p) && get(new, p).is_some());
        }
        if !changed.is_empty() {
            self.entry(manager, false).extend(changed);
        }
        self.managers.retain(|m| !m.fields.is_empty());
    }

    /// Applies a configuration to `live`; the result, or the managers and fields that are in the way.
    pub(crate) fn apply(
        &mut self,
        manager: &str,
        live: &Value,
        applied: &Value,
        force: bool,
    ) -> Result<Value, Vec<String>> {
        for update in std::mem::take(&mut self.updates) {
            self.take(&update);
        }
        let set = fields(applied);
        let mut conflicts = Vec::new();
        for other in self.managers.iter().filter(|m| !(m.apply && m.name == manager)) {
            let taken = other.fields.iter().filter(|p| set.contains(*p) && get(live, p) != get(applied, p));
            conflicts.extend(taken.map(|p| format!("conflict with {:?}: .{}", other.name, p.join("."))));
        }
        if !conflicts.is_empty() && !force {
            return Err(conflicts);
        }
        let mut result = live.clone();
        if result.is_null() {
            result = json!(Map::new());
        }
        let mine = std::mem::take(self.entry(manager, true));
        for path in mine.difference(&set) {
            if !self.managers.iter().any(|m| m.fields.contains(path)) {
                remove(&mut result, path);
            }
        }
        lay(&mut Vec::new(), &mut result, applied);
        for other in self.managers.iter_mut().filter(|m| !(m.apply && m.name == manager)) {
            other.fields.retain(|p| !set.contains(p) || get(live, p) == get(applied, p));
        }
        *self.entry(manager, true) = set;
        self.managers.retain(|m| !m.fields.is_empty());
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_no_longer_applied_is_removed_unless_another_manager_has_it() {
        let mut owners = Owners::default();
        let first = owners.apply("a", &Value::Null, &json!({"data": {"x": "1", "y": "2"}}), false).unwrap();
        let both = owners.apply("b", &first, &json!({"data": {"y": "2"}}), false).unwrap();
        let rest = owners.apply("a", &both, &json!({"data": {"x": "1"}}), false).unwrap();
        assert_eq!(rest, json!({"data": {"x": "1", "y": "2"}}));
        let rest = owners.apply("b", &rest, &json!({"data": {"z": "3"}}), false).unwrap();
        assert_eq!(rest, json!({"data": {"x": "1", "z": "3"}}));
    }

    #[test]
    fn another_managers_value_is_a_conflict_unless_forced() {
        let mut owners = Owners::default();
        let live = owners.apply("a", &Value::Null, &json!({"data": {"x": "1"}}), false).unwrap();
        let mine = json!({"data": {"x": "2"}});
        assert_eq!(
            owners.clone().apply("b", &live, &mine, false).unwrap_err(),
            ["conflict with \"a\": .data.x"]
        );
        let live = owners.apply("b", &live, &mine, true).unwrap();
        // The first manager has lost the field: it no longer takes it back.
        assert_eq!(owners.apply("a", &live, &json!({"data": {}}), false).unwrap(), live);
    }

    #[test]
    fn an_update_takes_over_what_it_changes() {
        let mut owners = Owners::default();
        let live = owners.apply("a", &Value::Null, &json!({"data": {"x": "1", "y": "1"}}), false).unwrap();
        let changed = json!({"data": {"x": "2", "y": "1"}});
        owners.updated("kubectl", Some(live.into()), changed.clone().into());
        assert!(owners.clone().apply("a", &changed, &json!({"data": {"x": "1"}}), false).is_err());
        assert_eq!(owners.apply("a", &changed, &json!({}), false).unwrap(), json!({"data": {"x": "2"}}));
    }

    #[test]
    fn finalizers_are_a_set() {
        let mut owners = Owners::default();
        let with = |f: &[&str]| json!({"metadata": {"finalizers": f}});
        let live = owners.apply("a", &with(&["other"]), &with(&["mine"]), false).unwrap();
        assert_eq!(live, with(&["other", "mine"]));
        assert_eq!(owners.apply("a", &live, &json!({}), false).unwrap(), with(&["other"]));
    }
}
