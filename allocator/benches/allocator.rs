//! Time of one placement decision, by cluster size and policy, and memory per GPU.
//!
//! Clusters are half full of shares of a dozen kinds, strewn so that hardly two nodes are alike. Every decision is
//! carried out and an older one undone, so that a decision also pays for what changed since the last. Sizes and policies
//! are interleaved: a slow moment of the machine hits all of them. Learning is timed by itself, as it is off the path of
//! decisions, and so is the first decision for a kind of pod that LeastFragmentation never saw. The clock is the thread's
//! CPU time: a decision never waits, and other programs of the machine are not its cost. Prints one JSON object (see
//! `cargo xtask bench`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vgpu_allocator::{
    Cluster, Demand, Exclusions, Gpu, GpuState, LESSON, MemoryAsk, Mix, Node, Overcommit, Oversubscribed,
    Placement, Policy, Request, Room, Shapes, Share, Site, Topology,
};

const GIB: u64 = 1 << 30;
const GPUS: usize = 8;
const SIZES: [usize; 4] = [100, 1_000, 5_000, 10_000];
/// Memory in GiB, cores and GPUs of the kinds of pods.
const KINDS: [(u64, u32, u32); 12] = [
    (4, 5, 1),
    (8, 10, 1),
    (10, 15, 1),
    (12, 25, 1),
    (16, 20, 1),
    (20, 20, 1),
    (24, 30, 1),
    (32, 40, 1),
    (40, 50, 1),
    (60, 75, 1),
    (80, 100, 1),
    (80, 100, 2),
];
/// What every pod takes of its node.
const ROOM: Room = Room { cpu_milli: 4_000, memory: 16 * GIB, pods: 1 };
/// Decisions that are measured, by size and policy.
const ROUNDS: usize = 1_000;
/// Rounds before measuring.
const WARM_UP: usize = 100;

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

/// splitmix64, so that clusters are the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A cluster under one policy, with the decisions that are carried out.
struct Bench {
    nodes: usize,
    cluster: Cluster,
    mix: Mix,
    held: VecDeque<String>,
    random: Random,
    next: usize,
    policy: Policy,
}

fn half_full(nodes: usize, random: &mut Random) -> Cluster {
    let mut cluster = Cluster::default();
    for n in 0..nodes {
        let name = format!("node-{n:05}");
        let gpu = |g: usize| Gpu {
            name: format!("gpu-{g}"),
            shape: 0,
            memory: 80 * GIB,
            cores: 100,
            overcommit: Overcommit::default(),
            shares: 64,
            state: GpuState::Healthy,
            site: Site::default(),
        };
        let room = Room { cpu_milli: 96_000, memory: 512 * GIB, pods: 110 };
        cluster.set_node(&name, Node { room, gpus: (0..GPUS).map(gpu).collect(), class: 0 });
        let mut free = [(80, 100); GPUS];
        for claim in 0..40 {
            let (memory, cores, _) = KINDS[random.below(KINDS.len() - 1)];
            let g = random.below(GPUS);
            let left: u64 = free.iter().map(|f| f.0).sum();
            if left > 40 * GPUS as u64 && free[g].0 >= memory && free[g].1 >= cores {
                free[g] = (free[g].0 - memory, free[g].1 - cores);
                let share = Share {
                    node: name.clone(),
                    gpu: format!("gpu-{g}"),
                    memory: memory * GIB,
                    cores,
                    oversubscribed: Oversubscribed::default(),
                };
                cluster.hold_claim(&format!("old-{n}-{claim}"), vec![share]);
                cluster.hold_pod(&format!("old-{n}-{claim}"), &name, ROOM);
            }
        }
    }
    cluster
}

fn demand(policy: Policy, (memory, cores, count): (u64, u32, u32)) -> Demand {
    Demand {
        room: ROOM,
        requests: vec![Request {
            claim: "claim".into(),
            name: "gpu".into(),
            count,
            all: false,
            memory: MemoryAsk::Bytes(memory * GIB),
            cores,
            oversubscribed: Oversubscribed::default(),
            shapes: Shapes::Any,
            barred: BTreeSet::new(),
            gpu_policy: policy,
            topology: Topology::Prefer,
            containers: BTreeSet::from([0]),
        }],
        constraints: vec![],
        node_policy: policy,
        only_node: None,
        excluded: Exclusions::default(),
    }
}

/// Microseconds of CPU that something takes, and what comes of it.
fn timed<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("a time after the thread began")
    };
    let start = now();
    let result = black_box(run());
    ((now() - start).as_secs_f64() * 1e6, result)
}

fn decide(cluster: &Cluster, ask: &Demand) -> (f64, Option<Placement>) {
    timed(|| cluster.plan(black_box(ask)).ok())
}

impl Bench {
    fn new(nodes: usize, policy: Policy) -> Self {
        let mut random = Random(nodes as u64);
        let cluster = half_full(nodes, &mut random);
        Self { nodes, cluster, mix: Mix::default(), held: VecDeque::new(), random, next: 0, policy }
    }

