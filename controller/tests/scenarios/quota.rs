//! ResourceQuotas on GPU memory and cores: what a namespace's claims may hold together.

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};
use vgpu_fake_api::objects::{Object, claim, pod, pod_with_claims, template};

use crate::harness::{Cluster, Controller, sleep};

fn quota(hard: Value) -> Object {
    Object(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus", "namespace": "default"},
        "spec": {"hard": hard},
    }))
}

fn memory(hard: &str) -> Object {
    quota(json!({"requests.vgpu-dra.io/memory": hard}))
}

fn running(cluster: &Cluster, names: &[&str]) -> Vec<bool> {
    names.iter().map(|n| cluster.bound(n).is_some()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pod_over_the_quota_waits_with_the_numbers_until_another_ends() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(memory("10000Mi"));
    cluster.api.create(template("share", "6000Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("first", &["share"]));
    cluster.idle().await;
    cluster.api.create(pod("second", &["share"]));
    sleep(60).await;
    assert_eq!(running(&cluster, &["first", "second"]), [true, false]);
    let notes = cluster.notes("second", "QuotaExceeded");
    assert_eq!(notes.len(), 1, "said once: {notes:?}");
    for word in
        ["ResourceQuota gpus", "requests.vgpu-dra.io/memory", "is 10000Mi", "hold 6000Mi", "asks for 6000Mi"]
    {
        assert!(notes[0].contains(word), "{word:?} is missing in {:?}", notes[0]);
    }
    cluster.delete_pod("first");
    cluster.idle().await;
    assert_eq!(running(&cluster, &["second"]), [true]);
}

#[tokio::test(start_paused = true)]
async fn hamis_keys_hold_where_the_controller_reads_them() {
    for (read, want) in [(false, [true, true]), (true, [true, false])] {
        let cluster = Cluster::with(&[("node-a", 2)]);
        cluster.api.create(quota(json!({"limits.nvidia.com/gpumem": "10000"})));
        cluster.api.create(template("share", "6000Mi"));
        let _controller =
            Controller::start_with(cluster.api.connect(), "one", |args| args.hami_quotas = read);
        cluster.idle().await;
        for name in ["first", "second"] {
            cluster.api.create(pod(name, &["share"]));
            cluster.idle().await;
        }
        assert_eq!(running(&cluster, &["first", "second"]), want);
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_come_together_stay_below_the_quota_together() {
    let cluster = Cluster::with(&[("node-a", 4)]);
    cluster.api.create(memory("10Gi"));
    cluster.api.create(template("share", "3Gi"));
    let names: Vec<String> = (0..8).map(|n| format!("p{n}")).collect();
    for name in &names {
        cluster.api.create(pod(name, &["share"]));
    }
    let _controller = cluster.controller().await;
    sleep(30).await;
    assert_eq!(names.iter().filter(|n| cluster.bound(n).is_some()).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_pod_behind_one_over_the_quota_is_served() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(memory("4Gi"));
    cluster.api.create(template("large", "6Gi"));
    cluster.api.create(template("small", "2Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("large", &["large"]));
    cluster.api.create(pod("small", &["small"]));
    cluster.idle().await;
    assert_eq!(running(&cluster, &["large", "small"]), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_raised_quota_lets_the_pod_go() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(quota(json!({"requests.vgpu-dra.io/cores": "100"})));
    cluster.api.create(template("whole", ""));
    cluster.api.create(pod("one", &["whole"]));
    cluster.api.create(pod("two", &["whole"]));
    let _controller = cluster.controller().await;
    sleep(30).await;
    assert_eq!(
        running(&cluster, &["one", "two"]).iter().filter(|r| **r).count(),
        1,
        "a whole GPU counts 100"
    );
    let more = json!({"spec": {"hard": {"requests.vgpu-dra.io/cores": "200"}}});
    cluster.api.patch::<ResourceQuota>("default", "gpus", false, &more).expect("it is there");
    cluster.idle().await;
    assert_eq!(running(&cluster, &["one", "two"]), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn another_namespace_and_a_claim_that_two_pods_share_do_not_count_twice() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}));
    let mut other = memory("1Mi");
    other.0["metadata"]["namespace"] = "team".into();
    cluster.api.create(other);
    cluster.api.create(memory("6Gi"));
    cluster.api.create(claim("kept", "6Gi"));
    cluster.api.create(pod_with_claims("one", &["kept"]));
    cluster.api.create(pod_with_claims("two", &["kept"]));
    let _controller = cluster.controller().await;
    sleep(10).await;
    assert_eq!(running(&cluster, &["one", "two"]), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_second_claim_is_over_the_quota_holds_nothing() {
    let cluster = Cluster::with(&[("node-a", 2)]);
    cluster.api.create(memory("10Gi"));
    cluster.api.create(template("share", "6Gi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod("two", &["share", "share"]));
    sleep(30).await;
    assert_eq!(running(&cluster, &["two"]), [false]);
    assert!(cluster.gpus("two").is_empty(), "{:?}", cluster.gpus("two"));
}
