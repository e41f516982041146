//! What is worked out of an object once per version of it. A pass looks at everything there is, and hardly anything of that
//! is another than in the last pass.

use std::collections::HashMap;
use std::sync::Arc;

/// Facts of objects of one kind.
#[derive(Debug)]
pub struct Facts<K, F> {
    /// By address: a watch brings a changed object at another one, and while it is here nothing else gets its own.
    known: HashMap<usize, (Arc<K>, F)>,
}

impl<K, F> Default for Facts<K, F> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<K, F> Facts<K, F> {
    /// Takes in what there is now, and forgets what is not there any more.
    pub fn update(&mut self, objects: &[Arc<K>], read: impl Fn(&K) -> F) {
        let mut old = std::mem::take(&mut self.known);
        let fact = |object: &Arc<K>| {
            let at = Arc::as_ptr(object).addr();
            (at, old.remove(&at).unwrap_or_else(|| (object.clone(), read(object))))
        };
        self.known = objects.iter().map(fact).collect();
    }

    /// What was worked out of an object, if it was there at the last update.
    pub fn of(&self, object: &Arc<K>) -> Option<&F> {
        self.known.get(&Arc::as_ptr(object).addr()).map(|(_, fact)| fact)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_version_is_read_once_and_forgotten_with_its_object() {
        let (mut facts, read) = (Facts::default(), Cell::new(0));
        let length = |text: &String| {
            read.set(read.get() + 1);
            text.len()
        };
        let (one, two) = (Arc::new("one".to_owned()), Arc::new("three".to_owned()));
        facts.update(&[one.clone(), two.clone()], length);
        facts.update(&[two.clone(), one.clone()], length);
        assert_eq!((facts.of(&one), facts.of(&two), read.get()), (Some(&3), Some(&5), 2));
        let changed = Arc::new("four".to_owned());
        facts.update(&[changed.clone(), two.clone()], length);
        assert_eq!((facts.of(&one), facts.of(&changed), read.get()), (None, Some(&4), 3));
    }
}
