//! Where kube-scheduler allocates: devices are open to it, nobody is held back, what it does not heed is said; and back.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::json;
use vgpu_controller::args::Allocator;
use vgpu_controller::slice::Slice;
use vgpu_controller::slice::is_open;
use vgpu_fake_api::objects::{claim, placement, pod, pod_with_claims, template};

use crate::harness::{Cluster, Controller, sleep};

fn scheduler_mode(cluster: &Cluster, identity: &str) -> Controller {
    Controller::start_with(cluster.api.connect(), identity, |args| args.allocator = Allocator::Scheduler)
}

fn open(cluster: &Cluster) -> Vec<bool> {
    cluster.api.all::<Slice>().iter().map(is_open).collect()
}

#[tokio::test(start_paused = true)]
async fn devices_are_open_and_pods_of_before_lose_their_gate_unallocated() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "99999Mi"));
    let first = cluster.controller().await;
    cluster.api.create(pod("waits", &["share"]));
    cluster.idle().await;
    assert_eq!(open(&cluster), [false]);
    assert!(cluster.api.get::<ConfigMap>("default", "vgpu-dra-claims").is_some());
    first.stop().await.expect("the Lease was held");

    let _second = scheduler_mode(&cluster, "two");
    cluster.idle().await;
    assert_eq!(open(&cluster), [true]);
    assert!(
        cluster.api.get::<ConfigMap>("default", "vgpu-dra-claims").is_none(),
        "new pods would get the gate"
    );
    let spec = cluster.pod("waits").expect("it is there").spec.expect("it has one");
    assert_eq!(spec.scheduling_gates.unwrap_or_default().len(), 0);
    assert_eq!(cluster.gpus("waits"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_the_scheduler_does_not_heed_is_said() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    let percent = json!({"memoryPercent": "10"});
    cluster.api.create(
        claim("percent", "").set("/spec/devices/requests/0/exactly/capacity", json!({"requests": percent})),
    );
    cluster.api.create(claim("spread", "1Gi").set("/spec/devices/config", placement("Spread", "Spread")));
    cluster.api.create(claim("plain", "1Gi"));
    for name in ["percent", "spread", "plain"] {
        cluster.api.create(pod_with_claims(name, &[name]));
    }
    let gang = json!({"vgpu-dra.io/gang": "g", "vgpu-dra.io/gang-size": "1"});
    cluster.api.create(pod_with_claims("together", &["plain"]).set("/metadata/annotations", gang));
    let _controller = scheduler_mode(&cluster, "one");
    cluster.idle().await;
    for (name, words) in [
        (
            "percent",
            "ResourceClaim percent: spec.devices.requests[gpu].exactly.capacity.requests.memoryPercent: ",
        ),
        ("spread", "ResourceClaim spread: spec.devices.config[0].opaque.parameters.placement: "),
        ("together", "metadata.annotations[vgpu-dra.io/gang]: "),
    ] {
        let notes = cluster.notes(name, "NeedsController");
        assert!(notes.first().is_some_and(|n| n.contains(words)), "{name}: {notes:?}");
    }
    assert_eq!(
        cluster.notes("plain", "NeedsController").len(),
        1,
        "the claim, for the gang; not its own pod"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_while_allocations_of_the_scheduler_may_still_come() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "8000Mi"));
    cluster.api.create(claim("late", "8000Mi"));
    let first = scheduler_mode(&cluster, "one");
    cluster.idle().await;
    first.stop().await.expect("the Lease was held");

    cluster.api.create(pod("waits", &["share"]));
    let user = pod_with_claims("somebody", &["late"]).set("/spec/schedulingGates", json!([]));
    let user = cluster.api.create(user)["metadata"]["uid"].clone();
    let _second = Controller::start(&cluster.api, "two");
    sleep(2).await;
    assert_eq!((open(&cluster), cluster.gpus("waits").len()), (vec![false], 0));
    // What the scheduler had decided before it saw the taint.
    let slice = &cluster.api.all::<Slice>()[0];
    let device = &slice.spec.devices.as_ref().expect("it has some")[0].name;
    let allocation = json!({"devices": {"results": [{
        "request": "gpu", "driver": "gpu.vgpu-dra.io", "pool": "node-a/gpu", "device": device,
        "shareID": "7d0c6f0e-3f0b-4a56-9c0d-0f4d2b0f8f11",
        "consumedCapacity": {"memory": "8000Mi", "cores": "0", "shares": "1"},
    }]}});
    let user = json!([{"resource": "pods", "name": "somebody", "uid": user}]);
    let status = json!({"status": {"allocation": allocation, "reservedFor": user}});
    cluster.api.patch::<ResourceClaim>("default", "late", true, &status).expect("a right patch");
    sleep(20).await;
    assert_eq!(cluster.gpus("waits").len(), 0, "the GPU is full");
    assert!(!cluster.notes("waits", "NotPlaced").is_empty());
}
