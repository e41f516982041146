//! Every answer of Kubernetes' own library (`e2e/cel/answers.tsv`) against ours, and the table against that library.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::resource::v1::Device;
use serde_json::Value as Json;

use super::{Cause, DeviceView, Selector, SelectorError};

/// Where we knowingly differ: what `docs/user-guide.md` lists. These do not compile here.
const UNSUPPORTED: [&str; 4] = ["duration(", "timestamp(", "format.", "google.protobuf."];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cel")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

fn devices() -> Vec<DeviceView> {
    let cases: Json = serde_saphyr::from_str(&read("cases.yaml")).unwrap();
    let view = |device: &Json| {
        let parsed: Device = serde_json::from_value(device.clone()).unwrap();
        DeviceView::new(device["driver"].as_str().unwrap(), &parsed)
    };
    cases["devices"].as_array().unwrap().iter().map(view).collect()
}

fn answer(compiled: &Result<Selector, SelectorError>, device: &DeviceView) -> String {
    let Ok(selector) = compiled else { return "compile error".to_owned() };
    match selector.matches(device) {
        Ok(selected) => selected.to_string(),
        Err(SelectorError::Evaluate { cause, .. }) => match cause {
            Cause::NoSuchKey(_) => "no such key",
            Cause::NoSuchOverload(_) => "no such overload",
            Cause::CostLimit => "cost limit exceeded",
            Cause::Other(_) => "error",
        }
        .to_owned(),
        Err(other) => other.to_string(),
    }
}

/// Expressions and Kubernetes' answers.
fn rows(table: &str) -> Vec<(String, Vec<String>)> {
    let lines = table.lines().skip(1).filter(|l| !l.starts_with('#'));
    let row = |line: &str| {
        let (text, answers) = line.split_once('\t').unwrap();
        // Go quotes as JSON does, but for a few escapes that no expression of the table needs.
        (serde_json::from_str(text).unwrap(), answers.split('\t').map(Into::into).collect())
    };
    lines.map(row).collect()
}

#[test]
fn every_answer_is_the_one_kubernetes_gives() {
    let devices = devices();
    let mut wrong = Vec::new();
    for (text, mut want) in rows(&read("answers.tsv")) {
        if UNSUPPORTED.iter().any(|u| text.contains(u)) {
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
fn what_is_missing_here_says_so() {
    for text in ["duration('1h') > duration('1m')", "format.named('uuid').hasValue()"] {
        let error = Selector::compile(text).unwrap_err().to_string();
        assert!(error.contains("is not supported here"), "{error}");
    }
}

#[test]
fn the_table_is_what_kubernetes_own_library_says_today() {
    if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: no Go toolchain to build the library with");
        return;
    }
    let input = std::fs::File::open(folder().join("cases.yaml")).unwrap();
    let made = Command::new("go").args(["run", "."]).current_dir(folder()).stdin(input).output().unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    if why.contains("dial tcp") || why.contains("no such host") {
        eprintln!("skipped: the Go modules are not here and cannot be fetched: {why}");
        return;
    }
    assert!(made.status.success(), "{why}");
    assert!(made.stdout == read("answers.tsv").as_bytes(), "run: go run . < cases.yaml > answers.tsv");
}
