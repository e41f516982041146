//! Pure: what each GPU has of an attribute, for the constraints of claims.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use vgpu_api::names::DRIVER;

use crate::slice::{Attribute, Device, Slice};

/// An attribute of a device by its full name, `domain/name`; one without a domain in the slice has the driver's.
pub(crate) fn of<'a>(device: &'a Device, name: &str) -> Option<&'a Attribute> {
    let attributes = device.attributes.as_ref()?;
    attributes.get(name).or_else(|| match name.split_once('/') {
        Some((domain, own)) if domain == DRIVER => attributes.get(own),
        _ => None,
    })
}

fn values(slices: &[Arc<Slice>], name: &str) -> Values {
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for device in slices.iter().flat_map(|s| s.spec.devices.iter().flatten()) {
        let Some(value) = of(device, name) else { continue };
        // Its kind is part of the text, so that the number 1 and the string "1" are different values.
        let text = serde_json::to_string(value).unwrap_or_default();
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        found.insert(device.name.clone(), *numbers.entry(text).or_insert(next));
    }
    found
}

/// A number for each GPU that has an attribute, by device name; numbers are equal where the values are.
type Values = BTreeMap<String, u32>;

/// What was asked for of the slices as they are now.
#[derive(Debug, Default)]
pub struct Attributes(Mutex<HashMap<String, Arc<Values>>>);

impl Attributes {
    /// The slices may be others now.
    pub fn forget(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Values of an attribute by its full name.
    pub fn get(&self, name: &str, slices: impl FnOnce() -> Vec<Arc<Slice>>) -> Arc<Values> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(name.to_owned()).or_insert_with(|| Arc::new(values(&slices(), name))).clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_values_are_equal_and_a_gpu_without_one_is_left_out() {
        let gpu = |name: &str, attributes: serde_json::Value| json!({"name": name, "attributes": attributes});
        let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": DRIVER, "pool": {"name": "p",
            "generation": 1, "resourceSliceCount": 1}, "devices": [
            gpu("a", json!({"model": {"string": "T4"}, "resource.kubernetes.io/pcieRoot": {"string": "x"}})),
            gpu("b", json!({"model": {"string": "L4"}})),
            gpu("c", json!({"model": {"string": "T4"}})),
            gpu("d", json!({"model": {"int": 4}})),
        ]}});
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let model = values(&slices, "gpu.vgpu-dra.io/model");
        assert!(model["a"] == model["c"] && model["a"] != model["b"] && model.len() == 4, "{model:?}");
        assert_eq!(values(&slices, "resource.kubernetes.io/pcieRoot").len(), 1);
        assert!(values(&slices, "other.example.com/model").is_empty());
    }
}
