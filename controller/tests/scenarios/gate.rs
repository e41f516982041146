//! The ConfigMaps that tell the admission policy which pods get the gate, and the gate itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use serde_json::json;
use vgpu_fake_api::objects::{Object, claim, pod, template};

use crate::harness::{Cluster, sleep};

fn listed(cluster: &Cluster, namespace: &str) -> Option<Vec<String>> {
    let map: ConfigMap = cluster.api.get(namespace, "vgpu-dra-claims")?;
    Some(map.data.unwrap_or_default().into_keys().collect())
}

fn foreign(template: Object) -> Object {
    template.set("/spec/spec/devices/requests/0/exactly/deviceClassName", "gpu.nvidia.com")
}

#[tokio::test(start_paused = true)]
async fn templates_and_claims_of_our_classes_are_listed_in_their_namespace() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}));
    let mut other = template("theirs", "1Gi");
    other.0["metadata"]["namespace"] = "team".into();
    cluster.api.create(other);
    cluster.api.create(template("share", "1Gi"));
    cluster.api.create(claim("kept", "1Gi"));
    cluster.api.create(foreign(template("nvidia", "1Gi")));
    let _controller = cluster.controller().await;
    assert_eq!(listed(&cluster, "default"), Some(vec!["claim.kept".into(), "template.share".into()]));
    assert_eq!(listed(&cluster, "team"), Some(vec!["template.theirs".into()]));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_no_longer_listed_and_the_last_takes_the_map_along() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "1Gi"));
    cluster.api.create(claim("kept", "1Gi"));
    let _controller = cluster.controller().await;
    cluster.api.delete::<ResourceClaimTemplate>("default", "share").expect("it is there");
    cluster.idle().await;
    assert_eq!(listed(&cluster, "default"), Some(vec!["claim.kept".into()]));
    cluster.api.delete::<ResourceClaim>("default", "kept").expect("it is there");
    cluster.idle().await;
    assert_eq!(listed(&cluster, "default"), None);
}

#[tokio::test(start_paused = true)]
async fn a_claim_made_of_a_template_is_not_listed() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "1Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("p", &["share"]));
    cluster.idle().await;
    assert_eq!(listed(&cluster, "default"), Some(vec!["template.share".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_class_of_another_name_that_selects_our_devices_is_ours() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "team-gpus"},
        "spec": {"selectors": [{"cel": {"expression": "device.driver == 'gpu.vgpu-dra.io'"}}]},
    }));
    let theirs =
        template("t", "1Gi").set("/spec/spec/devices/requests/0/exactly/deviceClassName", "team-gpus");
    cluster.api.create(theirs);
    let _controller = cluster.controller().await;
    cluster.idle().await;
    assert_eq!(listed(&cluster, "default"), Some(vec!["template.t".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_map_that_could_not_be_written_is_written_later() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    let controller = cluster.controller().await;
    let mut failures = BTreeMap::from([("configmaps", 2)]);
    controller.connection.rule(move |call| {
        let left = failures.get_mut(call.plural).filter(|n| **n > 0 && call.verb.writes())?;
        *left -= 1;
        Some(vgpu_fake_api::Fault::Refuse(500))
    });
    cluster.api.create(template("share", "1Gi"));
    sleep(5).await;
    assert_eq!(listed(&cluster, "default"), Some(vec!["template.share".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_map_that_somebody_deletes_is_restored() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "1Gi"));
    let _controller = cluster.controller().await;
    cluster.api.delete::<ConfigMap>("default", "vgpu-dra-claims").expect("it is there");
    cluster.idle().await;
    assert_eq!(listed(&cluster, "default"), Some(vec!["template.share".into()]));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_writes_into_a_map_does_not_stay() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "1Gi"));
    let _controller = cluster.controller().await;
    for patch in [json!({"data": {"template.theirs": ""}}), json!({"data": {"template.share": null}})] {
        cluster.api.patch::<ConfigMap>("default", "vgpu-dra-claims", false, &patch).expect("it is there");
        cluster.idle().await;
        assert_eq!(listed(&cluster, "default"), Some(vec!["template.share".into()]), "after {patch}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_our_gate_is_taken_and_only_when_every_other_is_gone() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "1Gi"));
    let _controller = cluster.controller().await;
    let gates = json!([{"name": "kueue.x-k8s.io/admission"}, {"name": "vgpu-dra.io/allocation"}]);
    cluster.api.create(pod("p", &["share"]).set("/spec/schedulingGates", gates));
    sleep(30).await;
    assert!(cluster.gpus("p").is_empty(), "a pod its queue has not admitted holds nothing");
    cluster.patch_pod("p", false, json!({"spec": {"schedulingGates": [{"name": "vgpu-dra.io/allocation"}]}}));
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_another_drivers_class_is_left_alone() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(foreign(template("nvidia", "1Gi")));
    let controller = cluster.controller().await;
    controller.connection.forget_writes();
    cluster.api.create(pod("p", &["nvidia"]));
    sleep(30).await;
    let touched: Vec<_> =
        controller.connection.writes().into_iter().filter(|c| c.plural != "leases").collect();
    assert!(touched.is_empty(), "{touched:?}");
}
