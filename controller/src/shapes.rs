//! GPUs that look the same to every selector in use share a *shape*: selectors are answered once per shape, and the engine
//! tells GPUs apart by it.
//!
//! Hardly two GPUs have the same attributes: a UUID tells each from all others. But few expressions look at such
//! attributes. So a shape is what is left without them, and beside that which of the expressions in use that may look at
//! them select the GPU. Numbers last as long as the controller: what was learnt of pods is told in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::resource::v1::DeviceToleration;
use kube::ResourceExt;
use vgpu_allocator::Gpu;
use vgpu_api::names::DRIVER;

use crate::selector::{DeviceView, Selector, SelectorError};
use crate::slice::{self, Device, Slice};
use crate::taint::{Rule, Taint};

/// Attributes that tell a GPU from others of its model, without their domain.
const OWN: [&str; 6] = ["uuid", "minor", "pciBusID", "pcieRoot", "numaNode", "nvlinkGroup"];
/// Shapes that are remembered although no GPU has them.
const PAST: usize = 4096;

/// Every shape there is.
#[derive(Debug, Default)]
pub struct Shapes {
    numbers: BTreeMap<String, u32>,
    next: u32,
    /// A GPU of each shape there is now.
    views: BTreeMap<u32, Arc<Shape>>,
    /// Expressions in use that may look at what tells GPUs apart.
    sharp: Vec<Sharp>,
    /// Rules that give GPUs taints.
    rules: Vec<Rule>,
    /// GPUs of slices (by name) as they were read.
    slices: HashMap<String, Known>,
}

/// An expression that may look at what tells GPUs apart, compiled.
type Sharp = (String, Result<Selector, SelectorError>);

/// A slice's GPUs.
#[derive(Debug)]
struct Known {
    version: Option<String>,
    gpus: Vec<Gpu>,
    views: Vec<(u32, Arc<Shape>)>,
}

/// What GPUs of a shape have in common.
#[derive(Debug)]
struct Shape {
    /// Of one of them.
    view: DeviceView,
    taints: Vec<Taint>,
}

/// Whether an expression may look at what tells a GPU from others of its model. It does not if it reads the device only
/// by plain names, and none of them is such an attribute.
fn is_sharp(expression: &str) -> bool {
    let mut rest = expression;
    while let Some(at) = rest.find("device") {
        rest = &rest[at + "device".len()..];
        match plain(rest) {
            Some((name, after)) if !OWN.contains(&name) => rest = after,
            _ => return true,
        }
    }
    false
}

/// The name that is read of a device, and what follows it: `.driver`, `.attributes["domain"].name`,
/// `.capacity["domain"]["name"]`. `None` for everything else.
fn plain(text: &str) -> Option<(&str, &str)> {
    let (field, rest) = identifier(text.strip_prefix('.')?);
    match field {
        "driver" | "allowMultipleAllocations" => Some((field, rest)),
        "attributes" | "capacity" => {
            let (_, rest) = literal(rest)?;
            let Some(rest) = rest.strip_prefix('.') else { return literal(rest) };
            let (name, rest) = identifier(rest.strip_prefix('?').unwrap_or(rest));
            // A call is one on all names together.
            let is_name = !name.is_empty() && !rest.trim_start().starts_with('(');
            is_name.then_some((name, rest))
        }
        _ => None,
    }
}

fn identifier(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len()))
}

/// `["text"]`, with nothing in the text that needs to be understood.
fn literal(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('[')?;
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (text, rest) = text[1..].split_once(quote)?;
    Some((text, rest.strip_prefix(']')?)).filter(|_| !text.contains('\\'))
}

