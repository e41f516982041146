//! Claims of containers that run before or beside a pod's others.

use serde_json::{Value, json};
use vgpu_fake_api::objects::{Object, pod, template};

use crate::harness::{Cluster, sleep};

/// A container that uses claims of its pod by their names, with so much CPU.
fn container(name: &str, claims: &[&str], cpu: &str) -> Value {
    let claims: Vec<Value> = claims.iter().map(|name| json!({"name": name})).collect();
    json!({"name": name, "image": "i", "resources": {"claims": claims, "requests": {"cpu": cpu}}})
}

fn sidecar(name: &str, claims: &[&str], cpu: &str) -> Value {
    let mut sidecar = container(name, claims, cpu);
    sidecar["restartPolicy"] = "Always".into();
    sidecar
}

/// A pod with a claim `c0`, `c1`, ... of each template, used by these containers.
fn pod_of(name: &str, templates: &[&str], init: Value, main: Value) -> Object {
    pod(name, templates).set("/spec/initContainers", json!([init])).set("/spec/containers", json!([main]))
}

async fn two_gpus() -> Cluster {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(template("half", "7500Mi"));
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_an_init_container_is_held_as_long_as_the_pod_is_there() {
    let cluster = two_gpus().await;
    let _controller = cluster.controller().await;
    let init = container("fetch", &["c0"], "1");
    cluster.api.create(pod_of("p", &["half"], init, container("main", &[], "1")));
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-0"]);
    let running = json!({"status": {"phase": "Running", "initContainerStatuses":
        [{"name": "fetch", "state": {"terminated": {"exitCode": 0}}}]}});
    cluster.patch_pod("p", true, running);
    sleep(60).await;
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-0"], "Kubernetes gives claims back with the pod");
    cluster.patch_pod("p", true, json!({"status": {"phase": "Succeeded"}}));
    sleep(10).await;
    assert!(cluster.gpus("p").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_init_container_may_share_the_gpu_of_the_main_one() {
    let cluster = two_gpus().await;
    let _controller = cluster.controller().await;
    let init = container("convert", &["c0"], "1");
    cluster.api.create(pod_of("p", &["half", "half"], init, container("main", &["c1"], "1")));
    cluster.idle().await;
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-0", "node-a/gpu-node-a-0"]);
}

#[tokio::test(start_paused = true)]
async fn two_claims_of_one_sidecar_are_on_different_gpus() {
    let cluster = two_gpus().await;
    let _controller = cluster.controller().await;
    let beside = sidecar("server", &["c0", "c1"], "1");
    cluster.api.create(pod_of("p", &["half", "half"], beside, container("main", &[], "1")));
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-0", "node-a/gpu-node-a-1"]);
}

#[tokio::test(start_paused = true)]
async fn one_claim_of_a_sidecar_and_the_main_container_is_one_share() {
    let cluster = two_gpus().await;
    let _controller = cluster.controller().await;
    let beside = sidecar("server", &["c0"], "1");
    cluster.api.create(pod_of("p", &["half"], beside, container("main", &["c0"], "1")));
    cluster.idle().await;
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_takes_its_cpu_beside_the_others_and_an_init_container_before_them() {
    let cluster = two_gpus().await;
    let _controller = cluster.controller().await;
    // The node has eight cores.
    let before = container("convert", &["c0"], "5");
    cluster.api.create(pod_of("before", &["half"], before, container("main", &[], "5")));
    cluster.idle().await;
    assert_eq!(cluster.bound("before").as_deref(), Some("node-a"));
    cluster.delete_pod("before");
    cluster.idle().await;
    let beside = sidecar("server", &["c0"], "5");
    cluster.api.create(pod_of("beside", &["half"], beside, container("main", &[], "5")));
    sleep(5).await;
    assert!(cluster.gpus("beside").is_empty());
    let notes = cluster.notes("beside", "NotPlaced");
    assert!(notes[0].contains("InsufficientCpu"), "{notes:?}");
}
