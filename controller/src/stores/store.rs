//! The objects of one kind, as a watch brought them last.
//!
//! As `kube::runtime::reflector::Store`, but for its memory: there every object has a key of its own that repeats its name,
//! namespace, version and UID. Of 50,000 pods and as many claims that is a tenth of all this controller has.

use std::cmp::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::SetOnce;

/// Reads what a [`Writer`] has taken in. Cheap to clone: all clones are the same store.
#[derive(Debug)]
pub struct Store<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    /// In the order of namespaces and names.
    objects: RwLock<Vec<Arc<K>>>,
    listed: SetOnce<()>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn key<K: Resource>(object: &K) -> (&str, &str) {
    let metadata = object.meta();
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn order<K: Resource>(a: &K, b: &K) -> Ordering {
    key(a).cmp(&key(b))
}

impl<K: Resource + Clone> Store<K> {
    /// With these objects, once and for all.
    pub fn of(objects: Vec<K>) -> Self {
        let mut writer = Writer::default();
        writer.take(Event::Init);
        objects.into_iter().for_each(|object| writer.take(Event::InitApply(object)));
        writer.take(Event::InitDone);
        writer.store
    }

    /// All of them, in the order of namespaces and names.
    pub fn state(&self) -> Vec<Arc<K>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of a kind without namespaces.
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.get_in("", name)
    }

    /// One of a namespace.
    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let objects = self.0.objects.read().unwrap_or_else(PoisonError::into_inner);
        let found = objects.binary_search_by(|object| key(&**object).cmp(&(namespace, name)));
        found.ok().map(|index| objects[index].clone())
    }

    /// Returns when everything there was at the beginning is here.
    pub async fn wait_until_ready(&self) {
        self.0.listed.wait().await;
    }
}

/// Takes in what a watch brings.
#[derive(Debug)]
pub(super) struct Writer<K> {
    store: Store<K>,
    /// What the list that is under way has brought; until it is whole, what was there before is as good.
    coming: Vec<Arc<K>>,
}

impl<K> Default for Writer<K> {
    fn default() -> Self {
        let inner = Inner { objects: RwLock::default(), listed: SetOnce::new() };
        Self { store: Store(Arc::new(inner)), coming: Vec::new() }
    }
}

/// A copy to keep: what was parsed has room for more in every list of it.
fn kept<K: Clone>(object: &K) -> Arc<K> {
    Arc::new(object.clone())
}

impl<K: Resource + Clone> Writer<K> {
    /// What it writes to.
    pub(super) fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Takes in an event.
    pub(super) fn take(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => self.coming.push(kept(&object)),
            Event::InitDone => {
                let mut objects = std::mem::take(&mut self.coming);
                // One that changed between two pages comes twice, the later one last.
                objects.reverse();
                objects.sort_by(|a, b| order(&**a, &**b));
                objects.dedup_by(|next, kept| order(&**next, &**kept).is_eq());
                *self.objects() = objects;
                // It was listed before, if this fails.
                let _ = self.store.0.listed.set(());
            }
            Event::Apply(object) => {
                let object = kept(&object);
                let mut objects = self.objects();
                match objects.binary_search_by(|known| order(&**known, &*object)) {
                    Ok(index) => objects[index] = object,
                    Err(index) => objects.insert(index, object),
                }
            }
            Event::Delete(object) => {
                let mut objects = self.objects();
                if let Ok(index) = objects.binary_search_by(|known| order(&**known, &object)) {
                    objects.remove(index);
                }
            }
        }
    }

    fn objects(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<K>>> {
        self.store.0.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, version: &str) -> ConfigMap {
        let metadata = json!({"namespace": namespace, "name": name, "resourceVersion": version});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn state(store: &Store<ConfigMap>) -> Vec<String> {
        let text = |o: &Arc<ConfigMap>| {
            let (namespace, name) = key(&**o);
            format!("{namespace}/{name}@{}", o.metadata.resource_version.as_deref().unwrap_or_default())
        };
        store.state().iter().map(text).collect()
    }

    #[test]
    fn what_comes_changes_and_goes_is_there_in_order() {
        let mut writer = Writer::default();
        let store = writer.store();
        for (event, now) in [
            (Event::Apply(object("b", "x", "1")), vec!["b/x@1"]),
            (Event::Apply(object("a", "y", "2")), vec!["a/y@2", "b/x@1"]),
            (Event::Apply(object("b", "x", "3")), vec!["a/y@2", "b/x@3"]),
            (Event::Delete(object("a", "y", "4")), vec!["b/x@3"]),
            (Event::Delete(object("a", "y", "4")), vec!["b/x@3"]),
        ] {
            writer.take(event);
            assert_eq!(state(&store), now);
        }
        assert!(
            store.get_in("b", "x").is_some() && store.get_in("a", "x").is_none() && store.get("x").is_none()
        );
    }

    #[tokio::test]
    async fn a_list_replaces_everything_when_it_is_whole_and_what_came_twice_is_there_as_it_came_last() {
        let mut writer = Writer::default();
        let store = writer.store();
        writer.take(Event::Apply(object("a", "old", "1")));
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("a", "lost", "2")));
        writer.take(Event::Init);
        for (name, version) in [("z", "3"), ("m", "4"), ("z", "5")] {
            writer.take(Event::InitApply(object("a", name, version)));
        }
        assert_eq!(state(&store), ["a/old@1"]);
        writer.take(Event::InitDone);
        assert_eq!(state(&store), ["a/m@4", "a/z@5"]);
        store.wait_until_ready().await;
    }
}
