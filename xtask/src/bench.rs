//! `cargo xtask bench`: speed and memory, as ratios to a baseline of the same run.
//!
//! A bench is a program under `benches/` of the crate it measures, built with optimisation. It prints one JSON object
//! `{"<metric>": {"value", "unit", "baseline", "goal", "ok"}}` as its last line; `baseline` and `goal` may be null.
//! A missed goal is a result, not an error: the exit status says whether everything could be measured.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use crate::{cargo, demo};

/// Every bench: name, package, what it measures.
const BENCHES: [(&str, &str, &str); 5] = [
    ("allocator", "vgpu-allocator", "time of one placement decision, memory per GPU"),
    ("placement", "vgpu-allocator", "GPU allocation on published traces, by policy; takes minutes"),
    (
        "prepare",
        "vgpu-kubelet-plugin",
        "time of preparing and unpreparing a claim on a node, without the API read",
    ),
    ("metering", "vgpu-sim", "GPU time tenants get on a simulated GPU, beside HAMi-core's method"),
    (
        "throughput",
        "vgpu-e2e",
        "pods bound per second on a real control plane, beside kube-scheduler's own allocation; takes half an hour",
    ),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which bench; none runs all.
    name: Option<String>,
    /// Replay the traces of this folder instead of the project's (`placement` only).
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Write the results there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let chosen: Vec<_> = BENCHES.iter().filter(|b| args.name.as_deref().is_none_or(|n| n == b.0)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = BENCHES.iter().map(|b| format!("{} ({})", b.0, b.2)).collect();
        bail!(
            "no bench is called {:?}; there are {}",
            args.name.as_deref().unwrap_or_default(),
            names.join(", ")
        );
    }
    let mut options: Vec<OsString> = Vec::new();
    if args.name.as_deref() == Some("placement") {
        // Asked for by name, it renews the documentation's tables and plot.
        options.extend(["--docs".into(), cargo::root().join("docs").into()]);
    }
    if let Some(folder) = &args.traces {
        ensure!(args.name.as_deref() == Some("placement"), "only the bench placement takes --traces");
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        options.extend(["--traces".into(), folder.into()]);
    }
    let mut all = Map::new();
    for (name, package, what) in chosen {
        println!("=== {name}: {what}");
        let metrics = match *name {
            "throughput" => measure_on_cluster(name)?,
            _ => measure(name, &["--package", package], &options)?,
        };
        print_table(&metrics);
        all.extend(metrics);
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&all)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = all.values().filter(|m| m["ok"] == Value::Bool(false)).count();
    if missed > 0 {
        println!("{missed} of {} goals missed", all.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// A bench that starts clusters: it is built as they are, only the controller it measures is optimised.
fn measure_on_cluster(name: &str) -> anyhow::Result<Map<String, Value>> {
    demo::build_for_cluster()?;
    cargo::run(&["build", "--release", "--workspace", "--bin", "vgpu-controller"])?;
    let built = cargo::artifacts()?.with_file_name("release");
    let options = ["--controller".into(), built.join("vgpu-controller").into()];
    measure(name, &["--workspace", "--profile", "dev"], &options)
}

fn measure(name: &str, how: &[&str], options: &[OsString]) -> anyhow::Result<Map<String, Value>> {
    let out = cargo::command()
        .arg("bench")
        .args(how)
        .args(["--bench", name, "--"])
        .args(options)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(out.status.success(), "the bench {name} ended with {}", out.status);
    let text = String::from_utf8(out.stdout).with_context(|| format!("the bench {name} printed no text"))?;
    let last = text
        .lines()
        .rfind(|l| l.starts_with('{'))
        .with_context(|| format!("the bench {name} printed no result"))?;
    match serde_json::from_str(last) {
        Ok(Value::Object(metrics)) => Ok(metrics),
        _ => bail!("the bench {name} ended with {last:?}, which is no result"),
    }
}

fn print_table(metrics: &Map<String, Value>) {
    let number = |v: &Value| v.as_f64().map_or_else(|| "-".to_owned(), |n| format!("{n:.3}"));
    println!("{:<52} {:>14} {:>14} {:>14}  {:<8} ok", "metric", "value", "baseline", "goal", "unit");
    for (name, m) in metrics {
        let ok = m["ok"].as_bool().map_or("-", |ok| if ok { "yes" } else { "NO" });
        let unit = m["unit"].as_str().unwrap_or_default();
        println!(
            "{name:<52} {:>14} {:>14} {:>14}  {unit:<8} {ok}",
            number(&m["value"]),
            number(&m["baseline"]),
            number(&m["goal"])
        );
    }
}
