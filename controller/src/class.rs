//! DeviceClasses: which are ours, and which GPUs they and the requests' selectors match.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::resource::v1::{Device, DeviceClass, DeviceSelector};
use vgpu_api::names::{DRIVER, is_our_class_name};

use crate::selector::{Cause, DeviceView, Selector, SelectorError};

/// Expressions kept compiled, and answers kept for each: far more than a cluster has in use.
const KEPT: usize = 4096;

/// GPUs that look the same to every selector share a shape.
#[derive(Debug, Clone, Default)]
pub struct Shapes {
    numbers: BTreeMap<Arc<str>, u32>,
    shapes: Vec<Shape>,
}

#[derive(Debug, Clone)]
struct Shape {
    /// What a selector can see of it, as text.
    key: Arc<str>,
    view: Arc<DeviceView>,
}

impl Shapes {
    /// Shape of a device.
    pub fn of(&mut self, device: &Device) -> u32 {
        // Attributes and capacities are ordered maps, so equal devices give equal text.
        let seen = (&device.attributes, &device.capacity, device.allow_multiple_allocations);
        let key: Arc<str> = serde_json::to_string(&seen).unwrap_or_default().into();
        let next = u32::try_from(self.shapes.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(key.clone()).or_insert_with(|| {
            self.shapes.push(Shape { key, view: Arc::new(DeviceView::new(DRIVER, device)) });
            next
        })
    }

    fn all(&self) -> impl Iterator<Item = (u32, &Shape)> {
        (0u32..).zip(&self.shapes)
    }
}

/// Expressions by text, each with what it said about the shapes it has seen: none is evaluated twice.
#[derive(Debug, Default)]
pub struct Selectors {
    known: Mutex<HashMap<String, Arc<Expression>>>,
}

#[derive(Debug)]
struct Expression {
    compiled: Result<Selector, SelectorError>,
    answers: Mutex<HashMap<Arc<str>, Result<bool, Cause>>>,
}

impl Expression {
    fn matches(&self, shape: &Shape) -> Result<bool, SelectorError> {
        let selector = self.compiled.as_ref().map_err(Clone::clone)?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= KEPT {
            answers.clear();
        }
        let answer = answers.entry(shape.key.clone()).or_insert_with(|| selector.evaluate(&shape.view));
        answer.clone().map_err(|cause| selector.failed(&shape.view, cause))
    }
}

/// A selector that does not compile or fails on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its place in the list.
    pub at: usize,
    /// Why.
    pub error: SelectorError,
}

impl Selectors {
    fn get(&self, text: &str) -> Arc<Expression> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expression) = known.get(text) {
            return expression.clone();
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let expression =
            Arc::new(Expression { compiled: Selector::compile(text), answers: Mutex::default() });
        known.insert(text.to_owned(), expression.clone());
        expression
    }

    /// Shapes that all expressions select.
    ///
    /// # Errors
    /// The first expression that does not compile or fails on a GPU; Kubernetes stops the pod for that too.
    pub fn matching(
        &self,
        selectors: &[&DeviceSelector],
        shapes: &Shapes,
    ) -> Result<vgpu_allocator::Shapes, Failed> {
        if selectors.is_empty() {
            return Ok(vgpu_allocator::Shapes::Any);
        }
        let mut chosen: Vec<(u32, &Shape)> = shapes.all().collect();
        for (at, selector) in selectors.iter().enumerate() {
            let text = selector.cel.as_ref().map(|c| c.expression.as_str()).unwrap_or_default();
            let expression = self.get(text);
            // Told even where there is no GPU to evaluate it on.
            if let Err(error) = &expression.compiled {
                return Err(Failed { at, error: error.clone() });
            }
            let mut kept = Vec::with_capacity(chosen.len());
            for (number, shape) in chosen {
                if expression.matches(shape).map_err(|error| Failed { at, error })? {
                    kept.push((number, shape));
                }
            }
            chosen = kept;
        }
        let chosen: BTreeSet<u32> = chosen.into_iter().map(|(number, _)| number).collect();
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
        assert_eq!(shapes().shapes.len(), 2);
    }

    #[test]
    fn whether_a_device_can_be_shared_is_part_of_its_shape() {
        let mut shapes = Shapes::default();
        let device =
            |shared| serde_json::from_value(json!({"name": "gpu", "allowMultipleAllocations": shared}));
        assert_ne!(shapes.of(&device(true).unwrap()), shapes.of(&device(false).unwrap()));
    }

    #[test]
    fn an_expression_is_evaluated_once_for_each_shape() {
        let (selectors, shapes) = (Selectors::default(), shapes());
        let class = class(r#"device.attributes["gpu.vgpu-dra.io"].productName == "NVIDIA L4""#);
        let own: Vec<&DeviceSelector> = class.spec.selectors.iter().flatten().collect();
        for _ in 0..3 {
            let chosen = selectors.matching(&own, &shapes);
            assert_eq!(chosen, Ok(vgpu_allocator::Shapes::Of([1].into())));
        }
        let expression = selectors.get(&own[0].cel.as_ref().unwrap().expression);
        assert_eq!(expression.answers.lock().unwrap().len(), 2);
    }

    #[test]
    fn the_selector_that_fails_is_named_by_its_place() {
        let (selectors, shapes) = (Selectors::default(), shapes());
        let classes = [class("true"), class(r#"device.attributes["gpu.vgpu-dra.io"].nothing == 1"#)];
        let own: Vec<&DeviceSelector> =
            classes.iter().flat_map(|c| c.spec.selectors.iter().flatten()).collect();
        let failed = selectors.matching(&own, &shapes).unwrap_err();
        assert_eq!(failed.at, 1);
        let text = failed.error.to_string();
        assert!(text.contains("fails on gpu-a") && text.contains("no such key: nothing"), "{text}");
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
