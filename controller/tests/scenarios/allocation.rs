//! From a waiting pod to allocated claims and a bound pod.

use kube::ResourceExt;
use serde_json::json;
use vgpu_controller::claim::Claim;
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{claim, placement, pod, pod_with_claims, template};
use vgpu_fake_api::{Call, Verb};

use crate::harness::{Cluster, sleep};

fn told(calls: &[Call]) -> Vec<String> {
    let word = |c: &Call| {
        format!("{:?} {}{}", c.verb, c.plural, if c.subresource.is_empty() { "" } else { "/status" })
    };
    calls.iter().filter(|c| c.plural != "leases").map(word).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pod_costs_two_writes_per_claim_its_node_its_gate_and_one_event() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(template("share", "7500Mi"));
    let controller = cluster.controller().await;
    controller.connection.forget_writes();
    cluster.api.create(pod("train", &["share", "share"]));
    cluster.idle().await;
    let each = ["Patch resourceclaims", "Patch resourceclaims/status"];
    let want: Vec<&str> =
        each.into_iter().chain(each).chain(["Patch pods/status", "Patch pods", "Create events"]).collect();
    assert_eq!(told(&controller.connection.writes()), want);
    assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn an_allocation_is_written_with_the_version_that_showed_the_finalizer() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let controller = cluster.controller().await;
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    let writes = controller.connection.writes();
    let set = writes.iter().find(|c| c.subresource == "status").expect("an allocation was written");
    let allocation = &set.body["status"]["allocation"];
    assert!(set.body["metadata"]["resourceVersion"].is_string());
    assert!(allocation["allocationTimestamp"].is_string());
    assert!(allocation["devices"]["results"][0]["shareID"].is_string());
    assert!(set.body["status"]["reservedFor"].is_null(), "reservedFor is the scheduler's");
    let guard = writes.iter().find(|c| c.plural == "resourceclaims").expect("a guard was written");
    assert_eq!(guard.body["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
}

#[tokio::test(start_paused = true)]
async fn other_finalizers_of_a_claim_stay() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(claim("kept", "1Gi").set("/metadata/finalizers", json!(["team.example.com/audit"])));
    let _controller = cluster.controller().await;
    cluster.api.create(pod_with_claims("train", &["kept"]));
    cluster.idle().await;
    let finalizers = cluster.claims("train")[0].finalizers().to_vec();
    assert_eq!(finalizers, ["team.example.com/audit", "resource.kubernetes.io/delete-protection"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_blocks_nobody_behind_it() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("large", "999999Mi"));
    cluster.api.create(template("share", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("a-large", &["large"]).set("/spec/priority", 1000));
    sleep(2).await;
    cluster.api.create(pod("b-small", &["share"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("b-small").as_deref(), Some("node-a"));
    assert_eq!(cluster.bound("a-large"), None);
    let notes = cluster.notes("a-large", "NotPlaced");
    assert!(notes[0].contains("InsufficientMemory (largest free 14.7Gi, asked 976.6Gi)"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn room_goes_to_the_higher_priority_and_then_to_the_older_pod() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("most", "9000Mi"));
    for (name, priority) in [("c-old", 0), ("b-young", 0), ("a-low", -5), ("z-high", 10)] {
        cluster.api.create(pod(name, &["most"]).set("/spec/priority", priority));
        sleep(2).await;
    }
    let _controller = cluster.controller().await;
    let mut order = Vec::new();
    for _ in 0..4 {
        sleep(1).await;
        let all: Vec<Pod> = cluster.api.all();
        let running = all.iter().find(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some()));
        let name = running.expect("one fits").name_any();
        cluster.delete_pod(&name);
        order.push(name);
    }
    assert_eq!(order, ["z-high", "c-old", "b-young", "a-low"]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_shared_by_two_pods_is_decided_once_and_both_go_there() {
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
    cluster.api.create(claim("shared", "7500Mi").set("/spec/devices/config", placement("Spread", "Spread")));
    let controller = cluster.controller().await;
    controller.connection.forget_writes();
    cluster.api.create(pod_with_claims("one", &["shared"]));
    cluster.api.create(pod_with_claims("two", &["shared"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("one"), cluster.bound("two"));
    assert!(cluster.bound("one").is_some());
    let is_set = |c: &&Call| c.plural == "resourceclaims" && c.subresource == "status";
    let sets = controller.connection.writes().iter().filter(is_set).count();
    assert_eq!(sets, 1, "the claim was allocated more than once");
    cluster.delete_pod("one");
    sleep(10).await;
    assert!(!cluster.gpus("two").is_empty(), "the other pod still uses it");
    cluster.delete_pod("two");
    sleep(10).await;
    let left: Claim = cluster.api.get("default", "shared").expect("a user's claim stays");
    assert!(crate::harness::is_clean(&left), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_bound_by_its_node_name_is_allocated_there() {
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let _controller = cluster.controller().await;
    let bound =
        pod("train", &["share"]).set("/spec/schedulingGates", json!(null)).set("/spec/nodeName", "node-b");
    cluster.api.create(bound);
    cluster.idle().await;
    assert_eq!(cluster.gpus("train"), ["node-b/gpu-node-b-0"]);
    let phase = cluster.pod("train").and_then(|p| p.status).and_then(|s| s.phase);
    assert_eq!(phase.as_deref(), Some("Running"), "its claim was reserved and its kubelet could start it");
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_the_gate_is_placed_too() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("early", &["share"]).set("/spec/schedulingGates", json!(null)));
    cluster.idle().await;
    assert_eq!(cluster.bound("early").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_container_go_to_different_gpus() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(template("share", "1Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("train", &["share", "share"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("train"), ["node-a/gpu-node-a-0", "node-a/gpu-node-a-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_freed_gpu_goes_to_the_pod_that_waited() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("whole", ""));
    let controller = cluster.controller().await;
    cluster.api.create(pod("first", &["whole"]));
    sleep(1).await;
    cluster.api.create(pod("second", &["whole"]));
    sleep(1).await;
    assert_eq!((cluster.bound("first").is_some(), cluster.bound("second")), (true, None));
    cluster.patch_pod("first", true, json!({"status": {"phase": "Succeeded"}}));
    cluster.idle().await;
    assert_eq!(cluster.bound("second").as_deref(), Some("node-a"));
    assert!(
        controller.connection.writes().iter().all(|c| c.verb != Verb::Update),
        "only patches and applies"
    );
}
