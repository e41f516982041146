//! ResourceSlices follow GpuNodes; a missing one is published for a newer registration only.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::json;
use vgpu_api::{GpuNode, GpuPolicy};

use crate::harness::{Cluster, Controller};

const SLICE: &str = "node-a-gpu.vgpu-dra.io-0";

fn slice(cluster: &Cluster) -> Option<ResourceSlice> {
    cluster.api.get("", SLICE)
}

fn devices(cluster: &Cluster) -> Option<usize> {
    slice(cluster).map(|s| s.spec.devices.unwrap_or_default().len())
}

fn register(cluster: &Cluster, generation: i64) {
    let status = json!({"status": {"registration": {"generation": generation}}});
    cluster.api.patch::<GpuNode>("", "node-a", true, &status).expect("a right patch");
}

fn wipe(cluster: &Cluster) {
    cluster.api.delete::<ResourceSlice>("", SLICE).expect("it is there");
}

#[tokio::test(start_paused = true)]
async fn a_node_is_published_once_its_plugin_has_registered() {
    let cluster = Cluster::with(&[]);
    cluster.add_node("node-a", 4);
    register(&cluster, 0);
    let _controller = cluster.controller().await;
    assert_eq!(devices(&cluster), None);
    register(&cluster, 1);
    cluster.idle().await;
    assert_eq!(devices(&cluster), Some(4));
    let gpu_node: GpuNode = cluster.api.get("", "node-a").expect("it is there");
    assert_eq!(gpu_node.metadata.annotations.expect("published")["vgpu-dra.io/published"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_slice_the_kubelet_deleted_comes_back_with_a_newer_registration_only() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    let _controller = cluster.controller().await;
    wipe(&cluster);
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert_eq!(devices(&cluster), None, "it was published on a bare delete");
    register(&cluster, 2);
    cluster.idle().await;
    assert_eq!(devices(&cluster), Some(4));
    wipe(&cluster);
    cluster.idle().await;
    assert_eq!(devices(&cluster), None, "one registration is good for one publication");
}

#[tokio::test(start_paused = true)]
async fn a_registration_seen_before_the_deletion_it_answers_is_not_lost() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    let _controller = cluster.controller().await;
    register(&cluster, 2);
    cluster.idle().await;
    wipe(&cluster);
    cluster.idle().await;
    assert_eq!(devices(&cluster), Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_missing_slice_is_published_once_after_a_controllers_start() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    cluster.controller().await.stop().await.expect("the Lease was held");
    wipe(&cluster);
    let _next = Controller::start(&cluster.api, "two");
    cluster.idle().await;
    assert_eq!(devices(&cluster), Some(4));
    wipe(&cluster);
    cluster.idle().await;
    assert_eq!(devices(&cluster), None);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_gpus_or_policy_is_published_at_once() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    let _controller = cluster.controller().await;
    let policy = json!({
        "apiVersion": "vgpu-dra.io/v1alpha1", "kind": "GpuPolicy", "metadata": {"name": "less"},
        "spec": {"excludedGpus": ["gpu-node-a-1"], "sharesPerGpu": 2},
    });
    cluster.api.create(policy);
    cluster.idle().await;
    assert_eq!(devices(&cluster), Some(3));
    cluster.api.delete::<GpuPolicy>("", "less").expect("it is there");
    let limiter = json!({"status": {"limiter": {"ready": false}}});
    cluster.api.patch::<GpuNode>("", "node-a", true, &limiter).expect("a right patch");
    cluster.idle().await;
    assert_eq!(devices(&cluster), Some(0), "nothing is published while limits cannot be enforced");
}

#[tokio::test(start_paused = true)]
async fn where_the_server_drops_fields_no_device_is_published_and_the_gates_are_named() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    cluster.api.turn_off("DRADeviceTaints");
    cluster.api.turn_off("DRAConsumableCapacity");
    let _controller = cluster.controller().await;
    assert_eq!(devices(&cluster), Some(0));
    let notes = cluster.notes("node-a", "FeatureGateOff");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].ends_with("enable the feature gates DRADeviceTaints, DRAConsumableCapacity"),
        "{}",
        notes[0]
    );
}

#[tokio::test(start_paused = true)]
async fn slices_go_with_their_node() {
    let cluster = Cluster::with(&[("node-a", 4), ("node-b", 4)]);
    let _controller = cluster.controller().await;
    cluster.api.delete::<Node>("", "node-a").expect("it is there");
    cluster.idle().await;
    assert_eq!(devices(&cluster), None);
    assert_eq!(cluster.api.all::<ResourceSlice>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_with_more_gpus_than_a_slice_holds_has_several() {
    let cluster = Cluster::with(&[("node-a", 70)]);
    let _controller = cluster.controller().await;
    let sizes: Vec<usize> = cluster
        .api
        .all::<ResourceSlice>()
        .iter()
        .map(|s| s.spec.devices.as_ref().map_or(0, Vec::len))
        .collect();
    assert_eq!(sizes, [64, 6]);
}
