//! The indexes never change an answer: random clusters, holdings that come and go, and demands of every form are decided
//! both ways after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use vgpu_allocator::{
    Cluster, Constraint, Demand, Exclusions, Gpu, GpuState, MemoryAsk, Mix, Node, NodeExclusion, Overcommit,
    Oversubscribed, POLICIES, Policy, Request, Room, Rule, Shapes, Share, Site, Topology,
};

const GIB: u64 = 1 << 30;
const NODES: usize = 90;

#[derive(Debug, Clone)]
enum Step {
    Node(usize, Node),
    Leave(usize),
    Pod(usize, usize, Room),
    PodGone(usize),
    /// Holds what a demand is given, or these shares whether they fit or not.
    Claim(usize, Demand),
    Force(usize, usize, usize, u64, u32),
    ClaimGone(usize),
    Learn,
}

fn name(node: usize) -> String {
    format!("node-{node:03}")
}

/// Pairs on a PCIe root, fours on a NUMA node, and an NVLink from one pair to another.
fn site(gpu: usize) -> Site {
    let number = |n: usize| u16::try_from(n).ok();
    let pcie = number(gpu / 2).map(u32::from);
    Site { nvlink: matches!(gpu, 1 | 2).then_some(0), pcie, numa: number(gpu / 4) }
}

fn node() -> impl Strategy<Value = Node> {
    let state = prop_oneof![9 => Just(GpuState::Healthy), 1 => Just(GpuState::Unhealthy)];
    // Mostly nodes of one make; some with GPUs of several shapes, sizes and numbers of tenants.
    let plain = (prop_oneof![Just(2usize), Just(4), Just(8)], state.clone()).prop_map(|(n, state)| {
        let gpu = |i: usize| Gpu {
            name: format!("gpu-{i}"),
            shape: 0,
            memory: 16 * GIB,
            cores: 100,
            overcommit: Overcommit::default(),
            shares: 3,
            state: if i == 0 { state } else { GpuState::Healthy },
            site: site(i),
        };
        (0..n).map(gpu).collect::<Vec<_>>()
    });
    let odd = (
        0..3u32,
        prop_oneof![Just(7u64), Just(16), Just(40)],
        prop_oneof![Just(100u32), Just(150)],
        1..4u32,
        (state, prop_oneof![2 => Just((100u16, 100u16)), 1 => Just((150, 130))]),
    );
    let mixed = proptest::collection::vec(odd, 0..5).prop_map(|gpus| {
        type Odd = (u32, u64, u32, u32, (GpuState, (u16, u16)));
        let gpu = |(i, (shape, memory, cores, shares, (state, percent))): (usize, Odd)| Gpu {
            name: format!("gpu-{i}"),
            shape,
            memory: memory * GIB,
            cores,
            overcommit: Overcommit { memory: percent.0, cores: percent.1 },
            shares,
            state,
            site: site(i),
        };
        gpus.into_iter().enumerate().map(gpu).collect()
    });
    let gpus = prop_oneof![4 => plain, 2 => mixed];
    (1..9u64, 1..9u64, 1..5u32, gpus, 0..3u32).prop_map(|(cpu, memory, pods, gpus, class)| Node {
        room: Room { cpu_milli: cpu * 1000, memory: memory * 8 * GIB, pods },
        gpus,
        class,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    proptest::sample::select(POLICIES.map(|p| p.1).to_vec())
}

fn request() -> impl Strategy<Value = Request> {
    let memory = prop_oneof![
        4 => (1..18u64).prop_map(|n| MemoryAsk::Bytes(n * GIB)),
        1 => (1..100u32).prop_map(MemoryAsk::Percent),
        1 => Just(MemoryAsk::All),
        1 => Just(MemoryAsk::Nothing),
    ];
    let shapes = prop_oneof![3 => Just(Shapes::Any), 1 => proptest::collection::btree_set(0..3u32, 0..3).prop_map(Shapes::Of)];
    let count = prop_oneof![5 => Just(1u32), 2 => Just(2), 1 => 3..5u32];
    let containers = proptest::collection::btree_set(0..2u32, 1..3);
    let all = proptest::bool::weighted(0.1);
    let barred = prop_oneof![5 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(0..3u32, 0..3)];
    let topology = prop_oneof![Just(Topology::Ignore), Just(Topology::Prefer), Just(Topology::Require)];
    let soft = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.2));
    (memory, 0..6u32, (count, all, topology, soft), (shapes, barred), policy(), containers).prop_map(
        |(memory, cores, (count, all, topology, soft), (shapes, barred), gpu_policy, containers)| Request {
            claim: "claim".into(),
            name: "gpu".into(),
            count,
            all,
            memory,
            cores: if memory == MemoryAsk::Nothing { 0 } else { cores * 11 },
            oversubscribed: Oversubscribed { memory: soft.0, cores: soft.1 },
            shapes,
            barred,
            gpu_policy,
            topology,
            containers,
        },
    )
}

