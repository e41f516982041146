//! What is learnt, and where it sends pods. Text in, text out, as [`crate::fixture`] reads and writes it.

use std::collections::BTreeSet;

use crate::Mix;
use crate::fixture::{answer, cluster, demand};

/// Where `ask` goes under LeastFragmentation once pods of the kinds have come, each as often as it is named.
#[track_caller]
fn check(nodes: &str, seen: &[&str], ask: &str, want: &str) {
    let mut mix = Mix::default();
    for _ in 0..20 {
        seen.iter().for_each(|ask| mix.arrived(&demand(ask)));
    }
    mix.draw();
    let mut cluster = cluster(nodes);
    cluster.learn(&mix);
    let (bare, ask) = (ask, format!("{ask} node=LeastFragmentation gpu=LeastFragmentation"));
    let demand = demand(&ask);
    assert_eq!(answer(&cluster, &demand), want, "\n{nodes}\nseen: {seen:?}\nask: {bare}");
    assert_eq!(cluster.plan(&demand), cluster.plan_exhaustively(&demand));
}

#[test]
fn it_is_binpack_until_something_is_learnt() {
    let nodes = "node-a: gpu-0 10/16\nnode-b: gpu-0 12/16";
    check(nodes, &[], "memory=6", "node-a/gpu-0");
}

#[test]
fn what_is_left_suits_the_pods_that_come() {
    let nodes = "node-a: gpu-0 10/16\nnode-b: gpu-0 12/16";
    check(nodes, &["memory=6", "memory=10"], "memory=6", "node-b/gpu-0");
    let gpus = "node-a: gpu-0 10/16, gpu-1 12/16";
    check(gpus, &["memory=6", "memory=10"], "memory=6", "node-a/gpu-1");
}

#[test]
fn a_whole_node_is_kept_for_pods_that_want_one() {
    let nodes = "node-a: gpu-0 16/16, gpu-1 16/16\nnode-b: gpu-0 16/16, gpu-1 6/16";
    check(nodes, &["memory=6", "all count=2"], "memory=6", "node-b/gpu-1");
    check(nodes, &["memory=6"], "memory=4", "node-b/gpu-0");
}

#[test]
fn empty_nodes_stay_empty_while_few_pods_want_one() {
    let kinds = [
        ("memory=81", 6),
        ("memory=47", 5),
        ("memory=32", 3),
        ("all", 3),
        ("memory=65", 2),
        ("memory=23", 2),
        ("memory=46", 2),
        ("memory=59", 1),
    ];
    let seen = || kinds.iter().flat_map(|(ask, times)| std::iter::repeat_n(*ask, *times));
    let mut mix = Mix::default();
    for _ in 0..20 {
        seen().for_each(|ask| mix.arrived(&demand(ask)));
    }
    mix.arrived(&demand("all count=8"));
    mix.draw();
    let gpus = (0..8).map(|g| format!("gpu-{g} 100/100")).collect::<Vec<_>>().join(", ");
    let nodes: Vec<String> = (0..60).map(|n| format!("node-{n:02}: {gpus}")).collect();
    let mut cluster = cluster(&nodes.join("\n"));
    cluster.learn(&mix);
    let mut used = BTreeSet::new();
    for (n, ask) in seen().cycle().step_by(7).take(60).enumerate() {
        let ask = demand(&format!("{ask} node=LeastFragmentation gpu=LeastFragmentation"));
        let placed = cluster.plan(&ask).unwrap();
        cluster
            .hold_claim(&n.to_string(), placed.shares.iter().map(|s| s.on(&placed.node)).collect::<Vec<_>>());
        used.insert(placed.node);
    }
    // Sixty pods that ask for the GPUs of five nodes: by what fits the sequences alone, hardly two of them met.
    assert!(used.len() <= 10, "{used:?}");
}

#[test]
fn a_rare_model_is_kept_for_pods_that_need_it() {
    let nodes = "node-a: gpu-0 8/16#2\nnode-b: gpu-0 16/16\nnode-c: gpu-0 16/16";
    check(nodes, &["memory=8", "memory=8 shape=2"], "memory=8", "node-b/gpu-0");
    check(nodes, &["memory=8", "memory=8 shape=2"], "memory=8 shape=2", "node-a/gpu-0");
}

#[test]
fn node_and_gpu_policies_mix() {
    let mut mix = Mix::default();
    for _ in 0..20 {
        mix.arrived(&demand("memory=6"));
        mix.arrived(&demand("memory=10"));
    }
    mix.draw();
    let mut cluster = cluster("node-a: gpu-0 10/16, gpu-1 12/16\nnode-b: gpu-0 16/16, gpu-1 16/16");
    cluster.learn(&mix);
    for (ask, want) in [
        ("memory=6 gpu=LeastFragmentation", "node-a/gpu-1"),
        // It foresees that Binpack would take the GPU with 10 free, and leave 4 that nobody wants.
        ("memory=6 node=LeastFragmentation", "node-b/gpu-0"),
        ("memory=6 node=Spread gpu=LeastFragmentation", "node-b/gpu-0"),
    ] {
        assert_eq!(answer(&cluster, &demand(ask)), want, "{ask}");
    }
}

#[test]
fn the_mix_is_bounded_and_forgets_what_no_longer_comes() {
    let mut mix = Mix::default();
    for n in 0..5_000u64 {
        let mut ask = demand("memory=6");
        ask.room.cpu_milli = n;
        mix.arrived(&ask);
    }
    mix.draw();
    assert_eq!(mix.drawn().specs.len(), 512);
    for _ in 0..200_000 {
        mix.arrived(&demand("memory=6"));
    }
    mix.draw();
    let weights: f64 = mix.drawn().specs.iter().map(|s| s.1).sum();
    let latest = mix.drawn().specs.iter().find(|(spec, _)| spec.cpu_milli == 100).map(|s| s.1);
    assert!(latest.is_some_and(|w| w > 0.999 * weights), "{latest:?} of {weights}");
}
