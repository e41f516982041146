//! What is generated or packaged elsewhere is the same as its source: CRD YAML, the chart's links, versions.
//!
//! `UPDATE_CRDS=1 cargo test -p vgpu-api --test packaged` writes the CRD files anew.

use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;
use vgpu_api::{GpuNode, GpuPolicy};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of the files of a folder with this ending, sorted.
fn files(folder: &Path, ending: &str) -> Vec<String> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|e| e.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|n| n.ends_with(ending));
    names.sort();
    names
}

fn crds() -> [CustomResourceDefinition; 2] {
    [GpuNode::crd(), GpuPolicy::crd()]
}

#[test]
fn the_checked_in_crds_are_the_generated_ones() {
    let folder = root().join("api/crds");
    let mut want = Vec::new();
    for crd in crds() {
        let file = format!("{}.yaml", crd.spec.names.plural);
        let text = serde_saphyr::to_string(&crd).expect("a CRD serialises");
        let text = format!("# Generated from api/src; api/tests/packaged.rs says how.\n{text}");
        let path = folder.join(&file);
        if std::env::var_os("UPDATE_CRDS").is_some() {
            std::fs::write(&path, &text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        }
        assert_eq!(read(&path), text, "{file} is not what api/src generates; see the head of this test");
        assert_eq!(
            yaml(&path),
            serde_json::to_value(&crd).expect("a CRD is JSON"),
            "{file} reads back differently"
        );
        want.push(file);
    }
    want.sort();
    assert_eq!(files(&folder, ".yaml"), want, "a CRD file without a kind, or the other way round");
}

#[test]
fn the_chart_packages_every_crd_and_device_class() {
    for (packaged, source) in
        [("deploy/chart/files/crds", "api/crds"), ("deploy/chart/files/deviceclasses", "deviceclasses")]
    {
        let (packaged, source) = (root().join(packaged), root().join(source));
        let names = files(&source, ".yaml");
        assert!(!names.is_empty(), "{} holds no YAML", source.display());
        assert_eq!(files(&packaged, ".yaml"), names);
        for name in names {
            assert_eq!(read(&packaged.join(&name)), read(&source.join(&name)), "{name}");
        }
    }
}

#[test]
fn the_chart_has_the_version_of_the_workspace() {
    let chart = yaml(&root().join("deploy/chart/Chart.yaml"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Dotted paths of all values, down to what the schema leaves open.
fn paths(values: &Value, schema: &Value, at: &str, found: &mut Vec<String>) {
    let Some(properties) =
        schema["properties"].as_object().filter(|_| schema["additionalProperties"] == false)
    else {
        found.push(at.to_owned());
        return;
    };
    for (name, value) in values.as_object().into_iter().flatten() {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        assert!(properties.contains_key(name), "{at} is in values.yaml but not in values.schema.json");
        paths(value, &properties[name], &at, found);
    }
}

/// The same for the schema alone.
fn schema_paths(schema: &Value, at: &str, found: &mut Vec<String>) {
    let Some(properties) =
        schema["properties"].as_object().filter(|_| schema["additionalProperties"] == false)
    else {
        found.push(at.to_owned());
        return;
    };
    for (name, property) in properties {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        schema_paths(property, &at, found);
    }
}

#[test]
fn every_value_of_the_chart_has_a_default_and_a_schema() {
    let chart = root().join("deploy/chart");
    let schema: Value =
        serde_json::from_str(&read(&chart.join("values.schema.json"))).expect("the schema is JSON");
    let (mut have, mut want) = (Vec::new(), Vec::new());
    paths(&yaml(&chart.join("values.yaml")), &schema, "", &mut have);
    schema_paths(&schema, "", &mut want);
    want.retain(|path| path != "global"); // Helm's own, never set by a chart
    have.sort();
    want.sort();
    assert_eq!(have, want);
}