/// GPU i has the value i / 2 or i % 2, or none if it is the third.
fn constraint() -> impl Strategy<Value = Constraint> {
    let rule = prop_oneof![Just(Rule::Match), Just(Rule::Distinct)];
    (proptest::collection::btree_set(0..3usize, 1..3), rule, 1..3u32, any::<bool>()).prop_map(
        |(requests, rule, step, third)| {
            let gpus = (0..8u32).filter(|i| third || *i != 2);
            let values: BTreeMap<String, u32> =
                gpus.map(|i| (format!("gpu-{i}"), if step == 1 { i % 2 } else { i / 2 })).collect();
            Constraint { requests, rule, values: Arc::new(values) }
        },
    )
}

fn demand() -> impl Strategy<Value = Demand> {
    let requests = prop_oneof![
        1 => Just(vec![]),
        6 => proptest::collection::vec(request(), 1..2),
        2 => proptest::collection::vec(request(), 2..4),
    ];
    let room = (0..3u64, 0..9u64, 0..2u32);
    let only = proptest::option::weighted(0.1, 0..NODES);
    let classes =
        prop_oneof![3 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(0..3u32, 0..3)];
    let nodes = prop_oneof![3 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(0..NODES, 0..9)];
    let constraints = prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(constraint(), 1..3)];
    (room, requests, constraints, policy(), only, classes, nodes).prop_map(
        |((cpu, memory, pods), requests, constraints, node_policy, only, classes, nodes)| {
            let because = |reason: &str| NodeExclusion(reason.into());
            Demand {
                room: Room { cpu_milli: cpu * 500, memory: memory * GIB, pods },
                requests,
                constraints,
                node_policy,
                only_node: only.map(name),
                excluded: Exclusions {
                    classes: classes.into_iter().map(|c| (c, because("NotReady"))).collect(),
                    nodes: nodes.into_iter().map(|n| (name(n), because("Penalty"))).collect(),
                },
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let room = (0..4u64, 0..9u64).prop_map(|(cpu, memory)| Room {
        cpu_milli: cpu * 500,
        memory: memory * GIB,
        pods: 1,
    });
    prop_oneof![
        4 => (0..NODES, node()).prop_map(|(n, node)| Step::Node(n, node)),
        1 => (0..NODES).prop_map(Step::Leave),
        2 => (0..99usize, 0..NODES, room).prop_map(|(p, n, room)| Step::Pod(p, n, room)),
        1 => (0..99usize).prop_map(Step::PodGone),
        12 => (0..99usize, demand()).prop_map(|(c, d)| Step::Claim(c, d)),
        2 => (0..99usize, 0..NODES, 0..5usize, 0..20u64, 0..120u32).prop_map(|(c, n, g, m, k)| Step::Force(c, n, g, m, k)),
        3 => (0..99usize).prop_map(Step::ClaimGone),
        1 => Just(Step::Learn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_answer_the_same(
        nodes in proptest::collection::vec(node(), 1..NODES),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut cluster = Cluster::default();
        let mut mix = Mix::default();
        for (n, node) in nodes.into_iter().enumerate() {
            cluster.set_node(&name(n), node);
        }
        for step in steps {
            match step {
                Step::Node(n, node) => cluster.set_node(&name(n), node),
                Step::Leave(n) => cluster.remove_node(&name(n)),
                Step::Pod(p, n, room) => cluster.hold_pod(&format!("pod-{p}"), &name(n), room),
                Step::PodGone(p) => cluster.drop_pod(&format!("pod-{p}")),
                Step::ClaimGone(c) => cluster.drop_claim(&format!("claim-{c}")),
                Step::Force(c, n, g, memory, cores) => {
                    let share = Share { node: name(n), gpu: format!("gpu-{g}"), memory: memory * GIB, cores, oversubscribed: Oversubscribed::default() };
                    cluster.hold_claim(&format!("claim-{c}"), vec![share]);
                }
                Step::Learn => {
                    mix.draw();
                    cluster.learn(&mix);
                }
                Step::Claim(c, demand) => {
                    mix.arrived(&demand);
                    let answer = cluster.plan(&demand);
                    prop_assert_eq!(&answer, &cluster.plan_exhaustively(&demand));
                    if let Ok(placed) = answer {
                        cluster.hold_claim(&format!("claim-{c}"), placed.shares.iter().map(|s| s.on(&placed.node)).collect::<Vec<_>>());
                        cluster.hold_pod(&format!("claim-{c}"), &placed.node, demand.room);
                    }
                }
            }
        }
        // What was kept for speed on the way gives the same as a cluster built at once.
        let built = cluster.clone();
        for (_, policy) in POLICIES {
            let request = Request {
                claim: "claim".into(),
                name: "gpu".into(),
                count: 1,
                all: false,
                memory: MemoryAsk::Bytes(3 * GIB),
                cores: 10,
                oversubscribed: Oversubscribed::default(),
                shapes: Shapes::Any,
                barred: BTreeSet::new(),
                gpu_policy: policy,
                topology: Topology::Prefer,
                containers: BTreeSet::new(),
            };
            for requests in [vec![], vec![request]] {
                let probe = Demand {
                    room: Room { cpu_milli: 500, memory: GIB, pods: 1 },
                    requests,
                    constraints: vec![],
                    node_policy: policy,
                    only_node: None,
                    excluded: Exclusions::default(),
                };
                prop_assert_eq!(cluster.plan(&probe), built.plan(&probe));
            }
        }
    }
}
