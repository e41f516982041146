//! What a claim may say beside amounts: alternatives, all GPUs of a node, GPUs that match or differ, a look as an admin.

use serde_json::{Value, json};
use vgpu_api::GpuNode;
use vgpu_api::names::QUOTA_MEMORY;
use vgpu_controller::claim::{self, Claim};
use vgpu_fake_api::objects::{Object, placement, pod, template};

use crate::harness::{Cluster, sleep};

const DEVICES: &str = "/spec/spec/devices";
const EXACTLY: &str = "/spec/spec/devices/requests/0/exactly";

fn sub(name: &str, count: u32, memory: &str) -> Value {
    json!({"name": name, "deviceClassName": "gpu.vgpu-dra.io", "count": count, "capacity": {"requests": {"memory": memory}}})
}

/// A template `either` of these alternatives.
fn first_available(alternatives: [Value; 2]) -> Object {
    let request = json!([{"name": "gpu", "firstAvailable": alternatives}]);
    template("either", "").set(&format!("{DEVICES}/requests"), request)
}

/// Most of a GPU, else a half of two.
fn either() -> Object {
    first_available([sub("one", 1, "15000Mi"), sub("two", 2, "8000Mi")])
}

fn results(claim: &Claim) -> Vec<String> {
    claim::own_results(claim).iter().map(|r| r.request.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_alternative_that_fits_anywhere_is_taken() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(either());
    let _controller = cluster.controller().await;
    cluster.api.create(pod("first", &["either"]));
    cluster.idle().await;
    assert_eq!(results(&cluster.claims("first")[0]), ["gpu/one"]);
    assert!(
        cluster.notes("first", "Placed")[0].contains("; as gpu/one; "),
        "{:?}",
        cluster.notes("first", "Placed")
    );
    cluster.delete_pod("first");
    cluster.idle().await;
    for gpu in ["a", "b"] {
        let spread = placement("Binpack", "Spread");
        cluster.api.create(template(gpu, "1Gi").set(&format!("{DEVICES}/config"), spread));
        cluster.api.create(pod(gpu, &[gpu]));
    }
    cluster.idle().await;
    cluster.api.create(pod("second", &["either"]));
    cluster.idle().await;
    assert_eq!(results(&cluster.claims("second")[0]), ["gpu/two", "gpu/two"]);
    assert_eq!(cluster.bound("second").as_deref(), Some("node-a"));
    cluster.api.create(pod("third", &["either"]));
    sleep(5).await;
    let why = &cluster.notes("third", "NotPlaced")[0];
    assert!(why.contains("as gpu/one: 0/2 GPUs"), "{why}");
    assert!(why.contains("; as gpu/two: 0/2 GPUs"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_alternative_beyond_the_quota_is_passed_over() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus", "namespace": "default"},
        "spec": {"hard": {QUOTA_MEMORY: "14000Mi"}},
    }));
    cluster.api.create(first_available([sub("large", 1, "15000Mi"), sub("small", 1, "9000Mi")]));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["either"]));
    cluster.idle().await;
    assert_eq!(results(&cluster.claims("p")[0]), ["gpu/small"]);
    cluster.api.create(pod("q", &["either"]));
    sleep(5).await;
    assert!(
        cluster.notes("q", "QuotaExceeded")[0].contains("asks for 15000Mi"),
        "{:?}",
        cluster.notes("q", "QuotaExceeded")
    );
}