    /// Decides, carries it out, and undoes an earlier one.
    fn step(&mut self) -> f64 {
        let ask = demand(self.policy, KINDS[self.random.below(KINDS.len())]);
        self.mix.arrived(&ask);
        let (micros, placed) = decide(&self.cluster, &ask);
        let placed = placed.expect("a cluster that is half empty takes it");
        let key = format!("new-{}", self.next);
        self.next += 1;
        self.cluster.hold_claim(&key, placed.shares.iter().map(|s| s.on(&placed.node)).collect::<Vec<_>>());
        self.cluster.hold_pod(&key, &placed.node, ask.room);
        self.held.push_back(key);
        if self.held.len() > self.nodes / 5
            && let Some(old) = self.held.pop_front()
        {
            self.cluster.drop_claim(&old);
            self.cluster.drop_pod(&old);
        }
        micros
    }

    /// Microseconds of a lesson.
    fn learn(&mut self) -> f64 {
        let learn = || {
            self.mix.draw();
            self.cluster.learn(&self.mix);
        };
        timed(learn).0
    }
}

/// Microseconds at a quantile.
fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q).round() as usize]
}

fn main() {
    let make = |nodes: usize, policy: Policy| {
        let before = LIVE.load(Ordering::Relaxed);
        let mut bench = Bench::new(nodes, policy);
        let least = policy == Policy::LeastFragmentation;
        for round in 0..WARM_UP {
            bench.step();
            if least && round % (WARM_UP / 2) == WARM_UP / 2 - 1 {
                bench.learn();
            }
        }
        let bytes = (LIVE.load(Ordering::Relaxed) - before) as f64 / (nodes * GPUS) as f64;
        (bench, bytes)
    };
    let mut benches = Vec::new();
    for nodes in SIZES {
        for policy in [Policy::Binpack, Policy::Spread] {
            benches.push(make(nodes, policy).0);
        }
    }
    // With everything that is remembered for the policy that remembers most.
    let (least, bytes_per_gpu) = make(5_000, Policy::LeastFragmentation);
    benches.push(least);

    let (mut refusing, _) = make(5_000, Policy::Binpack);
    let mut samples: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    // More memory than any GPU has; and a whole GPU with more cores than are left wherever there is the memory.
    let refused = [
        ("refused", demand(Policy::Binpack, (200, 20, 1))),
        ("refused mixed", demand(Policy::Binpack, (78, 60, 8))),
    ];
    for round in 0..ROUNDS {
        // As often after a change as a decision that finds a place.
        let (name, ask) = &refused[round % refused.len()];
        refusing.step();
        let (micros, placed) = decide(&refusing.cluster, ask);
        assert!(placed.is_none(), "{name} was placed");
        samples.entry((refusing.nodes, name)).or_default().push(micros);
        for bench in &mut benches {
            let name = match bench.policy {
                Policy::Binpack => "binpack",
                Policy::Spread => "spread",
                Policy::LeastFragmentation => "least",
            };
            let micros = bench.step();
            samples.entry((bench.nodes, name)).or_default().push(micros);
            if bench.policy == Policy::LeastFragmentation && (round + 1).is_multiple_of(LESSON as usize) {
                let micros = bench.learn();
                samples.entry((bench.nodes, "lesson")).or_default().push(micros);
                // Kinds of pods that never came before.
                let (micros, _) =
                    decide(&bench.cluster, &demand(bench.policy, (5, 1 + round as u32 % 70, 1)));
                samples.entry((bench.nodes, "first")).or_default().push(micros);
            }
        }
    }
    let at = |nodes: usize, name: &str, q: f64| {
        let found = samples.iter().find(|((n, s), _)| (*n, *s) == (nodes, name));
        quantile(found.expect("measured above").1, q)
    };
    let mut metrics = serde_json::Map::new();
    let mut put = |name: &str, value: f64, unit: &str, baseline: Option<f64>, goal: Option<f64>| {
        let ok = goal.map(|goal| value <= goal);
        metrics.insert(
            name.to_owned(),
            serde_json::json!({"value": value, "unit": unit, "baseline": baseline, "goal": goal, "ok": ok}),
        );
    };
    for (policy, name) in [("binpack", "plan"), ("spread", "spread_plan")] {
        put(&format!("{name}_p50_us"), at(5_000, policy, 0.5), "us", None, None);
        put(&format!("{name}_p99_us"), at(5_000, policy, 0.99), "us", None, Some(100.0));
        let small = at(100, policy, 0.99);
        for nodes in [100, 1_000, 10_000] {
            let goal = (nodes > 100).then_some(3.0 * small);
            let name = format!("{name}_p99_us_{nodes}_nodes");
            put(&name, at(nodes, policy, 0.99), "us", goal.map(|_| small), goal);
        }
    }
    put("least_fragmentation_p50_us", at(5_000, "least", 0.5), "us", None, Some(500.0));
    put("least_fragmentation_p99_us", at(5_000, "least", 0.99), "us", None, Some(2_000.0));
    put("least_fragmentation_first_us", at(5_000, "first", 0.5), "us", None, None);
    put("least_fragmentation_lesson_us", at(5_000, "lesson", 0.5), "us", None, None);
    // A pod that is refused costs no more than one that is placed.
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        let placed = Some(at(5_000, "binpack", quantile));
        for (kind, refused) in [("", "refused"), ("mixed_", "refused mixed")] {
            put(&format!("refuse_{kind}{name}_us"), at(5_000, refused, quantile), "us", placed, placed);
        }
    }
    put("bytes_per_gpu", bytes_per_gpu, "bytes", None, Some(1024.0));
    println!("{}", serde_json::Value::Object(metrics));
}
