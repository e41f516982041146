//! Text in, text out, as [`crate::fixture`] reads and writes it.

use std::sync::Arc;

use proptest::prelude::*;

use crate::fixture::*;
use crate::{Constraint, Demand, Gpu, Node, Overcommit, Oversubscribed, Room, Rule, Share};

#[track_caller]
fn check(nodes: &str, ask: &str, want: &str) {
    assert_eq!(answer(&cluster(nodes), &demand(ask)), want, "\n{nodes}\nask: {ask}");
}

const TWO: &str = "node-a: gpu-0 16/16, gpu-1 8/16\nnode-b: gpu-0 16/16, gpu-1 16/16";

#[test]
fn binpack_takes_the_fullest_node_and_gpu_that_fit() {
    check(TWO, "memory=8", "node-a/gpu-1");
    check(TWO, "memory=9", "node-a/gpu-0");
}

#[test]
fn spread_takes_the_emptiest() {
    check(TWO, "memory=8 node=Spread gpu=Spread", "node-b/gpu-0");
    check(TWO, "memory=8 gpu=Spread", "node-a/gpu-0");
    check(TWO, "memory=8 node=Spread", "node-b/gpu-0");
}

#[test]
fn spread_counts_the_request_itself() {
    check("node-a: gpu-0 12/16, gpu-1 24/40", "memory=8 gpu=Spread", "node-a/gpu-1");
}

#[test]
fn cores_count_as_much_as_memory() {
    check("node-a: gpu-0 16/16 c20, gpu-1 12/16", "memory=2 cores=10", "node-a/gpu-0");
    check("node-a: gpu-0 16/16 c20, gpu-1 12/16", "memory=2 cores=30", "node-a/gpu-1");
}

#[test]
fn equal_candidates_are_told_apart_by_name() {
    check("node-b: gpu-1 16/16, gpu-0 16/16\nnode-a: gpu-1 16/16, gpu-0 16/16", "memory=1", "node-a/gpu-0");
}

#[test]
fn several_gpus_of_one_request_are_different_ones() {
    check(TWO, "memory=4 count=2", "node-a/gpu-1+gpu-0");
    check(TWO, "memory=4 count=3", "0/4 GPUs: 4 NotEnoughGpus");
}

#[test]
fn every_gpu_that_matches_is_taken_or_none() {
    check(
        "node-a: gpu-0 16/16, gpu-1 8/16\nnode-b: gpu-0 16/16, gpu-1 16/16",
        "memory=9 every",
        "node-b/gpu-0+gpu-1",
    );
    check("node-a: gpu-0 16/16, gpu-1 16/16#1", "memory=9 every shape=1", "node-a/gpu-1");
    check(
        "node-a: gpu-0 16/16, gpu-1 16/16 down",
        "memory=9 every",
        "0/2 GPUs: 1 Unhealthy, 1 NotEnoughGpus",
    );
    check(
        "node-a: gpu-0 16/16\nnode-b: gpu-0 16/16, gpu-1 16/16",
        "memory=9 every count=2",
        "node-b/gpu-0+gpu-1",
    );
}

#[test]
fn a_gpu_with_a_taint_that_is_not_tolerated_is_left() {
    check("node-a: gpu-0 8/16#1, gpu-1 16/16", "memory=4 shun=1", "node-a/gpu-1");
    check(
        "node-a: gpu-0 16/16#1, gpu-1 3/16",
        "memory=4 shun=1",
        "0/2 GPUs: 1 InsufficientMemory (largest free 3Gi, asked 4Gi), 1 Tainted",
    );
    check(
        "node-a: gpu-0 16/16#1, gpu-1 16/16",
        "memory=4 every shun=1",
        "0/2 GPUs: 1 Tainted, 1 NotEnoughGpus",
    );
    check("node-a: gpu-0 16/16#1", "look shun=1", "0/1 GPUs: 1 Tainted");
}

#[test]
fn who_only_looks_finds_gpus_full_and_broken_and_takes_nothing() {
    check("node-a: gpu-0 0/16 c0, gpu-1 16/16 down", "look every cores=0", "node-a/gpu-0+gpu-1");
    let mut cluster = cluster("node-a: gpu-0 16/16");
    let placed = cluster.plan(&demand("look")).unwrap();
    assert_eq!((placed.shares[0].memory, placed.shares[0].cores, placed.score.0), (0, 0, 0));
    cluster.hold_claim("c", vec![]);
    assert_eq!(answer(&cluster, &demand("all")), "node-a/gpu-0");
}

