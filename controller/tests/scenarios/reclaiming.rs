//! Allocations nobody will use, pods that can never start, and GPUs promised twice.

use kube::ResourceExt;
use serde_json::{Value, json};
use vgpu_controller::claim::Claim;
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{claim, pod, pod_with_claims, template};
use vgpu_fake_api::{Fault, Verb};

use crate::harness::{Cluster, is_clean, sleep};

/// An allocation as this driver writes it.
fn allocation(node: &str, gpu: u32, memory: &str) -> Value {
    json!({"status": {"allocation": {
        "allocationTimestamp": "2026-01-01T00:00:00Z",
        "devices": {"results": [{
            "request": "gpu", "driver": "gpu.vgpu-dra.io", "pool": format!("{node}/gpu"),
            "device": format!("gpu-{node}-{gpu}"), "shareID": "7d0c6f0e-3f0b-4a56-9c0d-0f4d2b0f8f11",
            "consumedCapacity": {"memory": memory, "memoryPercent": "0", "cores": "0", "shares": "1"}}]},
        "nodeSelector": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]},
    }}})
}

fn allocate(cluster: &Cluster, claim: &str, node: &str, gpu: u32, memory: &str) {
    let guard = json!({"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}});
    cluster.api.patch::<Claim>("default", claim, false, &guard).expect("a right patch");
    cluster
        .api
        .patch::<Claim>("default", claim, true, &allocation(node, gpu, memory))
        .expect("a right patch");
}

#[tokio::test(start_paused = true)]
async fn an_allocation_whose_pod_is_gone_is_taken_back() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(claim("kept", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod_with_claims("train", &["kept"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("train").len(), 1);
    cluster.delete_pod("train");
    sleep(10).await;
    let left: Claim = cluster.api.get("default", "kept").expect("a user's claim stays");
    assert!(is_clean(&left), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn an_allocation_is_kept_when_a_fresh_look_shows_a_pod_the_watch_has_not() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(claim("kept", "7500Mi"));
    let controller = cluster.controller().await;
    allocate(&cluster, "kept", "node-a", 0, "7500Mi");
    cluster.idle().await;
    controller.connection.rule(|call| (call.verb == Verb::Watch).then_some(Fault::Hang));
    controller.connection.cut_watches();
    cluster.api.create(pod_with_claims("late", &["kept"]));
    sleep(20).await;
    assert_eq!(cluster.gpus("late").len(), 1, "it was taken from under a pod");
}

#[tokio::test(start_paused = true)]
async fn a_reserved_allocation_is_never_taken_back() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(claim("kept", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod_with_claims("train", &["kept"]));
    cluster.idle().await;
    sleep(60).await;
    assert_eq!(cluster.gpus("train").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_bound_elsewhere_than_its_allocation_is_told_and_evicted() {
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
    cluster.api.create(claim("kept", "7500Mi"));
    let _controller = cluster.controller().await;
    allocate(&cluster, "kept", "node-a", 0, "7500Mi");
    let bound = pod_with_claims("lost", &["kept"]).set("/spec/schedulingGates", json!(null));
    cluster.api.create(bound.set("/spec/nodeName", "node-b"));
    sleep(3).await;
    assert_eq!(
        cluster.notes("lost", "BoundElsewhere"),
        ["the pod is bound to node-b and its claims are allocated on node-a; it is evicted"]
    );
    assert!(cluster.pod("lost").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_evicted_because_one_watch_is_behind_the_other() {
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    // The claims' watch stops; then the claim moves to the other node, and the pod is bound there.
    controller
        .connection
        .rule(|call| (call.verb == Verb::Watch && call.plural == "resourceclaims").then_some(Fault::Hang));
    controller.connection.cut_watches();
    let name = cluster.claims("train")[0].name_any();
    let cleared = json!({"status": {"allocation": null}});
    cluster.api.patch::<Claim>("default", &name, true, &cleared).expect("a right patch");
    allocate(&cluster, &name, "node-b", 0, "7500Mi");
    cluster.scheduler.tell(|s| s.stopped = false);
    sleep(30).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-b"));
    assert!(cluster.notes("train", "BoundElsewhere").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_eviction_a_budget_forbids_is_tried_again() {
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
    cluster.api.create(claim("kept", "7500Mi"));
    let controller = cluster.controller().await;
    let mut refusals = 2;
    controller.connection.rule(move |call| {
        let refuse = call.subresource == "eviction" && refusals > 0;
        refusals -= u32::from(refuse);
        refuse.then_some(Fault::Refuse(429))
    });
    allocate(&cluster, "kept", "node-a", 0, "7500Mi");
    let bound = pod_with_claims("lost", &["kept"]).set("/spec/schedulingGates", json!(null));
    cluster.api.create(bound.set("/spec/nodeName", "node-b"));
    sleep(15).await;
    assert!(cluster.pod("lost").is_some());
    sleep(30).await;
    assert!(cluster.pod("lost").is_none());
    assert_eq!(cluster.notes("lost", "BoundElsewhere").len(), 1, "it is told once");
}

#[tokio::test(start_paused = true)]
async fn of_a_gpu_promised_twice_the_youngest_pod_that_has_not_started_goes() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.scheduler.tell(|s| s.stopped = true);
    for name in ["old", "young"] {
        cluster.api.create(claim(name, "9000Mi"));
    }
    let _controller = cluster.controller().await;
    for name in ["old", "young"] {
        allocate(&cluster, name, "node-a", 0, "9000Mi");
        cluster.api.create(pod_with_claims(name, &[name]).set("/spec/schedulingGates", json!(null)));
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    sleep(5).await;
    let left: Vec<String> = cluster.api.all::<Pod>().iter().map(ResourceExt::name_any).collect();
    assert_eq!(left, ["old"]);
    assert_eq!(cluster.notes("young", "Overcommitted").len(), 1);
    assert_eq!(
        cluster.notes("node-a", "Overcommitted"),
        ["gpu-node-a-0 on node-a is promised more than it has"]
    );
    sleep(10).await;
    cluster.check_capacity();
}
