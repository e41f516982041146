//! GPU allocation under every policy on the published traces, by the protocol of FGD (USENIX ATC'23).
//!
//! Pods are drawn from a trace with replacement until they ask for 130 % of the GPUs, shuffled, and submitted one by one;
//! what does not fit is not tried again. Nodes are in the order of the file and ties go to the first. Prints one JSON
//! object (see `cargo xtask bench`). Options: `--traces DIR` (default: those beside this file), `--docs DIR` (renews the
//! tables of `placement.md` there, and the plot), and for trying things out `--seeds N`, `--only TRACE,...`,
//! `--policies Binpack,Spread,LeastFragmentation,FGD` and `--runs arrivals,two,churn`.

mod engine;
mod fgd;
mod report;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;

use vgpu_allocator::POLICIES;
use vgpu_allocator::trace::{Pod, Replay};

use engine::Scheduler;
use fgd::Fgd;
use trace::{Random, Traces};

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

/// Cores are asked in multiples of so many percent.
const CORES_STEP: u32 = 10;

/// Percent allocated at [`POINTS`], by trace and policy.
pub(crate) type Results = BTreeMap<(String, String), [f64; 4]>;

struct Options {
    traces: PathBuf,
    docs: Option<PathBuf>,
    seeds: u64,
    /// Traces, policies and runs; none is all.
    only: Vec<String>,
    policies: Vec<String>,
    runs: Vec<String>,
}

fn options() -> Options {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/placement/traces");
    let mut options =
        Options { traces: beside, docs: None, seeds: 10, only: vec![], policies: vec![], runs: vec![] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let list = |value: String| value.split(',').map(str::to_owned).collect();
        match word.as_str() {
            "--traces" => options.traces = value().into(),
            "--docs" => options.docs = Some(value().into()),
            "--seeds" => options.seeds = value().parse().expect("a number of seeds"),
            "--only" => options.only = list(value()),
            "--policies" => options.policies = list(value()),
            "--runs" => options.runs = list(value()),
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
            pod.cores = (cores.ceil() as u32).next_multiple_of(CORES_STEP).min(100);
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
    let is_in = |list: &[String], name: &str| list.is_empty() || list.iter().any(|l| l == name);
    let few = options.seeds.min(FEW);
    let (mut arrivals, mut two, mut churned) = (Results::new(), Results::new(), BTreeMap::new());
    for (name, pods) in traces.pods.iter().filter(|(name, _)| is_in(&options.only, name)) {
        // With cores FGD knows what is drawn, as it knows the trace without them.
        let drawn = stream(&traces, pods, FIRST_SEED, true);
        let make = |policy: &str, is_two: bool| -> Box<dyn Scheduler> {
            match POLICIES.iter().find(|p| p.0 == policy) {
                Some((_, policy)) => Box::new(Replay::new(&traces.hosts, *policy, *policy)),
                None => Box::new(Fgd::new(&traces, if is_two { &drawn } else { pods })),
            }
        };
        let policies = POLICIES.iter().map(|p| p.0).chain(["FGD"]).filter(|p| is_in(&options.policies, p));
        for policy in policies {
            let key = (name.clone(), policy.to_owned());
            let replayed = |seeds: u64, is_two: bool| {
                let mut sum = [0.0; 4];
                for seed in FIRST_SEED..FIRST_SEED + seeds {
                    let stream = stream(&traces, pods, seed, is_two);
                    let found = replay(&mut *make(policy, is_two), &stream, traces.capacity(), is_two);
                    sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found / seeds as f64);
                }
                eprintln!("{name} {policy}{}: {sum:.2?}", if is_two { " with cores" } else { "" });
                sum
            };
            if is_in(&options.runs, "arrivals") {
                let seeds = if policy == "FGD" { few } else { options.seeds };
                arrivals.insert(key.clone(), replayed(seeds, false));
            }
            if is_in(&options.runs, "two") && TWO_DIMENSIONAL.contains(&name.as_str()) {
                two.insert(key.clone(), replayed(few, true));
            }
            if is_in(&options.runs, "churn") && CHURNED.contains(&name.as_str()) && policy != "Spread" {
                let one = |seed| churn(&mut *make(policy, false), &traces, pods, seed);
                let mean = (FIRST_SEED..FIRST_SEED + few).map(one).sum::<f64>() / few as f64;
                eprintln!("{name} {policy} with departures: {mean:.2} refused");
                churned.insert(key, mean);
            }
        }
    }
    let report = report::Report { traces: &traces, arrivals, two, churned, seeds: options.seeds, few };
    if let Some(folder) = &options.docs {
        report.write(folder);
    }
    println!("{}", report.json());
}