fn constrained(ask: &str, rule: Rule, values: &[(&str, u32)]) -> Demand {
    let values = values.iter().map(|(gpu, value)| ((*gpu).to_owned(), *value)).collect();
    let mut demand = demand(ask);
    let requests = (0..demand.requests.len()).collect();
    demand.constraints = vec![Constraint { requests, rule, values: Arc::new(values) }];
    demand
}

#[test]
fn gpus_that_must_match_do_although_the_policy_would_take_others() {
    let cluster = cluster("node-a: gpu-0 8/16, gpu-1 16/16, gpu-2 16/16, gpu-3 16/16");
    let values = [("gpu-0", 1), ("gpu-1", 2), ("gpu-2", 2), ("gpu-3", 3)];
    let ask = constrained("memory=4 count=2", Rule::Match, &values);
    assert_eq!(answer(&cluster, &ask), "node-a/gpu-1+gpu-2");
    let ask = constrained("memory=4 count=3", Rule::Match, &values);
    assert_eq!(answer(&cluster, &ask), "0/4 GPUs: 4 NotEnoughGpus");
    let ask = constrained("memory=4 + memory=4", Rule::Match, &values);
    assert_eq!(answer(&cluster, &ask), "node-a/gpu-1+gpu-2");
}

#[test]
fn gpus_that_must_differ_do_and_one_without_a_value_is_not_chosen() {
    let cluster = cluster("node-a: gpu-0 16/16, gpu-1 16/16, gpu-2 16/16, gpu-3 16/16");
    let values = [("gpu-0", 1), ("gpu-1", 1), ("gpu-3", 2)];
    assert_eq!(
        answer(&cluster, &constrained("memory=4 count=2", Rule::Distinct, &values)),
        "node-a/gpu-0+gpu-3"
    );
    assert_eq!(
        answer(&cluster, &constrained("memory=4 count=3", Rule::Distinct, &values)),
        "0/4 GPUs: 4 NotEnoughGpus"
    );
}

/// Sixteen GPUs, the first half of which has one value and the rest another.
fn halves() -> (Vec<(String, u32)>, String) {
    let values = (0..16).map(|n| (format!("gpu-{n:02}"), n / 8)).collect();
    let gpus: Vec<String> = (0..16).map(|n| format!("gpu-{n:02} 16/16")).collect();
    (values, format!("node-a: {}", gpus.join(", ")))
}

#[test]
fn what_no_order_of_gpus_can_give_is_found_out_soon() {
    let (values, text) = halves();
    let values: Vec<(&str, u32)> = values.iter().map(|(gpu, value)| (gpu.as_str(), *value)).collect();
    let cluster = cluster(&text);
    let eight = answer(&cluster, &constrained("memory=4 count=8", Rule::Match, &values));
    assert_eq!(eight.split('+').count(), 8, "{eight}");
    let nine = constrained("memory=4 count=9", Rule::Match, &values);
    assert_eq!(answer(&cluster, &nine), "0/16 GPUs: 16 NotEnoughGpus");
    // Sixteen places for the first of nine, and then it is clear; all orders of eight would be forty thousand.
    let node = &cluster.nodes["node-a"];
    assert!(crate::fill::Fill::new(node, None, nine.parts(), None).steps_to_end() <= 16);
    let three = constrained("memory=4 count=3", Rule::Distinct, &values);
    assert_eq!(answer(&cluster, &three), "0/16 GPUs: 16 NotEnoughGpus");
    assert_eq!(crate::fill::Fill::new(node, None, three.parts(), None).steps_to_end(), 0);
}

#[test]
fn requests_of_one_container_part_where_they_can() {
    check("node-a: gpu-0 16/16, gpu-1 16/16", "memory=4 + memory=4", "node-a/gpu-0+gpu-1");
    check("node-a: gpu-0 16/16", "memory=4 + memory=4", "node-a/gpu-0+gpu-0");
}

#[test]
fn requests_of_different_containers_may_share_a_gpu() {
    check("node-a: gpu-0 16/16, gpu-1 16/16", "memory=4 / memory=4", "node-a/gpu-0+gpu-0");
}

