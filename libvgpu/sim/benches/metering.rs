//! What tenants get of a simulated GPU under the compute controller, and under HAMi-core's method beside it (rows that begin
//! with `baseline_`).
//!
//! Shares and errors are in percent and points of the GPU, over runs of 10 seconds after 2 of warm-up (60 for kernels of
//! 100 ms), over three seeds. A value is the mean over caps, pairs and tenants unless its name says worst. Nothing here
//! depends on the machine. Prints one JSON object (see `cargo xtask bench`).

use serde_json::{Map, Value, json};
use vgpu_sim::measure::jain;
use vgpu_sim::pattern::{Pattern, SYNCHRONISING};
use vgpu_sim::suite::{self, CAPS, Judged, LENGTHS, pair, pairs};
use vgpu_sim::world::Control;
use vgpu_sim::{MS, Nanos, US};

const SEEDS: [u64; 3] = [1, 2, 3];

/// Begins the names of what the bench `limiter` measures of the shim itself. HAMi-core's method is only ever simulated.
const SIMULATED: &str = "simulated_";

/// Value of each metric under one way of control.
type Values = Vec<(String, Option<f64>)>;

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    sum / count
}

fn most(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

fn least(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

fn alone(control: Control, values: &mut Values, all: &mut Vec<Judged>) {
    let caps = || (1..=19).map(|n| n * 5);
    let mut ratios = Vec::new();
    for (name, length) in LENGTHS {
        let pattern = Pattern::Saturating(length);
        let judged: Vec<Judged> = caps().map(|cap| suite::alone(control, &pattern, cap, 1)).collect();
        values.push((format!("share_mae_percent_{name}"), Some(mean(judged.iter().map(|j| j.error)))));
        ratios.extend(judged.iter().map(|j| j.mean / j.cap));
        all.extend(judged);
    }
    for pattern in [SYNCHRONISING, Pattern::Mix, Pattern::Bimodal(50 * US, 20 * MS)] {
        all.extend(caps().map(|cap| suite::alone(control, &pattern, cap, 1)));
    }
    values.push(("cap_throughput_ratio".into(), Some(least(ratios))));
}

fn contending(control: Control, values: &mut Values, all: &mut Vec<Judged>) {
    let (mut judged, mut lost) = (Vec::new(), Vec::new());
    for seed in SEEDS {
        for (name, first, second) in pairs() {
            for caps in CAPS {
                let (both, idle) = suite::contending(&pair(control, caps, &first, &second, seed));
                judged.extend(both);
                if !name.contains("synchronising") {
                    lost.push(idle);
                }
            }
        }
    }
    let errors = || judged.iter().map(Judged::mean_error);
    values.push(("share_mae_percent_two_tenants".into(), Some(mean(judged.iter().map(|j| j.error)))));
    values.push(("share_mean_error_points_contending".into(), Some(mean(errors()))));
    values.push(("share_mean_error_points_contending_worst".into(), Some(most(errors()))));
    values.push(("idle_and_switching_percent_two_saturating".into(), Some(most(lost))));
    all.extend(judged);
}

fn measure(control: Control) -> Values {
    let (mut values, mut all) = (Values::new(), Vec::new());
    alone(control, &mut values, &mut all);
    contending(control, &mut values, &mut all);
    values.push(("over_cap_points_worst".into(), Some(most(all.iter().map(Judged::over)))));
    let fairness = SEEDS.map(|seed| jain(&suite::four(control, seed)));
    values.push(("jain_4_tenants".into(), Some(least(fairness))));
    let delays = SEEDS.map(|seed| suite::limit_change(control, seed));
    let settled = delays.iter().all(Option::is_some);
    let slowest = delays.into_iter().flatten().max();
    values.push(("limit_change_ms".into(), slowest.filter(|_| settled).map(|ms| ms as f64)));
    let extra = |seed| {
        let p99 = |low: Option<Nanos>| suite::high(control, low, seed).0 as f64;
        (p99(Some(100 * US)) - p99(None)) / MS as f64
    };
    values.push((format!("{SIMULATED}high_p99_over_alone_ms"), Some(most(SEEDS.map(extra)))));
    values
}

/// Unit, goal, and whether more is better.
fn goal(name: &str) -> (&'static str, f64, bool) {
    match name {
        "cap_throughput_ratio" => ("1", 0.97, true),
        "jain_4_tenants" => ("1", 0.99, true),
        "limit_change_ms" => ("ms", 100.0, false),
        "simulated_high_p99_over_alone_ms" => ("ms", 2.0, false),
        "over_cap_points_worst" => ("points", 0.5, false),
        "share_mean_error_points_contending" => ("points", 1.0, false),
        "share_mean_error_points_contending_worst" => ("points", 2.0, false),
        "share_mae_percent_100ms" => ("points", 5.0, false),
        "idle_and_switching_percent_two_saturating" => ("percent", 2.0, false),
        _ => ("points", 2.0, false),
    }
}

fn main() {
    let mut metrics = Map::new();
    let ours = measure(Control::Leases);
    let theirs = measure(Control::Hami);
    for ((name, value), (_, baseline)) in ours.into_iter().zip(theirs) {
        let (unit, goal, more) = goal(&name);
        let ok = value.is_some_and(|v| if more { v >= goal } else { v <= goal });
        let row = |value: Option<f64>| json!({"value": value, "unit": unit, "baseline": null, "goal": null, "ok": null});
        let of_hami = name.strip_prefix(SIMULATED).unwrap_or(&name);
        metrics.insert(format!("baseline_{of_hami}"), row(baseline));
        let mut row = row(value);
        row["baseline"] = json!(baseline);
        row["goal"] = json!(goal);
        row["ok"] = Value::Bool(ok);
        metrics.insert(name, row);
    }
    println!("{}", Value::Object(metrics));
}
