//! DeviceClasses: which are ours, and which GPUs they and the requests' selectors match.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::resource::v1::{DeviceClass, DeviceSelector};
use vgpu_api::names::is_our_class_name;

use crate::selector::{Selector, SelectorError};
use crate::shapes::Shapes;

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
        let all = chosen.len();
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
        // Those that take every GPU are one kind of request, whatever GPUs there are.
        Ok(if chosen.len() == all && all > 0 {
            vgpu_allocator::Shapes::Any
        } else {
            vgpu_allocator::Shapes::Of(chosen)
        })
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
        && match selectors.matching(&own, shapes) {
            Ok(vgpu_allocator::Shapes::Of(chosen)) => !chosen.is_empty(),
            Ok(vgpu_allocator::Shapes::Any) => true,
            Err(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vgpu_api::names::DRIVER;

    use super::*;

    fn shapes() -> Shapes {
        let device = |(name, product): (&str, &str)| json!({"name": name, "attributes": {"productName": {"string": product}}});
        let devices = [("gpu-a", "Tesla T4"), ("gpu-b", "Tesla T4"), ("gpu-c", "NVIDIA L4")].map(device);
        let slice = json!({"metadata": {"name": "a"}, "spec": {"driver": DRIVER, "nodeName": "a", "devices": devices,
            "pool": {"name": "a/gpu", "generation": 1, "resourceSliceCount": 1}}});
        let mut shapes = Shapes::default();
        shapes.read(&[Arc::new(serde_json::from_value(slice).unwrap())], std::iter::empty());
        shapes
    }

    fn class(expression: &str) -> DeviceClass {
        let class =
            json!({"metadata": {"name": "x"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
        serde_json::from_value(class).unwrap()
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