#[test]
fn a_first_choice_that_leads_nowhere_is_taken_back() {
    // Binpack would put the small request on the only GPU that can hold the large one.
    check(
        "node-a: gpu-0 10/40, gpu-1 12/16 c10",
        "memory=8 cores=5 / memory=10 cores=20",
        "node-a/gpu-1+gpu-0",
    );
}

#[test]
fn a_percentage_is_of_the_gpu_it_lands_on() {
    let placed = cluster("node-a: gpu-0 16/16").plan(&demand("percent=50")).unwrap();
    assert_eq!(placed.shares[0].memory, 8 * GIB);
    check("node-a: gpu-0 7/16", "percent=50", "0/1 GPUs: 1 InsufficientMemory (largest free 7Gi, asked 8Gi)");
}

#[test]
fn everything_is_asked_when_nothing_is_said() {
    check(TWO, "all", "node-a/gpu-0");
    check("node-a: gpu-0 15/16", "all", "0/1 GPUs: 1 InsufficientMemory (largest free 15Gi, asked 16Gi)");
}

#[test]
fn a_refusal_names_each_reason_once_with_its_number() {
    check(
        "node-a: gpu-0 2/24, gpu-1 3/24, gpu-2 24/24 down\nnode-b: gpu-0 24/24#2",
        "memory=8 shape=0",
        "0/4 GPUs: 2 InsufficientMemory (largest free 3Gi, asked 8Gi), 1 ModelMismatch, 1 Unhealthy",
    );
}

#[test]
fn a_refusal_names_nodes_that_are_out() {
    check(TWO, "memory=1 cpu=5000", "0/4 GPUs: 2 nodes InsufficientCpu");
    check(TWO, "memory=1 without=node-a on=node-a", "0/4 GPUs: 1 node NotReady, 1 node NotTheNode");
    check(
        "node-a: gpu-0 1/1 c20",
        "memory=1 cores=30",
        "0/1 GPUs: 1 InsufficientCores (most free 20 %, asked 30 %)",
    );
}

#[test]
fn a_cluster_without_gpus_says_so() {
    check("node-a:", "memory=1", "0/0 GPUs: no node has a GPU of this driver");
}

#[test]
fn holdings_on_a_node_that_left_count_when_it_is_back() {
    let mut c = cluster("node-a: gpu-0 16/16");
    c.hold_claim("x", vec![share("node-a", "gpu-0", 12)]);
    let node =
        Node { room: Room { cpu_milli: 4000, memory: 64 * GIB, pods: 10 }, ..c.nodes["node-a"].clone() };
    c.remove_node("node-a");
    c.set_node("node-a", node);
    assert_eq!(
        answer(&c, &demand("memory=8")),
        "0/1 GPUs: 1 InsufficientMemory (largest free 4Gi, asked 8Gi)"
    );
}

#[test]
fn overcommitment_is_found_with_its_claims() {
    let mut c = cluster("node-a: gpu-0 16/16");
    c.hold_claim("x", vec![share("node-a", "gpu-0", 12)]);
    assert!(c.overcommitted().is_empty());
    c.hold_claim("y", vec![share("node-a", "gpu-0", 12)]);
    assert_eq!(c.overcommitted()[0].claims, ["x", "y"]);
}

#[test]
fn fewer_tenants_allowed_than_there_are_is_no_overcommitment() {
    let mut c = cluster("node-a: gpu-0 16/16");
    c.hold_claim("x", vec![share("node-a", "gpu-0", 4)]);
    c.hold_claim("y", vec![share("node-a", "gpu-0", 4)]);
    let mut node = c.nodes["node-a"].clone();
    node.gpus[0].shares = 1;
    c.set_node("node-a", node);
    assert!(c.overcommitted().is_empty());
    assert!(answer(&c, &demand("memory=4")).contains("NoSharesLeft"), "{}", answer(&c, &demand("memory=4")));
}

fn share(node: &str, gpu: &str, gib: u64) -> Share {
    let (memory, oversubscribed) = (gib * GIB, Oversubscribed::default());
    Share { node: node.into(), gpu: gpu.into(), memory, cores: 0, oversubscribed }
}

const LINKED: &str =
    "node-a: gpu-0 16/16 p0 u0, gpu-1 16/16 p1 u0, gpu-2 16/16 p1 u0 n1, gpu-3 16/16 p2 u1 n1";

