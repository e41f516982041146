//! `cargo xtask bench`: speed and memory, as ratios to a baseline of the same run.
//!
//! A bench is a program under `benches/` of the crate it measures, built with optimisation. It prints one JSON object
//! `{"<metric>": {"value", "unit", "baseline", "goal", "ok"}}` as its last line; `baseline` and `goal` may be null.
//! A missed goal is a result, not an error: the exit status says whether everything could be measured.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use crate::{cargo, demo, limiter};

struct Bench {
    name: &'static str,
    what: &'static str,
    /// Package and bench of each of its programs.
    programs: &'static [(&'static str, &'static str)],
    /// Packages whose libraries they load and programs they start, built as they are: with optimisation.
    loads: &'static [&'static str],
    /// Whether they load the limiter's files as they are shipped, where those can be built.
    shipped: bool,
}

const BENCHES: [Bench; 6] = [
    Bench {
        name: "allocator",
        what: "time of one placement decision, memory per GPU",
        programs: &[("vgpu-allocator", "allocator")],
        loads: &[],
        shipped: false,
    },
    Bench {
        name: "placement",
        what: "GPU allocation on published traces, by policy; takes minutes",
        programs: &[("vgpu-allocator", "placement")],
        loads: &[],
        shipped: false,
    },
    Bench {
        name: "prepare",
        what: "time of preparing and unpreparing a claim on a node, without the API read",
        programs: &[("vgpu-kubelet-plugin", "prepare")],
        loads: &[],
        shipped: false,
    },
    Bench {
        name: "metering",
        what: "GPU time tenants get on a simulated GPU, beside HAMi-core's method",
        programs: &[("vgpu-sim", "metering")],
        loads: &[],
        shipped: false,
    },
    Bench {
        name: "limiter",
        what: "what the limiter costs a program, and what metering measures; needs root",
        programs: &[("vgpu-cuda", "limiter"), ("vgpu-sim", "metering")],
        loads: &[
            "vgpu-cuda-shim",
            "vgpu-nvml-shim",
            "fake-cuda",
            "fake-nvml",
            "fake-nvidia-smi",
            "fake-time",
            "vgpu-workload",
        ],
        shipped: true,
    },
    Bench {
        name: "throughput",
        what: "pods bound per second on a real control plane, beside kube-scheduler's own allocation; takes 45 minutes",
        programs: &[("vgpu-e2e", "throughput")],
        loads: &[],
        shipped: false,
    },
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
    let chosen: Vec<_> =
        BENCHES.iter().filter(|b| args.name.as_deref().is_none_or(|n| n == b.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = BENCHES.iter().map(|b| format!("{} ({})", b.name, b.what)).collect();
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
    let mut done = BTreeSet::new();
    for bench in chosen {
        println!("=== {}: {}", bench.name, bench.what);
        if !bench.loads.is_empty() {
            let packages = bench.loads.iter().flat_map(|package| ["--package", package]);
            cargo::run(&["build", "--release"].into_iter().chain(packages).collect::<Vec<_>>())?;
        }
        let environment = if bench.shipped { limiter::build()?.environment() } else { Vec::new() };
        for (package, name) in bench.programs.iter().filter(|program| done.insert(**program)) {
            let metrics = match *name {
                "throughput" => measure_on_cluster(name)?,
                _ => measure(name, &["--package", package], &options, &environment)?,
            };
            print_table(&metrics);
            all.extend(metrics);
        }
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
    measure(name, &["--workspace", "--profile", "dev"], &options, &[])
}

fn measure(
    name: &str,
    how: &[&str],
    options: &[OsString],
    environment: &[(String, OsString)],
) -> anyhow::Result<Map<String, Value>> {
    let out = cargo::command()
        .arg("bench")
        .args(how)
        .args(["--bench", name, "--"])
        .args(options)
        .envs(environment.iter().map(|(name, value)| (name, value)))
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
