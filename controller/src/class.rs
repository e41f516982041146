//! DeviceClasses: which are ours, and which GPUs they and the requests' selectors match.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::resource::v1::{Device, DeviceClass, DeviceSelector};
use vgpu_api::names::{DRIVER, is_our_class_name};

use crate::selector::{DeviceView, Selector, SelectorError};

/// GPUs that look the same to every selector share a shape.
#[derive(Debug, Clone, Default)]
pub struct Shapes {
    numbers: BTreeMap<String, u32>,
    views: Vec<Arc<DeviceView>>,
}

impl Shapes {
    /// Shape of a device.
    pub fn of(&mut self, device: &Device) -> u32 {
        // Attributes and capacities are ordered maps, so equal devices give equal text.
        let key = serde_json::to_string(&(&device.attributes, &device.capacity)).unwrap_or_default();
        let next = u32::try_from(self.views.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(key).or_insert_with(|| {
            self.views.push(Arc::new(DeviceView::new(DRIVER, device)));
            next
        })
    }

    fn all(&self) -> impl Iterator<Item = (u32, &DeviceView)> {
        (0u32..).zip(self.views.iter().map(Arc::as_ref))
    }
}

/// Compiled expressions by text.
#[derive(Debug, Default)]
pub struct Selectors {
    compiled: Mutex<HashMap<String, Arc<Result<Selector, SelectorError>>>>,
}

impl Selectors {
    fn get(&self, text: &str) -> Arc<Result<Selector, SelectorError>> {
        let mut compiled = self.compiled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        compiled.entry(text.to_owned()).or_insert_with(|| Arc::new(Selector::compile(text))).clone()
    }

    /// Shapes that all expressions select.
    ///
    /// # Errors
    /// The first expression that does not compile or fails on a GPU; Kubernetes stops the pod for that too.
    pub fn matching(
        &self,
        selectors: &[&DeviceSelector],
        shapes: &Shapes,
    ) -> Result<vgpu_allocator::Shapes, SelectorError> {
        if selectors.is_empty() {
            return Ok(vgpu_allocator::Shapes::Any);
        }
        let mut chosen: BTreeSet<u32> = shapes.all().map(|(number, _)| number).collect();
        for selector in selectors {
            let text = selector.cel.as_ref().map(|c| c.expression.as_str()).unwrap_or_default();
            let compiled = self.get(text);
            let compiled = compiled.as_ref().as_ref().map_err(Clone::clone)?;
            for (number, view) in shapes.all().filter(|(n, _)| chosen.contains(n)).collect::<Vec<_>>() {
                if !compiled.matches(view)? {
                    chosen.remove(&number);
                }
            }
        }
        Ok(vgpu_allocator::Shapes::Of(chosen))
    }
}

/// Whether claims of a class are this driver's to allocate: by its name, or because it selects one of our devices.
pub fn is_ours(class: &str, known: Option<&DeviceClass>, selectors: &Selectors, shapes: &Shapes) -> bool {
    if is_our_class_name(class) {
        return true;
    }
    let own: Vec<&DeviceSelector> =
        known.and_then(|c| c.spec.selectors.as_deref()).into_iter().flatten().collect();
    // A class without selectors takes any device of any driver: claiming it for us would take others' pods.
    !own.is_empty()
        && matches!(selectors.matching(&own, shapes), Ok(vgpu_allocator::Shapes::Of(chosen)) if !chosen.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shapes() -> Shapes {
        let mut shapes = Shapes::default();
        for (name, product) in [("gpu-a", "Tesla T4"), ("gpu-b", "Tesla T4"), ("gpu-c", "NVIDIA L4")] {
            let device = json!({"name": name, "attributes": {"productName": {"string": product}}});
            shapes.of(&serde_json::from_value(device).unwrap());
        }
        shapes
    }

    fn class(expression: &str) -> DeviceClass {
        let class =
            json!({"metadata": {"name": "x"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
        serde_json::from_value(class).unwrap()
    }

    #[test]
    fn devices_alike_share_a_shape() {
        assert_eq!(shapes().views.len(), 2);
    }

    #[test]
    fn a_class_is_ours_by_name_or_by_what_it_selects() {
        let (selectors, shapes) = (Selectors::default(), shapes());
        let ours =
            |name: &str, expression: &str| is_ours(name, Some(&class(expression)), &selectors, &shapes);
        assert!(is_ours("h100-80gb.gpu.vgpu-dra.io", None, &selectors, &shapes));
        assert!(ours("team-gpus", r#"device.driver == "gpu.vgpu-dra.io""#));
        assert!(!ours("others", r#"device.driver == "gpu.nvidia.com""#));
        assert!(!ours("broken", "device.driver =="));
        assert!(!is_ours("missing", None, &selectors, &shapes));
    }
}
