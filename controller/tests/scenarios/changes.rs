//! What is asked for, and what there is, changes while pods wait or run.

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use kube::ResourceExt;
use serde_json::{Value, json};
use vgpu_api::names::DRIVER;
use vgpu_api::{Gpu, GpuNode, Health};
use vgpu_fake_api::objects::{class, pod, template};

use crate::harness::{Cluster, sleep};

const CLASS: &str = "team.gpu.vgpu-dra.io";

/// A class of ours that selects GPUs by their product.
fn product(name: &str) -> Value {
    let expression = format!("device.attributes['{DRIVER}'].productName == '{name}'");
    json!({"spec": {"selectors": [{"cel": {"expression": expression}}]}})
}

/// Changes what the plugin of a node reports.
fn report(cluster: &Cluster, node: &str, change: impl FnOnce(&mut Vec<Gpu>)) {
    let mut found: GpuNode = cluster.api.get("", node).expect("it is there");
    let status = found.status.as_mut().expect("its plugin has reported");
    change(&mut status.gpus);
    let patch = json!({"status": {"gpus": status.gpus}});
    cluster.api.patch::<GpuNode>("", node, true, &patch).expect("a right patch");
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_edited_or_deleted_counts_as_it_is_when_the_pod_is_placed() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    let mut team = class().set("/metadata/name", CLASS);
    team.0["spec"] = product("NVIDIA L4")["spec"].clone();
    cluster.api.create(&team);
    let field = "/spec/spec/devices/requests/0/exactly/deviceClassName";
    cluster.api.create(template("share", "1000Mi").set(field, CLASS));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["share"]));
    sleep(5).await;
    assert_eq!(cluster.notes("p", "NotPlaced"), ["0/1 GPUs: 1 ModelMismatch"]);
    cluster.api.delete::<DeviceClass>("", CLASS).expect("it is there");
    sleep(5).await;
    let told = cluster.notes("p", "UnknownClass");
    assert!(
        told.len() == 1 && told[0].contains("there is no DeviceClass \"team.gpu.vgpu-dra.io\""),
        "{told:?}"
    );
    cluster.api.create(&team);
    cluster.api.patch::<DeviceClass>("", CLASS, false, &product("Tesla T4")).expect("a right patch");
    sleep(5).await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
    // A pod that is placed keeps its GPU whatever becomes of the class.
    cluster.api.delete::<DeviceClass>("", CLASS).expect("it is there");
    sleep(60).await;
    assert_eq!(cluster.gpus("p"), ["node-a/gpu-node-a-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_breaks_keeps_its_pods_and_gets_no_new_ones_until_it_is_well() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(template("share", "8000Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("before", &["share"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("before"), ["node-a/gpu-node-a-0"]);
    report(&cluster, "node-a", |gpus| gpus[0].health = Health::Unhealthy);
    cluster.idle().await;
    for name in ["meanwhile", "waits"] {
        cluster.api.create(pod(name, &["share"]));
        cluster.idle().await;
    }
    assert_eq!(cluster.gpus("meanwhile"), ["node-a/gpu-node-a-1"]);
    let why = &cluster.notes("waits", "NotPlaced")[0];
    assert!(why.contains("1 Unhealthy"), "{why}");
    assert_eq!(cluster.bound("before").as_deref(), Some("node-a"), "it is the node's to end it");
    cluster.delete_pod("before");
    report(&cluster, "node-a", |gpus| gpus[0].health = Health::Healthy);
    sleep(5).await;
    assert_eq!(cluster.gpus("waits"), ["node-a/gpu-node-a-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_is_gone_for_a_while_comes_back_with_what_is_held_of_it() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "8000Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("before", &["share"]));
    cluster.idle().await;
    let mut gone = Vec::new();
    report(&cluster, "node-a", |gpus| gone = std::mem::take(gpus));
    cluster.idle().await;
    cluster.api.create(pod("after", &["share"]));
    sleep(5).await;
    report(&cluster, "node-a", |gpus| *gpus = gone);
    sleep(30).await;
    cluster.check_capacity();
    assert_eq!(cluster.gpus("before"), ["node-a/gpu-node-a-0"]);
    assert_eq!(cluster.bound("after"), None);
    cluster.delete_pod("before");
    sleep(5).await;
    assert_eq!(cluster.gpus("after"), ["node-a/gpu-node-a-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_another_drivers_claim_holds_nothing_for_long_and_runs_when_it_is_there() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    let selector = json!([{"cel": {"expression": "device.driver == 'nic.example.com'"}}]);
    let foreign = class().set("/metadata/name", "nic.example.com").set("/spec/selectors", selector);
    cluster.api.create(foreign);
    cluster.api.create(template("share", "8000Mi"));
    let field = "/spec/spec/devices/requests/0/exactly/deviceClassName";
    cluster.api.create(template("nic", "").set(field, "nic.example.com"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("both", &["share", "nic"]));
    sleep(60).await;
    assert_eq!(cluster.bound("both"), None);
    cluster.api.create(pod("ours", &["share"]));
    sleep(60).await;
    assert!(cluster.bound("ours").is_some(), "a pod that cannot run does not keep another from running");
    cluster.delete_pod("ours");
    let nic = &cluster.claims("both")[1];
    let result = json!({"request": "gpu", "driver": "nic.example.com", "pool": "node-a", "device": "eth0"});
    let allocation = json!({"devices": {"results": [result]}, "allocationTimestamp": "2026-01-01T00:00:00Z"});
    let allocation = json!({"status": {"allocation": allocation}});
    cluster.api.patch::<ResourceClaim>("default", &nic.name_any(), true, &allocation).expect("a right patch");
    // The node is avoided for five minutes at most, since the scheduler would not take it.
    sleep(320).await;
    assert_eq!(cluster.bound("both").as_deref(), Some("node-a"));
}