#[test]
fn several_gpus_of_a_request_are_close_where_the_policy_leaves_a_choice() {
    check(LINKED, "memory=8 count=2", "node-a/gpu-2+gpu-3");
    check(LINKED, "memory=8 count=2 topology=Ignore", "node-a/gpu-0+gpu-1");
    check(LINKED, "memory=8 count=3", "node-a/gpu-0+gpu-1+gpu-2");
    // Binpack does not leave a choice: the fuller one is taken in any case, and the closest to it.
    let taken = LINKED.replace("gpu-1 16/16", "gpu-1 12/16");
    check(&taken, "memory=8 count=2", "node-a/gpu-1+gpu-2");
    check(&taken, "memory=8 count=2 gpu=Spread", "node-a/gpu-2+gpu-3");
    check(&taken, "memory=8 count=4", "node-a/gpu-1+gpu-0+gpu-2+gpu-3");
}

#[test]
fn requests_of_their_own_are_not_brought_together() {
    check(LINKED, "memory=8 + memory=8", "node-a/gpu-0+gpu-1");
}

#[test]
fn gpus_that_must_be_joined_wait_for_a_node_that_has_them() {
    let apart = "node-a: gpu-0 16/16 p0 u0, gpu-1 16/16 p1 u0";
    let joined = "node-b: gpu-0 16/16 p0 u0, gpu-1 8/16 p1 u1, gpu-2 16/16 p1 u1";
    check(&format!("{apart}\n{joined}"), "memory=8 count=2 topology=Require", "node-b/gpu-1+gpu-2");
    check(apart, "memory=8 count=2", "node-a/gpu-0+gpu-1");
    check(apart, "memory=8 count=2 topology=Require", "0/2 GPUs: 2 NotEnoughJoinedGpus");
    check(apart, "memory=8 count=1 topology=Require", "node-a/gpu-0");
    // The fullest has nobody to go with: the policy yields to what is required.
    let odd = "node-a: gpu-0 8/16 p0, gpu-1 16/16 p1, gpu-2 16/16 p1";
    check(odd, "memory=8 count=2 topology=Require", "node-a/gpu-1+gpu-2");
    check(odd, "memory=8 every topology=Require", "0/3 GPUs: 3 NotEnoughJoinedGpus");
}

#[test]
fn more_is_promised_of_an_overcommitted_gpu_to_those_that_let_it_happen() {
    let gpu = "node-a: gpu-0 10/10 x150";
    check(gpu, "memory=15 soft", "node-a/gpu-0");
    check(gpu, "memory=16 soft", "0/1 GPUs: 1 InsufficientMemory (largest free 15Gi, asked 16Gi)");
    check(gpu, "memory=11", "0/1 GPUs: 1 InsufficientMemory (largest free 10Gi, asked 11Gi)");
    check(
        "node-a: gpu-0 10/10",
        "memory=11 soft",
        "0/1 GPUs: 1 InsufficientMemory (largest free 10Gi, asked 11Gi)",
    );
    // What others hold firmly is theirs: only the rest is promised more than once.
    check("node-a: gpu-0 4/10 x150", "memory=6 soft", "node-a/gpu-0");
    check(
        "node-a: gpu-0 4/10 x150",
        "memory=7 soft",
        "0/1 GPUs: 1 InsufficientMemory (largest free 6Gi, asked 7Gi)",
    );
}

#[test]
fn what_is_promised_softly_leaves_its_part_to_firm_shares() {
    let mut c = cluster("node-a: gpu-0 10/10 x200");
    let soft = Oversubscribed { memory: true, cores: true };
    let share = |gib| Share { oversubscribed: soft, ..share("node-a", "gpu-0", gib) };
    c.hold_claim("a", vec![share(8)]);
    c.hold_claim("b", vec![share(4)]);
    assert_eq!(answer(&c, &demand("memory=4")), "node-a/gpu-0");
    assert_eq!(
        answer(&c, &demand("memory=5")),
        "0/1 GPUs: 1 InsufficientMemory (largest free 4Gi, asked 5Gi)"
    );
    assert_eq!(answer(&c, &demand("memory=8 soft")), "node-a/gpu-0");
    assert!(answer(&c, &demand("memory=9 soft")).contains("largest free 8Gi"));
    // A word of the admin's that takes the promise back turns nobody out.
    let gpu = Gpu { overcommit: Overcommit::default(), ..c.nodes["node-a"].gpus[0].clone() };
    c.set_node("node-a", Node { gpus: vec![gpu], ..c.nodes["node-a"].clone() });
    assert!(c.overcommitted().is_empty());
    assert!(answer(&c, &demand("memory=1 soft")).contains("largest free 0Mi"));
}

