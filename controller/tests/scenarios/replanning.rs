//! When the scheduler does not take a pod where it was planned.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;
use vgpu_controller::claim::Claim;
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{plain_pod, pod, template};

use crate::harness::{Cluster, is_clean, sleep};

#[tokio::test(start_paused = true)]
async fn after_the_scheduler_clears_an_allocation_the_plan_avoids_that_node_and_rests() {
    let cluster = Cluster::of_two_nodes();
    let controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.refuses.extend(["node-a".to_owned()]));
    cluster.api.create(pod("train", &["share"]));
    // It is planned on node-a, refused there, and cleared: the scheduler would have node-b but for the claim.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(cluster.allocated("train"), None, "another node is written only after two seconds");
    sleep(3).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-b"));
    assert_eq!(cluster.notes("train", "Replanned").len(), 1);
    drop(controller);
}

#[tokio::test(start_paused = true)]
async fn a_pod_refused_for_five_seconds_is_planned_elsewhere() {
    let cluster = Cluster::of_two_nodes();
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| {
        s.refuses.extend(["node-a".to_owned()]);
        s.keeps_allocations = true;
    });
    cluster.api.create(pod("train", &["share"]));
    sleep(4).await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-a"), "it has five seconds");
    sleep(2).await;
    assert_eq!(cluster.allocated("train"), None);
    sleep(3).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-b"));
    sleep(20).await;
    let told = cluster.notes("train", "Placed");
    assert!(told.len() == 2 && told[0].contains("node-a") && told[1].contains("node-b"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_two_claims_that_lost_one_loses_both() {
    let cluster = Cluster::of_two_nodes();
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.refuses.extend(["node-a".to_owned()]));
    cluster.api.create(pod("train", &["share", "share"]));
    sleep(6).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-b"));
    assert_eq!(cluster.gpus("train"), ["node-b/gpu-node-b-0", "node-b/gpu-node-b-0"]);
}

#[tokio::test(start_paused = true)]
async fn the_pause_of_a_node_doubles_each_time_it_refuses() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let controller = cluster.controller().await;
    cluster.scheduler.tell(|s| {
        s.refuses.extend(["node-a".to_owned()]);
        s.keeps_allocations = true;
    });
    controller.connection.forget_writes();
    cluster.api.create(pod("train", &["share"]));
    sleep(600).await;
    let sets = controller.connection.writes();
    let sets = sets
        .iter()
        .filter(|c| c.subresource == "status" && !c.body["status"]["allocation"].is_null())
        .count();
    // Five seconds of patience and 10, 20, 40, 80, 160, 300 s of penalty: six plans in ten minutes.
    assert_eq!(sets, 6);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_cpu_was_taken_waits_without_gpu_memory_and_goes_to_a_node_that_appears() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    let requests = json!({"cpu": "6"});
    cluster.api.create(pod("train", &["share"]).set("/spec/containers/0/resources/requests", requests));
    cluster.idle().await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-a"));
    // Somebody else's pod gets the CPU first.
    cluster.api.create(plain_pod("plain", "6").set("/spec/nodeName", "node-a"));
    cluster.scheduler.tell(|s| s.stopped = false);
    sleep(60).await;
    assert_eq!(cluster.gpus("train"), Vec::<String>::new(), "it holds GPU memory it cannot use");
    let why = cluster.notes("train", "NotPlaced");
    assert!(why.iter().any(|n| n.contains("InsufficientCpu")), "{why:?}");
    cluster.add_node("node-b", 1);
    cluster.idle().await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-b"));
}

#[tokio::test(start_paused = true)]
async fn a_nominated_pod_is_planned_on_that_node_only_and_not_penalised() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| {
        s.refuses.extend(["node-a".to_owned()]);
        s.keeps_allocations = true;
    });
    cluster.api.create(pod("train", &["share"]));
    sleep(6).await;
    assert_eq!(cluster.allocated("train"), None, "it was refused there");
    // Now another is preempted for it there, and takes its time; another node appears that is not for it.
    let victim = plain_pod("victim", "100m").set("/spec/nodeName", "node-a");
    cluster.api.create(victim.set("/metadata/finalizers", json!(["example.com/slow"])));
    cluster.delete_pod("victim");
    cluster.patch_pod("train", true, json!({"status": {"nominatedNodeName": "node-a"}}));
    cluster.add_node("node-b", 1);
    sleep(90).await;
    assert_eq!(
        cluster.allocated("train").as_deref(),
        Some("node-a"),
        "its allocation is kept while they end"
    );
    cluster.scheduler.tell(|s| s.refuses.clear());
    cluster.idle().await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_node_leaves_goes_to_another() {
    let cluster = Cluster::of_two_nodes();
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-a"));
    cluster.api.delete::<Node>("", "node-a").expect("it is there");
    cluster.scheduler.tell(|s| s.stopped = false);
    sleep(15).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-b"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_binding_never_meets_an_allocation_on_another_node() {
    let cluster = Cluster::of_two_nodes();
    let _controller = cluster.controller().await;
    // The scheduler decides for node-a and binds a second later; meanwhile the allocation is cleared.
    cluster.scheduler.tell(|s| s.slow = std::time::Duration::from_millis(1000));
    cluster.api.create(pod("train", &["share"]));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let claim = cluster.claims("train")[0].name_any();
    let cleared = json!({"status": {"allocation": null}});
    cluster.api.patch::<Claim>("default", &claim, true, &cleared).expect("nobody has reserved it");
    sleep(20).await;
    assert_eq!(cluster.bound("train"), cluster.allocated("train"));
    assert!(cluster.notes("train", "BoundElsewhere").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_leaves_nothing_at_any_moment() {
    for millis in [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 20, 100, 3000] {
        let cluster = Cluster::of_two_nodes();
        let _controller = cluster.controller().await;
        cluster.api.create(pod("train", &["share"]));
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        cluster.api.delete::<Pod>("default", "train").expect("it is there");
        sleep(20).await;
        let left: Vec<Claim> = cluster.api.all();
        assert!(left.iter().all(is_clean), "after {millis} ms: {left:?}");
        cluster.check_capacity();
    }
}
