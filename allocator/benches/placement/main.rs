//! GPU allocation under every policy on the published traces, by the protocol of FGD (USENIX ATC'23).
//!
//! Pods are drawn from a trace with replacement until they ask for 130 % of the GPUs, shuffled, and submitted one by one;
//! what does not fit is not tried again. Nodes are in the order of the file and ties go to the first. Prints one JSON
//! object (see `cargo xtask bench`). Options: `--traces DIR` (default: those beside this file), `--docs DIR` (renews the
//! tables of `placement.md` there, and the plot), and for trying things out `--seeds N`, `--only TRACE,...` and
//! `--parts Binpack,Spread,LeastFragmentation,FGD,two,churn`.

mod engine;
mod fgd;
mod report;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;

use vgpu_allocator::POLICIES;

use engine::{Engine, Scheduler};
use fgd::Fgd;
use trace::{Pod, Random, Traces};

/// Demand in percent of the GPUs at which allocation is read.
const POINTS: [u64; 4] = [90, 95, 100, 130];
const FIRST_SEED: u64 = 42;
/// Most seeds where nothing is published to compare with.
const FEW: u64 = 3;
/// Load of the runs with departures, and the time before measuring, in mean lifetimes.
const LOAD: f64 = 0.95;
const WARM_UP: f64 = 2.0;
const CHURNED: [&str; 4] = ["default", "gpushare100", "multigpu50", "gpuspec33"];
const TWO_DIMENSIONAL: [&str; 3] = ["default", "gpushare100", "gpuspec33"];

/// Percent allocated at [`POINTS`], by trace and policy.
pub(crate) type Results = BTreeMap<(String, String), [f64; 4]>;

struct Options {
    traces: PathBuf,
    docs: Option<PathBuf>,
    seeds: u64,
    only: Vec<String>,
    parts: Vec<String>,
}

fn options() -> Options {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/placement/traces");
    let mut options = Options { traces: beside, docs: None, seeds: 10, only: vec![], parts: vec![] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--traces" => options.traces = value().into(),
            "--docs" => options.docs = Some(value().into()),
            "--seeds" => options.seeds = value().parse().expect("a number of seeds"),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            "--parts" => options.parts = value().split(',').map(str::to_owned).collect(),
            // What cargo says to every bench.
            "--bench" => {}
            other => panic!("unknown option {other:?}"),
        }
    }
    options
}

/// Pods in the order they are submitted.
fn stream(traces: &Traces, pods: &[Pod], seed: u64, two: bool) -> Vec<Pod> {
    let mut random = Random(seed);
    let goal = traces.capacity() * POINTS[3] / 100;
    let (mut stream, mut sum) = (Vec::new(), 0);
    while sum < goal {
        let mut pod = pods[random.below(pods.len())].clone();
        sum += pod.amount();
        if two && pod.gpus > 0 {
            let cores = f64::from(pod.milli) / 10.0 * (0.3 * random.normal()).exp();
            pod.cores = (cores.round() as u32).clamp(1, 100);
        }
        stream.push(pod);
    }
    for i in (1..stream.len()).rev() {
        stream.swap(i, random.below(i + 1));
    }
    stream
}

/// Percent allocated at [`POINTS`]; in two dimensions the mean of memory and cores.
fn replay(scheduler: &mut dyn Scheduler, stream: &[Pod], capacity: u64, two: bool) -> [f64; 4] {
    let percent = |amount: u64| amount as f64 * 100.0 / capacity as f64;
    let (mut offered, mut memory, mut cores) = (0, 0, 0);
    let mut nearest = [(f64::MAX, 0.0); 4];
    for (id, pod) in stream.iter().enumerate() {
        offered += pod.amount();
        if scheduler.place(id, pod) {
            memory += pod.amount();
            cores += u64::from(pod.gpus * pod.cores) * 10;
        }
        let allocated = if two { (percent(memory) + percent(cores)) / 2.0 } else { percent(memory) };
        for (point, nearest) in POINTS.iter().zip(&mut nearest) {
            let distance = (percent(offered) - *point as f64).abs();
            if distance < nearest.0 {
                *nearest = (distance, allocated);
            }
        }
    }
    nearest.map(|n| n.1)
}