#[derive(Debug, Clone)]
struct Small {
    /// Free GiB and free cores of each GPU, by node.
    nodes: Vec<Vec<(u64, u32)>>,
    /// GiB, cores, count.
    requests: Vec<(u64, u32, u32)>,
    /// What all requests' GPUs must have in common, or not, and what each GPU of a node has.
    rule: Option<Rule>,
    values: Vec<Option<u32>>,
}

fn small() -> impl Strategy<Value = Small> {
    let gpu = (0..=8u64, 0..=10u32).prop_map(|(m, c)| (m, c * 10));
    let nodes = proptest::collection::vec(proptest::collection::vec(gpu, 1..4), 1..3);
    let requests = proptest::collection::vec((1..=6u64, 0..=5u32, 1..3u32), 1..4);
    let rule = proptest::option::of(prop_oneof![Just(Rule::Match), Just(Rule::Distinct)]);
    let values = proptest::collection::vec(proptest::option::weighted(0.9, 0..3u32), 4);
    (nodes, requests, rule, values).prop_map(|(nodes, requests, rule, values)| Small {
        nodes,
        requests: requests.into_iter().map(|(m, c, n)| (m, c * 10, n)).collect(),
        rule,
        values,
    })
}

/// Whether the requests fit a node in any way at all.
fn brute_force(
    gpus: &mut Vec<(u64, u32)>,
    units: &[(usize, u64, u32)],
    used: &mut Vec<(usize, usize)>,
    of: &Small,
) -> bool {
    let Some(&(request, memory, cores)) = units.first() else { return true };
    for gpu in 0..gpus.len() {
        if used.contains(&(request, gpu)) || gpus[gpu].0 < memory || gpus[gpu].1 < cores {
            continue;
        }
        let equal = |other: &(usize, usize)| of.values[other.1] == of.values[gpu];
        let keeps = of.values[gpu].is_some()
            && used.iter().all(|other| equal(other) == (of.rule == Some(Rule::Match)));
        if of.rule.is_some() && !keeps {
            continue;
        }
        gpus[gpu].0 -= memory;
        gpus[gpu].1 -= cores;
        used.push((request, gpu));
        if brute_force(gpus, &units[1..], used, of) {
            return true;
        }
        used.pop();
        gpus[gpu].0 += memory;
        gpus[gpu].1 += cores;
    }
    false
}

proptest! {
    #[test]
    fn a_pod_is_placed_exactly_if_it_fits_in_some_way(s in small(), spread in any::<bool>()) {
        let text: Vec<String> = s.nodes.iter().enumerate().map(|(n, gpus)| {
            let gpus: Vec<String> =
                gpus.iter().enumerate().map(|(g, (m, c))| format!("gpu-{g} {m}/8 c{c}")).collect();
            format!("node-{n}: {}", gpus.join(", "))
        }).collect();
        let which = if spread { "Spread" } else { "Binpack" };
        let ask: Vec<String> = s.requests.iter()
            .map(|(m, c, n)| format!("memory={m} cores={c} count={n} gpu={which} node={which}")).collect();
        let units: Vec<(usize, u64, u32)> = s.requests.iter().enumerate()
            .flat_map(|(i, (m, c, n))| std::iter::repeat_n((i, *m, *c), *n as usize)).collect();
        let possible = s.nodes.iter().any(|n| brute_force(&mut n.clone(), &units, &mut vec![], &s));
        let c = cluster(&text.join("\n"));
        let mut d = demand(&ask.join(" / "));
        let values = (0..4).zip(&s.values).filter_map(|(g, v)| Some((format!("gpu-{g}"), (*v)?))).collect();
        let (requests, values) = ((0..d.requests.len()).collect(), Arc::new(values));
        d.constraints.extend(s.rule.map(|rule| Constraint { requests, rule, values }));
        let planned = c.plan(&d);
        prop_assert_eq!(planned.is_ok(), possible);
        prop_assert_eq!(&planned, &c.clone().plan(&d));
        if let Ok(p) = planned {
            let mut after = c.clone();
            after.hold_claim("new", p.shares.iter().map(|s| s.on(&p.node)).collect::<Vec<_>>());
            prop_assert!(after.overcommitted().is_empty());
            after.drop_claim("new");
            prop_assert_eq!(after.plan(&d), c.plan(&d));
        }
    }
}