#[tokio::test(start_paused = true)]
async fn pods_go_for_the_first_alternative_that_can_be_made_room_for() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(first_available([sub("beyond", 1, "16000Mi"), sub("most", 1, "12000Mi")]));
    cluster.api.create(template("half", "7500Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("low", &["half"]));
    cluster.idle().await;
    cluster.api.create(pod("high", &["either"]).set("/spec/priority", 10));
    sleep(10).await;
    assert_eq!(cluster.bound("high").as_deref(), Some("node-a"));
    assert_eq!(results(&cluster.claims("high")[0]), ["gpu/most"]);
    assert_eq!(cluster.notes("low", "Preempted").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn alternatives_whose_policies_contradict_each_other_are_not_combined() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    let config = |request: &str, node: &str| {
        let mut entry = placement(node, "Binpack")[0].clone();
        entry["requests"] = json!([request]);
        entry
    };
    let spread = config("gpu/one", "Spread");
    cluster.api.create(either().set(&format!("{DEVICES}/config"), json!([spread])));
    cluster.api.create(
        template("binpack", "1Gi").set(&format!("{DEVICES}/config"), json!([config("gpu", "Binpack")])),
    );
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["binpack", "either"]));
    cluster.idle().await;
    let claim = &cluster.claims("p")[1];
    assert_eq!(results(claim), ["gpu/two", "gpu/two"]);
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let config = allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.config.as_ref());
    assert!(
        config.is_none_or(|c| c.is_empty()),
        "what is said of the other alternative is left out: {config:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn all_means_every_gpu_of_the_node_or_none() {
    let cluster = Cluster::with(&[("node-a", 2), ("node-b", 4)]);
    let all = template("all", "8Gi").set(&format!("{EXACTLY}/allocationMode"), "All");
    cluster.api.create(all);
    cluster.api.create(template("half", "8Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("on-a", &["half"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("on-a").as_deref(), Some("node-a"));
    cluster.api.create(pod("p", &["all"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("p").len(), 4, "{:?}", cluster.gpus("p"));
    assert_eq!(cluster.bound("p").as_deref(), Some("node-b"));
    cluster.api.create(pod("q", &["all"]));
    sleep(10).await;
    assert!(cluster.gpus("q").is_empty(), "a node some of whose GPUs are taken has not all of them");
}

#[tokio::test(start_paused = true)]
async fn eight_gpus_are_eight_of_one_node() {
    let cluster = Cluster::with(&[("node-a", 4), ("node-b", 8), ("node-c", 4)]);
    cluster.api.create(template("eight", "7500Mi").set(&format!("{EXACTLY}/count"), 8));
    cluster.api.create(template("whole", ""));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["eight"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-b"));
    let want: Vec<String> = (0..8).map(|gpu| format!("node-b/gpu-node-b-{gpu}")).collect();
    assert_eq!(cluster.gpus("p"), want);
    // Halves of the same eight are still to be had; with one of them whole for somebody else they are not.
    cluster.api.create(pod("q", &["eight"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("q"), want);
    cluster.delete_pod("p");
    cluster.delete_pod("q");
    cluster.idle().await;
    cluster.api.create(
        pod("one", &["whole"]).set("/spec/nodeSelector", json!({"kubernetes.io/hostname": "node-b"})),
    );
    cluster.idle().await;
    assert_eq!(cluster.bound("one").as_deref(), Some("node-b"));
    cluster.api.create(pod("r", &["eight"]));
    sleep(5).await;
    assert!(cluster.gpus("r").is_empty());
    let why = &cluster.notes("r", "NotPlaced")[0];
    assert!(why.contains("0/16 GPUs: 15 NotEnoughGpus, 1 InsufficientMemory"), "{why}");
    cluster.check_capacity();
}

#[tokio::test(start_paused = true)]
async fn eight_gpus_of_several_nodes_are_not_eight() {
    let cluster = Cluster::with(&[("node-a", 4), ("node-b", 7)]);
    cluster.api.create(template("eight", "1Gi").set(&format!("{EXACTLY}/count"), 8));
    cluster.api.create(template("small", "1Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["eight"]));
    cluster.api.create(pod("small", &["small"]));
    sleep(30).await;
    assert!(cluster.gpus("p").is_empty(), "nothing is held in part");
    assert_eq!(cluster.bound("p"), None);
    let why = &cluster.notes("p", "NotPlaced")[0];
    assert!(why.contains("0/11 GPUs: 11 NotEnoughGpus"), "{why}");
    assert!(cluster.bound("small").is_some(), "who is behind it goes on");
    cluster.add_node("node-c", 8);
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-c"));
    assert_eq!(cluster.gpus("p").len(), 8);
}

/// Gives GPU i of a node NUMA node i / 2.
fn numa(cluster: &Cluster, node: &str) {
    let found: GpuNode = cluster.api.get("", node).expect("it is there");
    let mut gpus = found.status.unwrap_or_default().gpus;
    for (gpu, at) in gpus.iter_mut().zip(0i64..) {
        gpu.numa_node = Some(at / 2);
    }
    cluster.api.patch::<GpuNode>("", node, true, &json!({"status": {"gpus": gpus}})).expect("a status");
}

#[tokio::test(start_paused = true)]
async fn gpus_that_must_share_a_numa_node_do() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    numa(&cluster, "node-a");
    cluster.api.create(template("most", "14Gi"));
    let constraint = json!([{"matchAttribute": "resource.kubernetes.io/numaNode"}]);
    let pair = template("pair", "8Gi")
        .set(&format!("{EXACTLY}/count"), 2)
        .set(&format!("{DEVICES}/constraints"), constraint);
    cluster.api.create(pair);
    let _controller = cluster.controller().await;
    cluster.api.create(pod("first", &["most"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("first"), ["node-a/gpu-node-a-0"]);
    cluster.api.create(pod("p", &["pair"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-2", "node-a/gpu-node-a-3"]);
    cluster.api.create(pod("q", &["pair"]));
    sleep(5).await;
    assert_eq!(cluster.bound("q"), None);
}

#[tokio::test(start_paused = true)]
async fn an_admin_looks_at_every_gpu_and_takes_nothing() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(template("whole", ""));
    let look = template("look", "")
        .set(&format!("{EXACTLY}/adminAccess"), true)
        .set(&format!("{EXACTLY}/allocationMode"), "All");
    cluster.api.create(look);
    let _controller = cluster.controller().await;
    cluster.api.create(pod("one", &["whole"]));
    cluster.api.create(pod("monitor", &["look"]));
    cluster.api.create(pod("two", &["whole"]));
    cluster.idle().await;
    assert!(["one", "monitor", "two"].iter().all(|p| cluster.bound(p).is_some()));
    assert_eq!(cluster.gpus("monitor").len(), 2);
    for result in cluster.stored_results("monitor") {
        assert_eq!(
            (&result["adminAccess"], result.get("shareID"), result.get("consumedCapacity")),
            (&json!(true), None, None)
        );
    }
    cluster.check_capacity();
}
