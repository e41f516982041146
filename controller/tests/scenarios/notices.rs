//! Events: what is true is said once, and again only when it changes, calmly.

use serde_json::json;
use vgpu_fake_api::objects::{pod, template};
use vgpu_fake_api::{Fault, Verb};

use crate::harness::{Cluster, sleep};

async fn cluster() -> Cluster {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "1000Mi"));
    cluster.api.create(template("large", "999999Mi"));
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_placed_pod_is_told_node_gpus_policies_and_score() {
    let cluster = cluster().await;
    let _controller = cluster.controller().await;
    cluster.api.create(pod("train", &["share"]));
    sleep(60).await;
    let notes = cluster.notes("train", "Placed");
    assert_eq!(notes, ["node-a: gpu-node-a-0; node Binpack, GPU Binpack, score 0.033"]);
}

#[tokio::test(start_paused = true)]
async fn a_reason_that_stays_is_said_once() {
    let cluster = cluster().await;
    let controller = cluster.controller().await;
    cluster.api.create(pod("waits", &["large"]));
    sleep(600).await;
    let said = controller.connection.writes().iter().filter(|c| c.plural == "events").count();
    assert_eq!(said, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reason_whose_numbers_change_is_said_ever_more_calmly_and_with_its_new_numbers() {
    let cluster = cluster().await;
    let controller = cluster.controller().await;
    cluster.api.create(pod("waits", &["large"]));
    sleep(1).await;
    controller.connection.forget_writes();
    // What is free changes every second for ten minutes.
    for i in 0..300 {
        cluster.api.create(pod(&format!("p{i}"), &["share"]));
        sleep(1).await;
        cluster.delete_pod(&format!("p{i}"));
        sleep(1).await;
    }
    let writes = controller.connection.writes();
    let about =
        writes.iter().filter(|c| c.plural == "events" && c.body["regarding"]["name"] == "waits").count();
    assert!((4..=6).contains(&about), "{about} events in ten minutes");
    let notes = cluster.notes("waits", "NotPlaced");
    assert!(notes.iter().any(|n| n.contains("largest free 13.7Gi")), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_refused_is_said_later() {
    let cluster = cluster().await;
    let controller = cluster.controller().await;
    let mut refusals = 3;
    controller.connection.rule(move |call| {
        let refuse = call.plural == "events" && call.verb == Verb::Create && refusals > 0;
        refusals -= u32::from(refuse);
        refuse.then_some(Fault::Refuse(500))
    });
    cluster.api.create(pod("waits", &["large"]));
    sleep(60).await;
    assert_eq!(cluster.notes("waits", "NotPlaced").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_says_what_would_help() {
    let cluster = cluster().await;
    let _controller = cluster.controller().await;
    cluster.api.create(template("cores", "1Gi").set(
        "/spec/spec/devices/requests/0/exactly/capacity/requests",
        json!({"memory": "1Gi", "cores": "80"}),
    ));
    cluster.api.create(pod("first", &["cores"]));
    sleep(1).await;
    cluster.api.create(pod("second", &["cores"]));
    sleep(1).await;
    let notes = cluster.notes("second", "NotPlaced");
    assert_eq!(notes, ["0/1 GPUs: 1 InsufficientCores (most free 20 %, asked 80 %)"]);
}
