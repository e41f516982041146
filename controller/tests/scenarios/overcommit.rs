//! What a GpuPolicy lets be promised of a GPU beyond what it has, to claims that allow it.

use serde_json::{Value, json};
use vgpu_api::GpuPolicy;
use vgpu_api::names::{API_VERSION, DRIVER};
use vgpu_fake_api::objects::{Object, node, pod, template};

use crate::harness::Cluster;

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": "GpuPolicy", "metadata": {"name": name}, "spec": spec})
}

/// A template of claims that let themselves be oversubscribed in `part`, `memory` or `cores`.
fn soft(name: &str, memory: &str, part: &str) -> Object {
    let mut parameters = json!({"apiVersion": API_VERSION, "kind": "ShareConfig"});
    parameters[part] = json!({"oversubscription": "Allowed"});
    let config = json!([{"opaque": {"driver": DRIVER, "parameters": parameters}}]);
    template(name, memory).set("/spec/spec/devices/config", config)
}

/// Pods of these templates, one after the other; whether each is bound.
async fn place(cluster: &Cluster, templates: &[&str]) -> Vec<bool> {
    let mut bound = Vec::new();
    for template in templates {
        let name = format!("{template}-{}", cluster.api.version());
        cluster.api.create(pod(&name, &[template]));
        cluster.idle().await;
        bound.push(cluster.bound(&name).is_some());
    }
    bound
}

#[tokio::test(start_paused = true)]
async fn claims_that_allow_it_get_more_memory_than_there_is_and_firm_ones_what_is_theirs() {
    // 15,104 MiB, of which 22,656 may be promised.
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(policy("more", json!({"memoryOvercommitPercent": 150})));
    cluster.api.create(soft("soft", "10000Mi", "memory"));
    cluster.api.create(template("firm", "1700Mi"));
    cluster.api.create(template("large", "5000Mi"));
    let _controller = cluster.controller().await;
    assert_eq!(place(&cluster, &["soft", "soft", "soft"]).await, [true, true, false]);
    // Two thirds of 20,000 are there for them, 1,770 are left.
    assert_eq!(place(&cluster, &["large", "firm", "firm"]).await, [false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn time_is_promised_beyond_what_there_is_by_its_own_word() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(policy("more", json!({"coresOvercommitPercent": 150})));
    let cores = "/spec/spec/devices/requests/0/exactly/capacity/requests/cores";
    cluster.api.create(soft("soft", "1000Mi", "cores").set(cores, "50"));
    cluster.api.create(soft("memory", "1000Mi", "memory").set(cores, "50"));
    let _controller = cluster.controller().await;
    assert_eq!(place(&cluster, &["soft", "soft", "memory", "soft"]).await, [true, true, false, true]);
    assert_eq!(place(&cluster, &["soft"]).await, [false]);
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_nothing_is_promised_twice_and_one_taken_back_turns_nobody_out() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(soft("soft", "10000Mi", "memory"));
    let _controller = cluster.controller().await;
    assert_eq!(place(&cluster, &["soft", "soft"]).await, [true, false]);
    cluster.api.create(policy("more", json!({"memoryOvercommitPercent": 200})));
    cluster.idle().await;
    assert_eq!(place(&cluster, &["soft"]).await, [true], "and the one that waited");
    cluster.api.delete::<GpuPolicy>("", "more").expect("it is there");
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    let bound = cluster.api.all::<vgpu_controller::pod::Pod>();
    let bound = bound.iter().filter(|p| vgpu_controller::pod::bound_to(p).is_some()).count();
    assert_eq!(bound, 3, "a running share is not the policy's");
    assert_eq!(cluster.notes("node-a", "Overcommitted"), [""; 0]);
    assert_eq!(place(&cluster, &["soft"]).await, [false]);
}

#[tokio::test(start_paused = true)]
async fn of_policies_that_select_a_node_the_highest_holds_as_a_whole() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(policy("all", json!({"memoryOvercommitPercent": 200, "priority": 1})));
    let selector = json!({"matchLabels": {"kubernetes.io/hostname": "node-a"}});
    cluster.api.create(policy("own", json!({"sharesPerGpu": 2, "priority": 2, "nodeSelector": selector})));
    cluster.api.create(soft("soft", "7500Mi", "memory"));
    cluster.api.create(template("small", "100Mi"));
    let _controller = cluster.controller().await;
    assert_eq!(place(&cluster, &["small", "small", "small"]).await, [true, true, false]);
    cluster.api.create(node("node-b"));
    cluster.add_gpus("node-b", 1);
    cluster.idle().await;
    assert_eq!(place(&cluster, &["soft", "soft", "soft", "soft"]).await, [true, true, true, true]);
}
