//! GPUs of one request that are close to each other.

use serde_json::{Value, json};
use vgpu_api::names::{API_VERSION, DRIVER};
use vgpu_api::{Gpu, GpuNode};
use vgpu_fake_api::objects::{Object, class, pod, template};

use crate::harness::Cluster;

fn config(placement: Value) -> Value {
    let parameters = json!({"apiVersion": API_VERSION, "kind": "ShareConfig", "placement": placement});
    json!([{"opaque": {"driver": DRIVER, "parameters": parameters}}])
}

/// A template of claims for two GPUs.
fn pair(name: &str, placement: Value) -> Object {
    template(name, "4000Mi")
        .set("/spec/spec/devices/requests/0/exactly/count", 2)
        .set("/spec/spec/devices/config", config(placement))
}

/// Tells each GPU of a node, in order, its PCIe root and the GPU it reaches over NVLink.
fn wire(cluster: &Cluster, node: &str, gpus: &[(&str, Option<u32>)]) {
    let mut found: GpuNode = cluster.api.get("", node).expect("it is there");
    let status = found.status.as_mut().expect("its plugin has reported");
    for (gpu, (root, peer)) in status.gpus.iter_mut().zip(gpus) {
        let peers = peer.iter().map(|n| format!("GPU-{node}-{n}")).collect();
        *gpu = Gpu { pcie_root: (*root).into(), nvlink_peers: peers, ..gpu.clone() };
    }
    let patch = json!({"status": {"gpus": status.gpus}});
    cluster.api.patch::<GpuNode>("", node, true, &patch).expect("a right patch");
}

const APART: [(&str, Option<u32>); 2] = [("pci0000:10", None), ("pci0000:20", None)];

#[tokio::test(start_paused = true)]
async fn two_gpus_are_those_with_a_link_then_those_below_one_root() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    wire(
        &cluster,
        "node-a",
        &[("pci0000:10", None), ("pci0000:20", Some(3)), ("pci0000:10", None), ("pci0000:30", Some(1))],
    );
    for (name, placement) in
        [("near", json!({})), ("any", json!({"topology": "Ignore"})), ("spread", json!({"gpu": "Spread"}))]
    {
        cluster.api.create(pair(name, placement));
    }
    let _controller = cluster.controller().await;
    for (template, want) in
        [("near", ["gpu-node-a-1", "gpu-node-a-3"]), ("spread", ["gpu-node-a-0", "gpu-node-a-2"])]
    {
        cluster.api.create(pod(template, &[template]));
        cluster.idle().await;
        assert_eq!(cluster.gpus(template), want.map(|gpu| format!("node-a/{gpu}")), "{template}");
    }
    for pod in ["near", "spread"] {
        cluster.delete_pod(pod);
    }
    cluster.idle().await;
    cluster.api.create(pod("any", &["any"]));
    cluster.idle().await;
    assert_eq!(cluster.gpus("any"), ["node-a/gpu-node-a-0", "node-a/gpu-node-a-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_class_requires_of_the_topology_a_claim_may_take_back() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    wire(&cluster, "node-a", &APART);
    let strict = class().set("/metadata/name", format!("strict.{DRIVER}"));
    cluster.api.create(strict.set("/spec/config", config(json!({"topology": "Require", "gpu": "Spread"}))));
    for (name, placement) in [("joined", json!({})), ("near", json!({"topology": "Prefer"}))] {
        let class = "/spec/spec/devices/requests/0/exactly/deviceClassName";
        cluster.api.create(pair(name, placement).set(class, format!("strict.{DRIVER}")));
    }
    let _controller = cluster.controller().await;
    for name in ["joined", "near"] {
        cluster.api.create(pod(name, &[name]));
    }
    cluster.idle().await;
    assert_eq!(cluster.gpus("near").len(), 2);
    assert_eq!(cluster.gpus("joined").len(), 0);
    assert_eq!(cluster.notes("joined", "NotPlaced"), ["0/2 GPUs: 2 NotEnoughJoinedGpus"]);
    assert!(cluster.notes("near", "Placed")[0].contains("GPU Spread"), "the other field is the class's");
}

#[tokio::test(start_paused = true)]
async fn gpus_that_must_be_joined_are_taken_on_a_node_that_has_them() {
    let cluster = Cluster::with(&[("node-a", 2), ("node-b", 2)]);
    wire(&cluster, "node-a", &APART);
    wire(&cluster, "node-b", &[("pci0000:10", None), ("pci0000:10", None)]);
    cluster.api.create(pair("joined", json!({"topology": "Require"})));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("joined", &["joined"]));
    cluster.idle().await;
    assert_eq!(cluster.bound("joined").as_deref(), Some("node-b"));
}
