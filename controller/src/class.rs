//! DeviceClasses: which are ours, and which GPUs they and the requests' selectors match.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::resource::v1::{DeviceClass, DeviceSelector};
use vgpu_api::names::is_our_class_name;

use crate::selector::{Cause, DeviceView, Selector, SelectorError};
use crate::shapes::Shapes;

/// Expressions kept compiled, and answers kept for each: far more than a cluster has in use.
const KEPT: usize = 4096;

/// Expressions by text, each with what it said about the shapes it has seen: none is evaluated twice.
#[derive(Debug, Default)]
pub struct Selectors {
    known: Mutex<HashMap<String, Arc<Expression>>>,
}

#[derive(Debug)]
struct Expression {
    compiled: Result<Selector, SelectorError>,
    /// By the shape's number, which no other shape ever has.
    answers: Mutex<HashMap<u32, Result<bool, Cause>>>,
}

impl Expression {
    fn matches(&self, number: u32, view: &DeviceView) -> Result<bool, SelectorError> {
        let selector = self.compiled.as_ref().map_err(Clone::clone)?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= KEPT {
            answers.clear();
        }
        let answer = answers.entry(number).or_insert_with(|| selector.evaluate(view));
        answer.clone().map_err(|cause| selector.failed(view, cause))
    }
}

/// Why it is not known which GPUs selectors take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmatched {
    /// One came into use after the GPUs were read ([`Shapes::cover`]): it is known when they are read again.
    New,
    /// One does not compile or fails on a GPU.
    Failed {
        /// Its place in the list.
        at: usize,
        /// Why.
        error: SelectorError,
    },
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
    /// [`Unmatched`]; Kubernetes stops the pod too for an expression that fails.
    pub fn matching(
        &self,
        selectors: &[&DeviceSelector],
        shapes: &Shapes,
    ) -> Result<vgpu_allocator::Shapes, Unmatched> {
        if selectors.is_empty() {
            return Ok(vgpu_allocator::Shapes::Any);
        }
        let mut chosen: Vec<(u32, &DeviceView)> = shapes.all().collect();
        let all = chosen.len();
        for (at, selector) in selectors.iter().enumerate() {
            let text = selector.cel.as_ref().map(|c| c.expression.as_str()).unwrap_or_default();
            let expression = self.get(text);
            // Told even where there is no GPU to evaluate it on.
            if let Err(error) = &expression.compiled {
                return Err(Unmatched::Failed { at, error: error.clone() });
            }
            if !shapes.cover(text) {
                return Err(Unmatched::New);
            }
            let mut kept = Vec::with_capacity(chosen.len());
            for (number, view) in chosen {
                if expression.matches(number, view).map_err(|error| Unmatched::Failed { at, error })? {
                    kept.push((number, view));
                }
            }
            chosen = kept;
        }
        // Those that take every GPU are one kind of request, whatever GPUs there are.
        if chosen.len() == all && all > 0 {
            return Ok(vgpu_allocator::Shapes::Any);
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
        shapes.read(&[Arc::new(serde_json::from_value(slice).unwrap())], std::iter::empty(), &[]);
        shapes
    }

    fn class(expression: &str) -> DeviceClass {
        let class =
            json!({"metadata": {"name": "x"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
        serde_json::from_value(class).unwrap()
    }

    #[test]
    fn an_expression_is_evaluated_once_for_each_shape() {
        let (selectors, shapes) = (Selectors::default(), shapes());
        let class = class(r#"device.attributes["gpu.vgpu-dra.io"].productName == "NVIDIA L4""#);
        let own: Vec<&DeviceSelector> = class.spec.selectors.iter().flatten().collect();
        for _ in 0..3 {
            let chosen = selectors.matching(&own, &shapes);
            assert!(matches!(chosen, Ok(vgpu_allocator::Shapes::Of(shapes)) if shapes.len() == 1));
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
        let Err(Unmatched::Failed { at: 1, error }) = selectors.matching(&own, &shapes) else {
            panic!("the second selector does not fail")
        };
        let text = error.to_string();
        assert!(text.contains("fails on gpu-a") && text.contains("no such key: nothing"), "{text}");
    }

    #[test]
    fn a_selector_that_tells_gpus_of_a_shape_apart_waits_until_they_are_read_with_it() {
        let (selectors, mut shapes) = (Selectors::default(), Shapes::default());
        let gpu = |uuid: &str| {
            json!({"name": uuid, "attributes": {"uuid": {"string": uuid}}, "capacity": {
                "memory": {"value": "16Gi"}, "cores": {"value": "100"}, "shares": {"value": "8"}}})
        };
        let slice = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"driver": DRIVER,
            "nodeName": "a", "devices": [gpu("a"), gpu("b")],
            "pool": {"name": "a/gpu", "generation": 1, "resourceSliceCount": 1}}});
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let text = r#"device.attributes["gpu.vgpu-dra.io"].uuid == "a""#;
        let class = class(text);
        let own: Vec<&DeviceSelector> = class.spec.selectors.iter().flatten().collect();
        shapes.read(&slices, std::iter::empty(), &[]);
        assert_eq!(selectors.matching(&own, &shapes), Err(Unmatched::New));
        let gpus = &shapes.read(&slices, std::iter::once(text), &[])["a"];
        let only = |gpu: &vgpu_allocator::Gpu| Ok(vgpu_allocator::Shapes::Of([gpu.shape].into()));
        assert_eq!(selectors.matching(&own, &shapes), only(&gpus[0]));
        assert_ne!(gpus[0].shape, gpus[1].shape);
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
