//! The node a pod has GPUs on, said to kube-scheduler as its nominated node.

use kube::ResourceExt;
use serde_json::json;
use vgpu_controller::claim::Claim;
use vgpu_controller::pod::{is_gated, nominated};
use vgpu_fake_api::objects::{plain_pod, pod};
use vgpu_fake_api::{Call, Fault, Scheduler};

use crate::harness::{Cluster, sleep};

fn names_node(call: &Call) -> bool {
    call.plural == "pods"
        && call.subresource == "status"
        && !call.body["status"]["nominatedNodeName"].is_null()
}

#[tokio::test(start_paused = true)]
async fn the_scheduler_finds_a_pod_nominated_to_the_node_it_has_gpus_on() {
    let cluster = Cluster::of_two_nodes();
    let controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    let found = cluster.pod("train").expect("it was made");
    assert_eq!(nominated(&found), cluster.allocated("train").as_deref());
    assert!(!is_gated(&found), "the scheduler may have it");
    let writes = controller.connection.writes();
    let (named, ungated) = (
        writes.iter().position(names_node),
        writes.iter().position(|c| c.plural == "pods" && c.subresource.is_empty()),
    );
    assert!(named.is_some() && named < ungated, "named at {named:?}, without gate at {ungated:?}");
    cluster.scheduler.tell(|s| s.stopped = false);
    cluster.idle().await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn a_nomination_that_is_refused_keeps_no_pod_back() {
    let cluster = Cluster::of_two_nodes();
    let controller = cluster.controller().await;
    controller.connection.rule(|call| names_node(call).then_some(Fault::Refuse(403)));
    cluster.api.create(pod("train", &["share"]));
    sleep(2).await;
    assert_eq!(cluster.bound("train").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_refused_where_it_is_nominated_goes_elsewhere_whether_it_may_preempt_or_not() {
    for policy in ["Never", "PreemptLowerPriority"] {
        let cluster = Cluster::of_two_nodes();
        let _controller = cluster.controller().await;
        cluster.scheduler.tell(|s| {
            s.refuses.extend(["node-a".to_owned()]);
            s.keeps_allocations = true;
        });
        cluster.api.create(pod("train", &["share"]).set("/spec/preemptionPolicy", policy));
        sleep(6).await;
        let given_back = cluster.pod("train").expect("it was made");
        assert_eq!(nominated(&given_back), None, "{policy}: it would keep others from the node's CPU");
        sleep(4).await;
        assert_eq!(cluster.bound("train").as_deref(), Some("node-b"), "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_nomination_nobody_ends_for_holds_a_pod_for_half_a_minute() {
    let cluster = Cluster::of_two_nodes();
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    // A scheduler without preemption refuses and leaves the name as it is.
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"});
    cluster.patch_pod("train", true, json!({"status": {"conditions": [condition]}}));
    sleep(25).await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-a"), "others may end for it");
    // So long, five seconds as for any refusal, and two of rest.
    sleep(14).await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-b"));
}

#[tokio::test(start_paused = true)]
async fn a_claim_the_scheduler_cleared_before_it_made_room_comes_back_to_that_node() {
    let cluster = Cluster::of_two_nodes();
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    // First it clears the claim, then it looks for others to preempt, then it says both: the name is there already.
    let claim = cluster.claims("train")[0].name_any();
    let cleared = json!({"status": {"allocation": null}});
    cluster.api.patch::<Claim>("default", &claim, true, &cleared).expect("a right patch");
    sleep(1).await;
    assert_eq!(nominated(&cluster.pod("train").expect("it was made")), Some("node-a"));
    let victim = plain_pod("victim", "100m").set("/spec/nodeName", "node-a");
    cluster.api.create(victim.set("/metadata/finalizers", json!(["example.com/slow"])));
    cluster.delete_pod("victim");
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"});
    cluster.patch_pod("train", true, json!({"status": {"conditions": [condition]}}));
    sleep(5).await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-a"), "others end for it there");
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_schedulers_are_not_nominated() {
    let cluster = Cluster::of_two_nodes();
    let batch = Scheduler::start_as(&cluster.api, "batch");
    batch.tell(|s| s.stopped = true);
    let controller = cluster.controller().await;
    cluster.api.create(pod("train", &["share"]).set("/spec/schedulerName", "batch"));
    cluster.idle().await;
    assert_eq!(cluster.allocated("train").as_deref(), Some("node-a"));
    assert!(!controller.connection.writes().iter().any(names_node));
}
