//! How fast pods with a claim are bound on a real control plane with 500 bare nodes of 10 GPUs, beside the same pods
//! allocated by the stock scheduler itself; and what the controller takes when there is much.
//!
//! Each measurement has a fresh cluster: API server, etcd, controller manager and scheduler as they are, the real chart,
//! and the controller's release build as a process of its own with the rights and the request priority of its service
//! account. There are no kubelets: a pod is done when it is bound. Both ways take turns, so that a noisy machine disturbs
//! both.
//!
//! `--controller FILE` names the controller; `--pods N` (2,000), `--many N` (10,000, measured once each) and `--claims N` (50,000)
//! change the sizes; `--only controller|scheduler` measures one of both, once, and `--only-full` the full cluster alone.

mod fleet;
mod full;
mod plane;
mod pods;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use serde_json::json;

use plane::{Allocator, Plane};
use pods::Outcome;

/// Requests per second of a scheduler that is not held back.
const UNTHROTTLED: u32 = 2000;

#[derive(Parser)]
struct Args {
    /// The controller's program, built with optimisation.
    #[arg(long)]
    controller: PathBuf,
    /// Pods of one measurement.
    #[arg(long, default_value_t = 2000)]
    pods: usize,
    /// Pods of a measurement with many, once each; 0 leaves that part out.
    #[arg(long, default_value_t = 10_000)]
    many: usize,
    /// Claims, each with its pod, of the full cluster; 0 leaves that part out.
    #[arg(long, default_value_t = 50_000)]
    claims: usize,
    /// Only this one, once, with an unthrottled scheduler: to look where the time goes.
    #[arg(long, value_enum, conflicts_with = "only_full")]
    only: Option<Allocator>,
    /// Only the controller in the full cluster.
    #[arg(long)]
    only_full: bool,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let measure_of = |pods: usize, allocator: Allocator, qps: Option<u32>| -> anyhow::Result<Outcome> {
        let plane = Plane::start(allocator, qps, &args.controller)?;
        let outcome = runtime.block_on(pods::bind(&plane, pods));
        let outcome = outcome.with_context(|| format!("its logs: {}", plane.keep_logs()))?;
        let limits = qps.map_or_else(|| "default limits".to_owned(), |q| format!("{q} QPS"));
        eprintln!("  {allocator:?}, {pods} pods, scheduler with {limits}: {outcome}");
        plane.stop()?;
        Ok(outcome)
    };
    let measure = |allocator: Allocator, qps: Option<u32>| measure_of(args.pods, allocator, qps);
    if let Some(only) = args.only {
        return measure(only, Some(UNTHROTTLED)).map(drop);
    }
    if args.only_full {
        let full = full::start_in(&runtime, &args.controller, args.claims)?;
        println!("{:.0} MiB, first write after {:.1} s", full.rss_mib, full.first_write_s);
        return Ok(());
    }
    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        ours.push(measure(Allocator::Controller, Some(UNTHROTTLED))?);
        stock.push(measure(Allocator::Scheduler, Some(UNTHROTTLED))?);
    }
    let ours_limited = measure(Allocator::Controller, None)?;
    let stock_limited = measure(Allocator::Scheduler, None)?;
    let many = match args.many {
        0 => None,
        many => {
            let ours = measure_of(many, Allocator::Controller, Some(UNTHROTTLED))?;
            Some((ours, measure_of(many, Allocator::Scheduler, Some(UNTHROTTLED))?))
        }
    };
    let full = match args.claims {
        0 => None,
        claims => Some(full::start_in(&runtime, &args.controller, claims)?),
    };

    let mean = |of: &[Outcome], what: fn(&Outcome) -> f64| of.iter().map(what).sum::<f64>() / of.len() as f64;
    let both = |what: fn(&Outcome) -> f64| (mean(&ours, what), mean(&stock, what));
    let (rate, stock_rate) = both(|o| o.pods_per_second);
    let (p50, stock_p50) = both(|o| o.p50_ms);
    let (p99, stock_p99) = both(|o| o.p99_ms);
    let (writes, stock_writes) = both(|o| o.writes_per_pod);
    let ratio = rate / stock_rate;
    let limited = ours_limited.pods_per_second / stock_limited.pods_per_second;
    let mut all = json!({
        "pods_per_second": {"value": rate, "unit": "1/s", "baseline": stock_rate, "goal": null, "ok": null},
        "baseline_pods_per_second": {"value": stock_rate, "unit": "1/s", "baseline": null, "goal": null, "ok": null},
        "ratio": {"value": ratio, "unit": "", "baseline": 1.0, "goal": 2.5, "ok": ratio >= 2.5},
        "ratio_default_limits": {"value": limited, "unit": "", "baseline": 1.0, "goal": 1.5, "ok": limited >= 1.5},
        "p50_ms": {"value": p50, "unit": "ms", "baseline": stock_p50, "goal": stock_p50, "ok": p50 < stock_p50},
        "p99_ms": {"value": p99, "unit": "ms", "baseline": stock_p99, "goal": stock_p99, "ok": p99 < stock_p99},
        "baseline_p50_ms": {"value": stock_p50, "unit": "ms", "baseline": null, "goal": null, "ok": null},
        "baseline_p99_ms": {"value": stock_p99, "unit": "ms", "baseline": null, "goal": null, "ok": null},
        "writes_per_pod": {"value": writes, "unit": "", "baseline": stock_writes, "goal": null, "ok": null},
    });
    if let Some((ours, stock)) = many {
        let (ours, stock) = (ours.pods_per_second, stock.pods_per_second);
        let ratio = ours / stock;
        all["many_pods_per_second"] =
            json!({"value": ours, "unit": "1/s", "baseline": stock, "goal": null, "ok": null});
        all["many_ratio"] =
            json!({"value": ratio, "unit": "", "baseline": 1.0, "goal": 2.5, "ok": ratio >= 2.5});
    }
    if let Some(full) = full {
        let (rss, first) = (full.rss_mib, full.first_write_s);
        all["controller_rss_mib"] =
            json!({"value": rss, "unit": "MiB", "baseline": null, "goal": 256, "ok": rss <= 256.0});
        all["cold_start_s"] =
            json!({"value": first, "unit": "s", "baseline": null, "goal": 10, "ok": first <= 10.0});
    }
    println!("{all}");
    Ok(())
}