/// Percent of the GPU time asked for that was refused, pods arriving and leaving.
fn churn(scheduler: &mut dyn Scheduler, traces: &Traces, pods: &[Pod], seed: u64) -> f64 {
    let mut random = Random(seed);
    let mean = pods.iter().map(Pod::amount).sum::<u64>() as f64 / pods.len() as f64;
    let rate = LOAD * traces.capacity() as f64 / mean;
    let (mut now, mut id) = (0.0, 0);
    let (mut asked, mut refused) = (0.0, 0.0);
    // Times of leaving order as their bits do: they are positive.
    let mut leaving: BTreeMap<(u64, usize), Pod> = BTreeMap::new();
    loop {
        now += random.exponential() / rate;
        if now > 2.0 * WARM_UP {
            return refused * 100.0 / asked;
        }
        while let Some(((at, gone), pod)) = leaving.pop_first() {
            if f64::from_bits(at) > now {
                leaving.insert((at, gone), pod);
                break;
            }
            scheduler.remove(gone, &pod);
        }
        let pod = pods[random.below(pods.len())].clone();
        let lifetime = random.exponential();
        let placed = scheduler.place(id, &pod);
        if now > WARM_UP {
            asked += lifetime * pod.amount() as f64;
            refused += if placed { 0.0 } else { lifetime * pod.amount() as f64 };
        }
        if placed {
            leaving.insert(((now + lifetime).to_bits(), id), pod);
        }
        id += 1;
    }
}

fn main() {
    let options = options();
    let traces = Traces::load(&options.traces);
    let is_chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let is_part = |name: &str| options.parts.is_empty() || options.parts.iter().any(|o| o == name);
    let (mut arrivals, mut two, mut churned) = (Results::new(), Results::new(), BTreeMap::new());
    for (name, pods) in traces.pods.iter().filter(|(name, _)| is_chosen(name)) {
        let run = |results: &mut Results,
                   policy: &str,
                   seeds: u64,
                   is_two: bool,
                   make: &dyn Fn() -> Box<dyn Scheduler>| {
            let mut sum = [0.0; 4];
            for seed in FIRST_SEED..FIRST_SEED + seeds {
                let stream = stream(&traces, pods, seed, is_two);
                let found = replay(&mut *make(), &stream, traces.capacity(), is_two);
                sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found / seeds as f64);
            }
            eprintln!("{name} {policy}{}: {sum:.2?}", if is_two { " two" } else { "" });
            results.insert((name.clone(), policy.to_owned()), sum);
        };
        for (policy, engine) in POLICIES.iter().filter(|p| is_part(p.0)) {
            run(&mut arrivals, policy, options.seeds, false, &|| Box::new(Engine::new(&traces, *engine)));
        }
        if is_part("FGD") {
            run(&mut arrivals, "FGD", options.seeds.min(FEW), false, &|| Box::new(Fgd::new(&traces, pods)));
        }
        if is_part("two") && TWO_DIMENSIONAL.contains(&name.as_str()) {
            let seeds = options.seeds.min(FEW);
            for (policy, engine) in POLICIES {
                run(&mut two, policy, seeds, true, &|| Box::new(Engine::new(&traces, engine)));
            }
            let typical = stream(&traces, pods, FIRST_SEED, true);
            run(&mut two, "FGD", seeds, true, &|| Box::new(Fgd::new(&traces, &typical)));
        }
        if is_part("churn") && CHURNED.contains(&name.as_str()) {
            let seeds = options.seeds.min(FEW);
            let mut run = |policy: &str, make: &dyn Fn() -> Box<dyn Scheduler>| {
                let one = |seed| churn(&mut *make(), &traces, pods, seed);
                let mean = (FIRST_SEED..FIRST_SEED + seeds).map(one).sum::<f64>() / seeds as f64;
                eprintln!("{name} {policy} churn: {mean:.2}");
                churned.insert((name.clone(), policy.to_owned()), mean);
            };
            for (policy, engine) in POLICIES.iter().filter(|p| p.0 != "Spread") {
                run(policy, &|| Box::new(Engine::new(&traces, *engine)));
            }
            run("FGD", &|| Box::new(Fgd::new(&traces, pods)));
        }
    }
    let (seeds, few) = (options.seeds, options.seeds.min(FEW));
    let report = report::Report { traces: &traces, arrivals, two, churned, seeds, few };
    if let Some(folder) = &options.docs {
        report.write(folder);
    }
    println!("{}", report.json());
}
