//! Every DeviceClass of `deviceclasses/` against every name of `deviceclasses/product-names.tsv`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vgpu_api::names::{DRIVER, MODEL_CLASS_SUFFIX};
use vgpu_controller::selector::{DeviceView, Selector};
use vgpu_controller::slice::Device;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deviceclasses")
}

/// A class's selectors; a device must match all.
struct Class(Vec<Selector>);

impl Class {
    fn selects(&self, device: &DeviceView) -> bool {
        self.0.iter().all(|selector| selector.matches(device).expect("a selector knows every device"))
    }
}

/// Classes by name.
fn classes() -> BTreeMap<String, Class> {
    let files = std::fs::read_dir(folder()).expect("deviceclasses/ is there");
    let yaml = files
        .map(|f| f.expect("a readable folder").path())
        .filter(|f| f.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|path| {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let class: Value =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = class["metadata"]["name"].as_str().expect("a class has a name").to_owned();
        let stem = path.file_stem().expect("a file has a name").to_string_lossy();
        let want = if stem == "gpu" { DRIVER.to_owned() } else { format!("{stem}{MODEL_CLASS_SUFFIX}") };
        assert_eq!(name, want, "the class in {}", path.display());
        let selectors = class["spec"]["selectors"].as_array().expect("a class has selectors");
        let compile = |selector: &Value| {
            let source = selector["cel"]["expression"].as_str().expect("a selector is CEL");
            Selector::compile(source).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        (name.clone(), Class(selectors.iter().map(compile).collect()))
    })
    .collect()
}

/// A driver's device with attributes of our domain.
fn device(driver: &str, attributes: &Value) -> DeviceView {
    let qualified = |(name, value): (&String, &Value)| (format!("{DRIVER}/{name}"), json!({"string": value}));
    let attributes: BTreeMap<_, _> = attributes.as_object().into_iter().flatten().map(qualified).collect();
    let device: Device = serde_json::from_value(json!({"name": "gpu", "attributes": attributes}))
        .expect("a device has attributes");
    DeviceView::new(driver, &device)
}

/// Names of the classes that select a device.
fn selecting(classes: &BTreeMap<String, Class>, device: &DeviceView) -> Vec<String> {
    classes.iter().filter(|(_, class)| class.selects(device)).map(|(name, _)| name.clone()).collect()
}

/// Product name and model (`none` for no class) of every line.
fn table() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder().join("product-names.tsv")).expect("the table is there");
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|l| l.split_once('\t').unwrap_or_else(|| panic!("no tab in {l:?}")))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

#[test]
fn every_product_name_is_in_its_class_and_in_no_other_model() {
    let classes = classes();
    for (product, model) in table() {
        let mut want = vec![DRIVER.to_owned()];
        if model != "none" {
            want.push(format!("{model}{MODEL_CLASS_SUFFIX}"));
        }
        want.sort();
        assert_eq!(selecting(&classes, &device(DRIVER, &json!({"productName": product}))), want, "{product}");
    }
}

#[test]
fn the_table_has_every_class_and_no_name_twice() {
    let mut models: Vec<String> =
        table().into_iter().map(|(_, model)| model).filter(|m| m != "none").collect();
    models.sort();
    models.dedup();
    let mut want: Vec<String> =
        classes().keys().filter_map(|n| n.strip_suffix(MODEL_CLASS_SUFFIX)).map(Into::into).collect();
    want.sort();
    assert_eq!(models, want);
    let mut names: Vec<String> = table().into_iter().map(|(name, _)| name).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a product name stands twice");
}

#[test]
fn another_driver_s_device_is_in_no_class() {
    for (product, _) in table() {
        let found = selecting(&classes(), &device("gpu.nvidia.com", &json!({"productName": product})));
        assert!(found.is_empty(), "{product} of another driver is in {found:?}");
    }
}

#[test]
fn a_device_without_a_product_name_is_in_the_general_class_alone() {
    assert_eq!(selecting(&classes(), &device(DRIVER, &json!({}))), [DRIVER]);
}