impl Shapes {
    /// Reads the GPUs of all slices, in order, under all expressions in use and these rules. Returns them by node.
    pub fn read<'a>(
        &mut self,
        slices: &[Arc<Slice>],
        expressions: impl Iterator<Item = &'a str>,
        rules: &[Rule],
    ) -> BTreeMap<String, Vec<Gpu>> {
        let sharp: BTreeSet<&str> = expressions.filter(|e| is_sharp(e)).collect();
        if !sharp.iter().copied().eq(self.sharp.iter().map(|(text, _)| text.as_str())) {
            self.sharp = sharp.into_iter().map(|text| (text.to_owned(), Selector::compile(text))).collect();
            self.slices.clear();
        }
        if self.rules != rules {
            self.rules = rules.to_vec();
            self.slices.clear();
        }
        let sharp = std::mem::take(&mut self.sharp);
        self.views.clear();
        let mut gpus: BTreeMap<String, Vec<Gpu>> = BTreeMap::new();
        let mut slices_now = HashMap::with_capacity(slices.len());
        for slice in slices {
            let Some(node) = slice.spec.node_name.clone() else { continue };
            let name = slice.name_any();
            let known = self
                .slices
                .remove(&name)
                .filter(|k| k.version.is_some() && k.version == slice.resource_version());
            let known = known.unwrap_or_else(|| self.read_slice(slice, &sharp));
            for (shape, view) in &known.views {
                self.views.entry(*shape).or_insert_with(|| view.clone());
            }
            gpus.entry(node).or_default().extend(known.gpus.iter().cloned());
            slices_now.insert(name, known);
        }
        self.slices = slices_now;
        self.sharp = sharp;
        if self.numbers.len() > self.views.len() + PAST {
            let views = &self.views;
            self.numbers.retain(|_, number| views.contains_key(number));
        }
        gpus
    }

    fn read_slice(&mut self, slice: &Slice, sharp: &[Sharp]) -> Known {
        let mut known = Known { version: slice.resource_version(), gpus: Vec::new(), views: Vec::new() };
        for device in slice.spec.devices.as_deref().unwrap_or_default() {
            let taints = Taint::of(&slice.spec.pool.name, device, &self.rules);
            let shape = self.of(device, &taints, sharp);
            known.gpus.extend(slice::engine_gpu(device, shape));
            if known.views.iter().all(|(number, _)| *number != shape) {
                let view = DeviceView::new(DRIVER, device);
                known.views.push((shape, Arc::new(Shape { view, taints })));
            }
        }
        known
    }

    fn of(&mut self, device: &Device, taints: &[Taint], sharp: &[Sharp]) -> u32 {
        let is_own = |name: &String| OWN.contains(&name.rsplit('/').next().unwrap_or(name));
        let shared: BTreeMap<_, _> = device.attributes.iter().flatten().filter(|(n, _)| !is_own(n)).collect();
        let view = DeviceView::new(DRIVER, device);
        // One that does not select the GPU says nothing of it: a new expression changes the shapes of few.
        let told =
            sharp.iter().filter_map(|(text, selector)| match selector.as_ref().map(|s| s.matches(&view)) {
                Ok(Ok(false)) => None,
                Ok(Ok(true)) => Some((text, true)),
                Ok(Err(_)) | Err(_) => Some((text, false)),
            });
        let told: Vec<_> = told.collect();
        // Attributes and capacities are ordered maps, so GPUs that are alike give equal text.
        let key = (shared, &device.capacity, device.allow_multiple_allocations, told, taints);
        let key = serde_json::to_string(&key).unwrap_or_default();
        *self.numbers.entry(key).or_insert_with(|| {
            self.next = self.next.wrapping_add(1);
            self.next
        })
    }

    /// Whether an expression says the same of all GPUs of a shape. One that came into use after the GPUs were read may not.
    pub fn cover(&self, expression: &str) -> bool {
        !is_sharp(expression) || self.sharp.iter().any(|(text, _)| text == expression)
    }

    /// Every shape there is, with a GPU of it.
    pub fn all(&self) -> impl Iterator<Item = (u32, &DeviceView)> {
        self.views.iter().map(|(number, shape)| (*number, &shape.view))
    }

    /// Shapes that a request with these tolerations may not have.
    pub fn barred(&self, tolerations: &[DeviceToleration]) -> BTreeSet<u32> {
        let repels = |shape: &Shape| shape.taints.iter().any(|t| !t.is_tolerated(tolerations));
        self.views.iter().filter(|(_, shape)| repels(shape)).map(|(number, _)| *number).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(node: &str, version: &str, gpus: &[(&str, &str)]) -> Arc<Slice> {
        let device = |(uuid, product): &(&str, &str)| {
            json!({
                "name": uuid.to_lowercase(),
                "attributes": {"uuid": {"string": uuid}, "productName": {"string": product}},
                "capacity": {"memory": {"value": "16Gi"}, "cores": {"value": "100"}, "shares": {"value": "64"}},
            })
        };
        let devices: Vec<Value> = gpus.iter().map(device).collect();
        let slice = json!({
            "metadata": {"name": format!("{node}-0"), "resourceVersion": version},
            "spec": {"driver": DRIVER, "nodeName": node, "devices": devices,
                     "pool": {"name": format!("{node}/gpu"), "generation": 1, "resourceSliceCount": 1}},
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    /// Shapes of all GPUs in the order of nodes and devices, from the lowest.
    fn shapes(known: &mut Shapes, slices: &[Arc<Slice>], expressions: &[&str]) -> Vec<u32> {
        let gpus = known.read(slices, expressions.iter().copied(), &[]);
        gpus.values().flatten().map(|gpu| gpu.shape).collect()
    }

    const BY_UUID: &str = r#"device.attributes["gpu.vgpu-dra.io"].uuid == "GPU-B""#;

    #[test]
    fn gpus_of_a_model_share_a_shape_whatever_their_uuid() {
        let slices =
            [slice("a", "1", &[("GPU-A", "T4"), ("GPU-B", "T4")]), slice("b", "1", &[("GPU-C", "L4")])];
        assert_eq!(shapes(&mut Shapes::default(), &slices, &[]), [1, 1, 2]);
    }

    #[test]
    fn a_gpu_that_is_selected_by_its_uuid_has_a_shape_of_its_own_while_that_is_asked() {
        let slices = [slice("a", "1", &[("GPU-A", "T4"), ("GPU-B", "T4"), ("GPU-C", "T4")])];
        let mut known = Shapes::default();
        assert_eq!(shapes(&mut known, &slices, &[]), [1, 1, 1]);
        assert_eq!(shapes(&mut known, &slices, &[BY_UUID]), [1, 2, 1]);
        let selector = Selector::compile(BY_UUID).unwrap();
        let selected: Vec<u32> =
            known.all().filter(|(_, v)| selector.matches(v).unwrap()).map(|s| s.0).collect();
        assert_eq!(selected, [2]);
        assert_eq!(shapes(&mut known, &slices, &[]), [1, 1, 1]);
    }

    #[test]
    fn gpus_with_a_taint_are_barred_to_those_who_do_not_tolerate_it() {
        let slices = [slice("a", "1", &[("GPU-A", "T4"), ("GPU-B", "T4")])];
        let mut known = Shapes::default();
        let taint = json!({"key": "broken", "effect": "NoSchedule"});
        let rule = Rule::read(&json!({"deviceSelector": {"device": "gpu-b"}, "taint": taint})).unwrap();
        let gpus = &known.read(&slices, std::iter::empty(), &[rule])["a"];
        assert_ne!(gpus[0].shape, gpus[1].shape);
        assert_eq!(known.barred(&[]), BTreeSet::from([gpus[1].shape]));
        let tolerates = serde_json::from_value(json!({"key": "broken", "operator": "Exists"})).unwrap();
        assert!(known.barred(&[tolerates]).is_empty());
        known.read(&slices, std::iter::empty(), &[]);
        assert!(known.barred(&[]).is_empty(), "the rule is gone");
    }

    #[test]
    fn a_shape_keeps_its_number_when_others_come_before_it() {
        let mut known = Shapes::default();
        assert_eq!(shapes(&mut known, &[slice("b", "1", &[("GPU-C", "L4")])], &[]), [1]);
        let both = [slice("a", "1", &[("GPU-A", "T4")]), slice("b", "1", &[("GPU-C", "L4")])];
        assert_eq!(shapes(&mut known, &both, &[]), [2, 1]);
    }

    #[test]
    fn a_slice_that_changed_is_read_again() {
        let mut known = Shapes::default();
        assert_eq!(shapes(&mut known, &[slice("a", "1", &[("GPU-A", "T4")])], &[]), [1]);
        assert_eq!(shapes(&mut known, &[slice("a", "2", &[("GPU-A", "L4")])], &[]), [2]);
    }

    #[test]
    fn only_expressions_that_read_plain_names_are_blunt() {
        for blunt in [
            r#"device.driver == "gpu.vgpu-dra.io""#,
            r#"device.attributes["gpu.vgpu-dra.io"].productName.matches("^NVIDIA A100")"#,
            r#"has(device.attributes['gpu.vgpu-dra.io'].brand) && device.capacity["gpu.vgpu-dra.io"]["memory"].isGreaterThan(quantity("20Gi"))"#,
            "true",
        ] {
            assert!(!is_sharp(blunt), "{blunt}");
        }
        for sharp in [
            BY_UUID,
            r#"device.attributes["resource.kubernetes.io"].pcieRoot == "pci0000:3a""#,
            r#"device.attributes["gpu.vgpu-dra.io"]["minor"] == 0"#,
            r#"device.attributes["gpu.vgpu-dra.io"].exists(k, k == "x")"#,
            r#"device.attributes["gpu.vgpu-dra.io"]["uu" + "id"] == "GPU-B""#,
            r#"device.attributes.size() > 2"#,
            r#"device.attributes[r"gpu.vgpu-dra.io"].brand == "x""#,
            r#"[device].all(d, true)"#,
        ] {
            assert!(is_sharp(sharp), "{sharp}");
        }
    }
}
