//! Every answer of Kubernetes' own library (`e2e/cel/answers.tsv`) against ours.

use std::path::Path;

use serde_json::Value as Json;
use vgpu_controller::selector::{Cause, DeviceView, Selector, SelectorError};
use vgpu_controller::slice::Device;

/// Where we knowingly differ, as `docs/user-guide.md` says: messages are no values here, as no device has one.
const UNSUPPORTED: &str = "google.protobuf.";
/// What follows a message's name, and no name of a type.
const MESSAGE: &str = "{";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What was asked.
fn cases() -> Json {
    serde_saphyr::from_str(&read("cel/cases.yaml")).expect("cases.yaml is YAML")
}

fn devices(cases: &Json) -> Vec<DeviceView> {
    let view = |device: &Json| {
        let parsed: Device = serde_json::from_value(device.clone()).expect("a case's device is a Device");
        DeviceView::new(device["driver"].as_str().expect("a case's device has a driver"), &parsed)
    };
    list(&cases["devices"]).iter().map(view).collect()
}

fn list(value: &Json) -> &[Json] {
    value.as_array().expect("a list")
}

fn texts(values: &[Json]) -> Vec<String> {
    values.iter().map(|v| v.as_str().expect("text").to_owned()).collect()
}

/// An expression and an answer for each device.
type Row = (String, Vec<String>);

/// The table of answers.
struct Table {
    /// The library and its version.
    library: String,
    devices: Vec<String>,
    groups: Vec<(String, Vec<Row>)>,
}

fn table() -> Table {
    let text = read("cel/answers.tsv");
    let mut lines = text.lines();
    let library =
        lines.next().and_then(|l| l.strip_prefix("# ")).expect("a line with the library").to_owned();
    let head = lines.next().and_then(|l| l.strip_prefix("expression\t")).expect("a line with the devices");
    let mut groups: Vec<(String, Vec<Row>)> = Vec::new();
    for line in lines {
        if let Some(group) = line.strip_prefix("# ") {
            groups.push((group.to_owned(), Vec::new()));
            continue;
        }
        let (quoted, answers) = line.split_once('\t').expect("an expression and its answers");
        // Go quotes as JSON does, but for a few escapes that no expression of the table needs.
        let expression: String = serde_json::from_str(quoted).expect("an expression in quotes");
        let answers = answers.split('\t').map(Into::into).collect();
        groups.last_mut().expect("a group").1.push((expression, answers));
    }
    Table { library, devices: head.split('\t').map(Into::into).collect(), groups }
}

fn answer(compiled: &Result<Selector, SelectorError>, device: &DeviceView) -> String {
    let Ok(selector) = compiled else { return "compile error".to_owned() };
    match selector.evaluate(device) {
        Ok(selected) => selected.to_string(),
        Err(Cause::NoSuchKey(_)) => "no such key".to_owned(),
        Err(Cause::NoSuchOverload(_)) => "no such overload".to_owned(),
        Err(Cause::CostLimit) => "cost limit exceeded".to_owned(),
        Err(Cause::Other(_)) => "error".to_owned(),
    }
}

#[test]
fn every_answer_is_the_one_kubernetes_gives() {
    let (table, devices) = (table(), devices(&cases()));
    let rows: Vec<_> = table.groups.into_iter().flat_map(|(_, rows)| rows).collect();
    assert!(rows.len() > 1000, "only {} answers", rows.len());
    let mut wrong = Vec::new();
    for (text, mut want) in rows {
        if text.split_once(UNSUPPORTED).is_some_and(|(_, name)| name.contains(MESSAGE)) {
            want = vec!["compile error".to_owned(); devices.len()];
        }
        let compiled = Selector::compile(&text);
        let got: Vec<String> = devices.iter().map(|d| answer(&compiled, d)).collect();
        if got != want {
            let why = compiled.err().map(|e| e.to_string()).unwrap_or_default();
            wrong.push(format!("{text:.300}\n  want {want:?}\n   got {got:?} {why:.300}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_kubernetes_has_and_we_have_not_says_so() {
    let error = Selector::compile("google.protobuf.Int32Value{value: 1} == 1").unwrap_err().to_string();
    assert!(error.contains("google.protobuf.Int32Value{} are not supported"), "{error}");
    let named = Selector::compile("timestamp(0).getHours('Europe/Berlin') == 1").expect("it compiles");
    let error = named.matches(&devices(&cases())[0]).unwrap_err().to_string();
    assert!(error.contains("write its offset, such as +01:00"), "{error}");
}

#[test]
fn the_answers_are_to_these_questions() {
    let (table, cases) = (table(), cases());
    let again = "asked anew by: go run -C e2e/cel .";
    let names: Vec<Json> = list(&cases["devices"]).iter().map(|d| d["name"].clone()).collect();
    assert_eq!(table.devices, texts(&names), "devices are {again}");
    let groups: Vec<String> = table.groups.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(groups, texts(list(&cases["order"])), "groups are {again}");
    for (group, rows) in &table.groups {
        let answered: Vec<&String> = rows.iter().map(|(text, _)| text).collect();
        let asked = texts(list(&cases["expressions"][group]));
        assert_eq!(answered, asked.iter().collect::<Vec<_>>(), "{group} is {again}");
        for (text, answers) in rows {
            assert_eq!(answers.len(), table.devices.len(), "{text:.300} is {again}");
        }
    }
}

#[test]
fn the_answers_are_those_of_the_kubernetes_we_test_with() {
    let pinned = read("kube/go.mod");
    let library = table().library;
    let replaced = format!("=> {library}");
    assert!(
        pinned.lines().any(|l| l.trim_end().ends_with(&replaced)),
        "answers.tsv is of {library}, e2e/kube/go.mod has another; raise the versions in e2e/cel/go.mod too and run: \
         go run -C e2e/cel ."
    );
}
