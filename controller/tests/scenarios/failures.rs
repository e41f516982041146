//! Whatever fails and wherever the controller dies, every pod ends where it would have been.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;
use vgpu_controller::claim::Claim;
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{Object, pod, template};
use vgpu_fake_api::{Call, Delivery, Fault, Verb};

use crate::harness::{Cluster, Controller, sleep};

fn is_allocation(call: &Call) -> bool {
    call.plural == "resourceclaims"
        && call.subresource == "status"
        && !call.body["status"]["allocation"].is_null()
}

async fn one_pod() -> (Cluster, Controller) {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "9000Mi"));
    let controller = cluster.controller().await;
    (cluster, controller)
}

/// Applies a fault to the first call that `hits`.
fn once(controller: &Controller, hits: impl Fn(&Call) -> bool + Send + 'static, fault: Fault) {
    let mut left = Some(fault);
    controller.connection.rule(move |call| if hits(call) { left.take() } else { None });
}

#[tokio::test(start_paused = true)]
async fn a_conflict_on_any_write_plans_the_pod_again() {
    for write in ["resourceclaims", "resourceclaims/status", "pods/status", "pods"] {
        let (cluster, controller) = one_pod().await;
        let hits = move |c: &Call| {
            c.verb == Verb::Patch
                && write == [c.plural, c.subresource.as_str()].join("/").trim_end_matches('/')
        };
        once(&controller, hits, Fault::Refuse(409));
        cluster.api.create(pod("train", &["share"]));
        sleep(2).await;
        assert_eq!(cluster.bound("train").as_deref(), Some("node-a"), "a conflict on {write}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_everything_for_a_while_is_asked_calmly() {
    for code in [429, 500, 503] {
        let (cluster, controller) = one_pod().await;
        let tries = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = tries.clone();
        controller.connection.rule(move |call| {
            let refuse = call.verb.writes() && call.plural != "leases";
            counted.fetch_add(u32::from(refuse), std::sync::atomic::Ordering::Relaxed);
            refuse.then_some(Fault::Refuse(code))
        });
        cluster.api.create(pod("train", &["share"]));
        sleep(60).await;
        let tried = tries.load(std::sync::atomic::Ordering::Relaxed);
        assert!((10..60).contains(&tried), "{tried} writes in a minute of {code}");
        controller.connection.no_rule();
        sleep(10).await;
        assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_allocation_that_took_without_an_answer_is_used() {
    let (cluster, controller) = one_pod().await;
    once(&controller, is_allocation, Fault::LoseAnswer);
    cluster.api.create(pod("train", &["share"]));
    sleep(10).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
    let sets = controller.connection.writes().iter().filter(|c| is_allocation(c)).count();
    assert_eq!(sets, 1);
}

#[tokio::test(start_paused = true)]
async fn an_allocation_that_takes_after_its_time_out_cannot_promise_a_gpu_twice() {
    for late in [2600, 3000, 4000, 6000, 12_000] {
        let (cluster, controller) = one_pod().await;
        once(&controller, is_allocation, Fault::TakeLate(Duration::from_millis(late)));
        cluster.api.create(pod("first", &["share"]));
        // The first is gone before its write took: the second may have the room, but not both.
        sleep(1).await;
        cluster.api.create(pod("second", &["share"]).set("/spec/priority", 10));
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.check_capacity();
        }
        let bound = ["first", "second"].iter().filter(|p| cluster.bound(p).is_some()).count();
        assert_eq!(bound, 1, "late by {late} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_whose_removal_had_no_answer_is_gone() {
    let (cluster, controller) = one_pod().await;
    let takes_gate = |c: &Call| c.plural == "pods" && c.subresource.is_empty() && c.verb == Verb::Patch;
    once(&controller, takes_gate, Fault::LoseAnswer);
    cluster.api.create(pod("train", &["share"]));
    sleep(10).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_is_taken_late_is_not_taken_from_another_pod_of_that_name() {
    let (cluster, controller) = one_pod().await;
    let takes_gate = |c: &Call| c.plural == "pods" && c.subresource.is_empty() && c.verb == Verb::Patch;
    once(&controller, takes_gate, Fault::TakeLate(Duration::from_secs(4)));
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    cluster.delete_pod("train");
    // Its namesake fits nowhere, and so it has to keep its gate.
    cluster.api.create(template("large", "999999Mi"));
    cluster.api.create(pod("train", &["large"]));
    sleep(10).await;
    assert!(vgpu_controller::pod::is_gated(&cluster.pod("train").expect("it was made")));
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_cut_and_too_old_are_begun_anew() {
    let (cluster, controller) = one_pod().await;
    for round in 0..5 {
        let name = format!("train-{round}");
        controller.connection.cut_watches();
        cluster.api.create(pod(&name, &["share"]));
        sleep(0).await;
        cluster.api.compact();
        sleep(5).await;
        assert_eq!(cluster.bound(&name).as_deref(), Some("node-a"), "round {round}");
        cluster.delete_pod(&name);
        sleep(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_and_doubled_watch_events_never_promise_more_than_there_is() {
    for seed in 0..50 {
        let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
        cluster.api.create(template("share", "5000Mi"));
        let controller = cluster.controller().await;
        controller.connection.deliver(Delivery { delay: Duration::from_millis(400), duplicates: 30 }, seed);
        for i in 0..8 {
            cluster.api.create(pod(&format!("p{i}"), &["share"]));
        }
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.check_capacity();
        }
        let bound =
            cluster.api.all::<Pod>().iter().filter(|p| cluster.bound(&p.name_any()).is_some()).count();
        assert_eq!(bound, 6, "three on each GPU, seed {seed}");
    }
}

/// What a run came to.
struct Outcome {
    placements: BTreeMap<String, (Option<String>, Vec<String>)>,
    writes: usize,
}

/// These pods on two nodes; the controller dies after so many writes, and another follows.
async fn run(pods: &[Object], dies_after: Option<usize>) -> Outcome {
    let cluster = Cluster::with(&[("node-a", 2), ("node-b", 2)]);
    cluster.api.create(template("share", "7500Mi"));
    let two = json!([
        {"name": "gpu", "exactly": {"deviceClassName": "gpu.vgpu-dra.io", "capacity": {"requests": {"memory": "3Gi"}}}},
        {"name": "more", "exactly": {"deviceClassName": "gpu.vgpu-dra.io", "capacity": {"requests": {"memory": "5Gi"}}}},
    ]);
    cluster.api.create(template("two-requests", "1Gi").set("/spec/spec/devices/requests", two));
    let connection = cluster.api.connect();
    if let Some(writes) = dies_after {
        connection.die_after(writes);
    }
    let first = Controller::start_on(connection.clone(), "one");
    for pod in pods {
        cluster.api.create(pod);
    }
    match dies_after {
        None => cluster.idle().await,
        Some(_) => {
            connection.died().await;
            first.kill().await;
            let next = Controller::start(&cluster.api, "two");
            sleep(20).await;
            drop(next);
        }
    }
    cluster.check_capacity();
    let claims: Vec<Claim> = cluster.api.all();
    assert!(claims.iter().all(vgpu_controller::claim::is_reserved), "a claim is not used");
    let place = |p: &Object| (p.name().to_owned(), (cluster.bound(p.name()), cluster.gpus(p.name())));
    Outcome { placements: pods.iter().map(place).collect(), writes: connection.writes().len() }
}

async fn dies_anywhere(pods: &[Object]) {
    let whole = run(pods, None).await;
    assert!(whole.placements.values().all(|(bound, _)| bound.is_some()), "{:?}", whole.placements);
    for writes in 1..=whole.writes {
        let found = run(pods, Some(writes)).await;
        assert_eq!(found.placements, whole.placements, "killed after {writes} of {} writes", whole.writes);
    }
}

#[tokio::test(start_paused = true)]
async fn dying_after_any_write_ends_in_the_same_placements_for_pods_with_one_claim() {
    dies_anywhere(&[pod("a", &["share"]), pod("b", &["share"]), pod("c", &["share"])]).await;
}

#[tokio::test(start_paused = true)]
async fn dying_after_any_write_ends_in_the_same_placements_for_a_pod_with_two_claims() {
    dies_anywhere(&[pod("a", &["share", "share"]), pod("b", &["share", "share"])]).await;
}

#[tokio::test(start_paused = true)]
async fn dying_after_any_write_ends_in_the_same_placements_for_claims_with_two_requests() {
    dies_anywhere(&[pod("a", &["two-requests"]), pod("b", &["share", "two-requests"])]).await;
}
