//! One copy of what many objects say alike: pods of one template, and their claims, differ in little but their names.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that others may have too. Reads as the value itself.
#[derive(Debug, Default, PartialEq)]
pub struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

/// Copies that are in use, by what they say.
#[derive(Debug)]
pub struct Copies<T> {
    known: HashMap<String, Weak<T>>,
    /// With so many the unused ones are forgotten.
    enough: usize,
}

impl<T> Default for Copies<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), enough: 64 }
    }
}

impl<T: Serialize> Copies<T> {
    /// Replaces a value by the one that is in use already, if there is one that says the same.
    pub fn share(&mut self, value: &mut Shared<T>) {
        // What cannot be written as JSON did not come from an API server; it is as good unshared.
        let Ok(says) = serde_json::to_string(&**value) else { return };
        if let Some(copy) = self.known.get(&says).and_then(Weak::upgrade) {
            value.0 = copy;
            return;
        }
        if self.known.len() >= self.enough {
            self.known.retain(|_, copy| copy.strong_count() > 0);
            self.enough = (self.known.len() * 2).max(64);
        }
        self.known.insert(says, Arc::downgrade(&value.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_is_one_copy_and_what_differs_is_not() {
        let mut copies = Copies::default();
        let mut values: Vec<Shared<Vec<u32>>> = vec![vec![1].into(), vec![1].into(), vec![2].into()];
        values.iter_mut().for_each(|v| copies.share(v));
        assert!(Arc::ptr_eq(&values[0].0, &values[1].0));
        assert_eq!((&*values[1], &*values[2]), (&vec![1], &vec![2]));
    }

    #[test]
    fn copies_nobody_uses_are_forgotten() {
        let mut copies = Copies::default();
        let mut kept: Shared<u32> = 0.into();
        copies.share(&mut kept);
        for number in 1..10_000 {
            copies.share(&mut number.into());
        }
        assert!(copies.known.len() <= 65, "{}", copies.known.len());
        let mut again = 0.into();
        copies.share(&mut again);
        assert!(Arc::ptr_eq(&kept.0, &again.0));
    }
}
