//! GPUs that a DeviceTaintRule keeps from those who do not tolerate it.

use k8s_openapi::api::resource::v1beta2::DeviceTaintRule;
use serde_json::{Value, json};
use vgpu_fake_api::objects::{pod, template};

use crate::harness::{Cluster, sleep};

/// Keeps everybody from a device.
fn rule(name: &str, device: &str, effect: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1beta2", "kind": "DeviceTaintRule", "metadata": {"name": name},
        "spec": {"deviceSelector": {"device": device}, "taint": {"key": "example.com/fan", "effect": effect}},
    })
}

#[tokio::test(start_paused = true)]
async fn a_gpu_with_a_taint_is_left_until_the_rule_is_gone() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(rule("fan", "gpu-node-a-0", "NoSchedule"));
    cluster.api.create(rule("told", "gpu-node-a-1", "None"));
    cluster.api.create(template("most", "12000Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("first", &["most"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("first"), ["node-a/gpu-node-a-1"]);
    cluster.api.create(pod("second", &["most"]));
    sleep(5).await;
    let why = &cluster.notes("second", "NotPlaced")[0];
    assert!(why.contains("1 Tainted"), "{why}");
    cluster.api.delete::<DeviceTaintRule>("", "fan").expect("it is there");
    cluster.idle().await;
    assert_eq!(cluster.gpus("second"), ["node-a/gpu-node-a-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_tolerates_a_taint_gets_the_gpu_and_says_so() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(rule("fan", "gpu-node-a-0", "NoExecute"));
    let tolerations = json!([{"key": "example.com/fan", "operator": "Exists", "effect": "NoExecute"}]);
    let tolerant = template("tolerant", "12000Mi");
    cluster
        .api
        .create(tolerant.set("/spec/spec/devices/requests/0/exactly/tolerations", tolerations.clone()));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["tolerant"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
    // Kubernetes ends pods on the GPU that have no such toleration in their allocation.
    assert_eq!(cluster.stored_results("p")[0]["tolerations"], tolerations);
}

#[tokio::test(start_paused = true)]
async fn rules_that_the_api_server_gets_later_are_found_without_a_restart() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.turn_off("DRADeviceTaintRules");
    cluster.api.create(template("most", "12000Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(rule("fan", "gpu-node-a-0", "NoSchedule"));
    sleep(90).await;
    cluster.api.create(pod("before", &["most"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("before"), ["node-a/gpu-node-a-0"]);
    cluster.delete_pod("before");
    cluster.api.turn_on("DRADeviceTaintRules");
    sleep(90).await;
    cluster.api.create(pod("after", &["most"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("after"), ["node-a/gpu-node-a-1"]);
}
