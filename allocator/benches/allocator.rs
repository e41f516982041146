//! Time of one placement decision, by cluster size and policy, and memory per GPU.
//!
//! Clusters are half full: every other GPU holds one share of half its memory and cores. Sizes are interleaved, so that
//! a slow moment of the machine hits all of them. Prints one JSON object (see `cargo xtask bench`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use vgpu_allocator::{Cluster, Demand, Exclusions, Gpu, GpuState, MemoryAsk, Node, Policy, Request, Room, Shapes, Share};

const GIB: u64 = 1 << 30;
const GPUS: usize = 8;

/// Counts live bytes, so that memory per GPU is what the engine asked for and nothing else.
struct Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
// SAFETY: every call goes to the system allocator unchanged; the counter is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn half_full(nodes: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for n in 0..nodes {
        let name = format!("node-{n:05}");
        let gpu = |g: usize| Gpu {
            name: format!("gpu-{g}"),
            shape: 0,
            memory: 80 * GIB,
            cores: 100,
            shares: 64,
            state: GpuState::Healthy,
        };
        let room = Room { cpu_milli: 96_000, memory: 512 * GIB, pods: 110 };
        cluster.set_node(&name, Node { room, gpus: (0..GPUS).map(gpu).collect(), class: 0 });
        for g in (0..GPUS).step_by(2) {
            let share = Share { node: name.clone(), gpu: format!("gpu-{g}"), memory: 40 * GIB, cores: 50 };
            cluster.hold_claim(&format!("claim-{n}-{g}"), vec![share]);
        }
    }
    cluster
}

fn demand(policy: Policy, memory: u64) -> Demand {
    Demand {
        room: Room { cpu_milli: 500, memory: GIB, pods: 1 },
        requests: vec![Request {
            claim: "claim".into(),
            name: "gpu".into(),
            count: 1,
            memory: MemoryAsk::Bytes(memory),
            cores: 20,
            shapes: Shapes::Any,
            gpu_policy: policy,
            containers: BTreeSet::from([0]),
        }],
        node_policy: policy,
        only_node: None,
        excluded: Exclusions::default(),
    }
}

/// Microseconds at a quantile.
fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q).round() as usize]
}

fn main() {
    let sizes = [100, 1_000, 5_000, 10_000];
    let mut bytes_per_gpu = 0.0;
    let clusters = sizes.map(|nodes| {
        let before = LIVE.load(Ordering::Relaxed);
        let cluster = half_full(nodes);
        bytes_per_gpu = (LIVE.load(Ordering::Relaxed) - before) as f64 / (nodes * GPUS) as f64;
        cluster
    });
    let asks = [
        ("binpack", demand(Policy::Binpack, 20 * GIB)),
        ("spread", demand(Policy::Spread, 20 * GIB)),
        ("refuse", demand(Policy::Binpack, 200 * GIB)),
    ];
    let mut samples: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for round in 0..220 {
        for (cluster, nodes) in clusters.iter().zip(sizes) {
            for (name, ask) in &asks {
                let start = Instant::now();
                let answer = black_box(cluster.plan(black_box(ask)));
                let micros = start.elapsed().as_secs_f64() * 1e6;
                assert_eq!(answer.is_err(), *name == "refuse", "{name} at {nodes} nodes");
                if round >= 20 {
                    samples.entry((nodes, *name)).or_default().push(micros);
                }
            }
        }
    }
    let mut at = |nodes, name, q| quantile(samples.get_mut(&(nodes, name)).expect("measured above"), q);
    let mut metrics = serde_json::Map::new();
    let mut put = |name: &str, value: f64, unit: &str, goal: Option<f64>| {
        let ok = goal.map(|goal| value <= goal);
        metrics.insert(
            name.to_owned(),
            serde_json::json!({"value": value, "unit": unit, "baseline": null, "goal": goal, "ok": ok}),
        );
    };
    put("plan_p50_us", at(5_000, "binpack", 0.5), "us", None);
    put("plan_p99_us", at(5_000, "binpack", 0.99), "us", Some(100.0));
    put("spread_plan_p99_us", at(5_000, "spread", 0.99), "us", Some(100.0));
    for nodes in [100, 1_000, 10_000] {
        put(&format!("plan_p99_us_{nodes}_nodes"), at(nodes, "binpack", 0.99), "us", None);
    }
    put("refuse_p99_us", at(5_000, "refuse", 0.99), "us", None);
    put("bytes_per_gpu", bytes_per_gpu, "bytes", Some(1024.0));
    println!("{}", serde_json::Value::Object(metrics));
}
