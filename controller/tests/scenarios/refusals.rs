//! Claims that cannot be understood: an event on pod and claim names object, field, value and cure, once, and everybody
//! else is served.

use serde_json::{Value, json};
use vgpu_fake_api::objects::{Object, placement, pod, template};

use crate::harness::{Cluster, sleep};

const EXACTLY: &str = "/spec/spec/devices/requests/0/exactly";

/// A pod of this template beside a good one.
async fn check(template_of: impl Fn(Object) -> Object, reason: &str, words: &[&str]) {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template_of(template("bad", "1Gi")));
    cluster.api.create(template("good", "1Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("bad", &["bad"]));
    sleep(60).await;
    cluster.api.create(pod("good", &["good"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("good").as_deref(), Some("node-a"), "others are served");
    assert_eq!(cluster.bound("bad"), None);
    let claim = cluster.claims("bad")[0].metadata.name.clone().unwrap_or_default();
    let on_pod = cluster.notes("bad", reason);
    assert_eq!(on_pod.len(), 1, "one event on the pod: {on_pod:?}");
    assert_eq!(cluster.notes(&claim, reason), on_pod, "and the same on the claim");
    for word in words.iter().chain(&[claim.as_str()]) {
        assert!(on_pod[0].contains(word), "{word:?} is missing in {:?}", on_pod[0]);
    }
}

fn amounts(amounts: Value) -> impl Fn(Object) -> Object {
    move |t| t.set(&format!("{EXACTLY}/capacity/requests"), amounts.clone())
}

fn config(parameters: Value) -> impl Fn(Object) -> Object {
    move |t| {
        t.set(
            "/spec/spec/devices/config",
            json!([{"opaque": {"driver": "gpu.vgpu-dra.io", "parameters": parameters}}]),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_class_of_ours_is_named() {
    let class = |t: Object| t.set(&format!("{EXACTLY}/deviceClassName"), "t5.gpu.vgpu-dra.io");
    check(class, "UnknownClass", &["deviceClassName", "t5.gpu.vgpu-dra.io", "kubectl get deviceclasses"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn cores_above_100_are_refused() {
    check(amounts(json!({"cores": "150"})), "InvalidAmount", &["requests[gpu]", "cores", "150", "0 to 100"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn memory_with_a_percentage_is_refused() {
    let both = json!({"memory": "1Gi", "memoryPercent": "50"});
    check(amounts(both), "InvalidAmount", &["memory (1Gi)", "memoryPercent (50)", "keep one"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_capacity_is_refused_with_those_there_are() {
    check(amounts(json!({"memroy": "1Gi"})), "InvalidAmount", &["memroy", "memory, memoryPercent, cores"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_field_of_the_configuration_is_refused() {
    let parameters =
        json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig", "placement": {"nod": "Spread"}});
    check(
        config(parameters),
        "InvalidShareConfig",
        &["spec.devices.config[0].opaque", "placement", "nod", "node"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_policy_is_refused() {
    let named = |t: Object| t.set("/spec/spec/devices/config", placement("Tetris", "Spread"));
    check(named, "InvalidShareConfig", &["placement.node", "Tetris", "Binpack", "Spread"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_configuration_of_another_kind_is_refused() {
    let parameters = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "GpuConfig"});
    check(config(parameters), "InvalidShareConfig", &["kind", "GpuConfig", "ShareConfig"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_fails_is_refused() {
    let selector = json!([{"cel": {"expression": "device.attributes['gpu.vgpu-dra.io'].nothing == 'x'"}}]);
    let with = |t: Object| t.set(&format!("{EXACTLY}/selectors"), selector.clone());
    check(with, "SelectorFailed", &["requests[gpu]", "nothing"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_mixes_drivers_is_refused() {
    let second = json!({"name": "other", "exactly": {"deviceClassName": "gpu.nvidia.com"}});
    let with = |mut t: Object| {
        t.0["spec"]["spec"]["devices"]["requests"].as_array_mut().expect("a list").push(second.clone());
        t
    };
    check(with, "MixedDrivers", &["gpu.nvidia.com", "a claim of its own"]).await;
}

#[tokio::test(start_paused = true)]
async fn contradicting_placements_of_one_pod_are_refused() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    for policy in ["Binpack", "Spread"] {
        let name = policy.to_lowercase();
        cluster
            .api
            .create(template(&name, "1Gi").set("/spec/spec/devices/config", placement(policy, "Spread")));
    }
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["binpack", "spread"]));
    sleep(5).await;
    let notes = cluster.notes("p", "ContradictingPlacement");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("Binpack and Spread"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_class_that_appears_later_lets_the_pod_go() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("t", "1Gi").set(&format!("{EXACTLY}/deviceClassName"), "t4.gpu.vgpu-dra.io"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["t"]));
    sleep(5).await;
    assert_eq!(cluster.notes("p", "UnknownClass").len(), 1);
    cluster.api.create(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "t4.gpu.vgpu-dra.io"},
        "spec": {"selectors": [{"cel": {"expression":
            "device.driver == 'gpu.vgpu-dra.io' && device.attributes['gpu.vgpu-dra.io'].productName == 'Tesla T4'"}}]},
    }));
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
}
