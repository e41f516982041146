//! The fake API server does and refuses what the real one does, seen through a `kube::Client`.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use vgpu_fake_api::objects::{claim, node, plain_pod, pod_with_claims};
use vgpu_fake_api::{FakeApi, Fault, Verb};

fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn of<K: serde::de::DeserializeOwned>(object: impl serde::Serialize) -> K {
    serde_json::from_value(serde_json::to_value(object).expect("JSON")).expect("an object of this kind")
}

fn merge(patch: Value) -> Patch<Value> {
    Patch::Merge(patch)
}

async fn patch(api: &Api<ResourceClaim>, status: bool, body: Value) -> kube::Result<ResourceClaim> {
    let parameters = PatchParams::default();
    if status {
        api.patch_status("c", &parameters, &merge(body)).await
    } else {
        api.patch("c", &parameters, &merge(body)).await
    }
}

fn allocation(device: &str) -> Value {
    json!({"devices": {"results": [{"request": "gpu", "driver": "d.example.com", "pool": "n", "device": device}]}})
}

#[tokio::test(start_paused = true)]
async fn a_set_allocation_can_be_cleared_and_not_changed() {
    let server = FakeApi::with([claim("c", "1Gi")]);
    let api: Api<ResourceClaim> = Api::default_namespaced(server.client());
    patch(&api, true, json!({"status": {"allocation": allocation("a")}})).await.expect("it is set");
    let other = json!({"status": {"allocation": null}});
    let timestamp = json!({"status": {"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z"}}});
    assert_eq!(code(patch(&api, true, timestamp).await), 422, "not even the timestamp is added");
    let reserved = json!({"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
    patch(&api, true, reserved.clone()).await.expect("it is reserved");
    assert_eq!(code(patch(&api, true, other).await), 422, "reservedFor needs an allocation");
    let both = json!({"status": {"allocation": null, "reservedFor": null}});
    let cleared = patch(&api, true, both).await.expect("it is cleared");
    assert!(cleared.status.is_none_or(|s| s.allocation.is_none()));
    assert_eq!(code(patch(&api, true, reserved).await), 422);
    let unknown = json!({"status": {"allocation": {"devices": {"results": [
        {"request": "other", "driver": "d.example.com", "pool": "n", "device": "a"}]}}}});
    assert_eq!(code(patch(&api, true, unknown).await), 422, "the claim has no such request");
}

#[tokio::test(start_paused = true)]
async fn a_write_with_an_old_version_is_a_conflict_and_the_spec_of_a_claim_is_fixed() {
    let server = FakeApi::with([claim("c", "1Gi")]);
    let api: Api<ResourceClaim> = Api::default_namespaced(server.client());
    let old = api.get("c").await.expect("it is there");
    patch(&api, false, json!({"metadata": {"labels": {"a": "b"}}})).await.expect("no version, no conflict");
    let stale = json!({"metadata": {"resourceVersion": old.resource_version(), "labels": {"a": "c"}}});
    assert_eq!(code(patch(&api, false, stale.clone()).await), 409);
    assert_eq!(code(patch(&api, true, stale).await), 409);
    assert_eq!(code(api.replace("c", &PostParams::default(), &old).await), 409);
    assert_eq!(code(patch(&api, false, json!({"spec": {"devices": null}})).await), 422);
    assert_eq!(code(api.create(&PostParams::default(), &of(claim("c", "1Gi"))).await), 409);
    let before = server.version();
    patch(&api, false, json!({"metadata": {"labels": {"a": "b"}}})).await.expect("nothing changes");
    assert_eq!(server.version(), before, "a write that changes nothing makes no version");
}

#[tokio::test(start_paused = true)]
async fn each_half_of_an_object_is_written_through_its_own_subresource() {
    let server = FakeApi::with([claim("c", "1Gi")]);
    let api: Api<ResourceClaim> = Api::default_namespaced(server.client());
    let through_main =
        patch(&api, false, json!({"status": {"allocation": allocation("a")}})).await.expect("ignored");
    assert!(through_main.status.is_none());
    let through_status =
        json!({"metadata": {"finalizers": ["a/b"]}, "status": {"allocation": allocation("a")}});
    let stored = patch(&api, true, through_status).await.expect("the status is taken");
    assert!(stored.finalizers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_its_finalizers_and_takes_no_new_ones() {
    let server = FakeApi::with([claim("c", "1Gi").set("/metadata/finalizers", json!(["a/b"]))]);
    let api: Api<ResourceClaim> = Api::default_namespaced(server.client());
    api.delete("c", &DeleteParams::default()).await.expect("it is marked");
    assert!(api.get("c").await.expect("it waits").metadata.deletion_timestamp.is_some());
    assert_eq!(code(patch(&api, false, json!({"metadata": {"finalizers": ["a/b", "c/d"]}})).await), 422);
    patch(&api, false, json!({"metadata": {"finalizers": null}})).await.expect("the last finalizer goes");
    assert_eq!(code(api.get("c").await), 404);
}

#[tokio::test(start_paused = true)]
async fn what_was_owned_goes_with_the_last_owner() {
    let server = FakeApi::with([node("n")]);
    let uid = server.get::<Node>("", "n").and_then(|n| n.uid());
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid}]);
    server.create(claim("c", "1Gi").set("/metadata/ownerReferences", owner));
    server.delete::<Node>("", "n").expect("it is there");
    assert!(server.get::<ResourceClaim>("default", "c").is_none());
}

#[tokio::test(start_paused = true)]
async fn gates_keep_a_pod_from_nodes_and_cannot_be_added() {
    let server = FakeApi::with([node("n")]);
    let api: Api<Pod> = Api::default_namespaced(server.client());
    let both = pod_with_claims("p", &[]).set("/spec/nodeName", "n");
    assert_eq!(code(api.create(&PostParams::default(), &of(both)).await), 422);
    api.create(&PostParams::default(), &of(pod_with_claims("p", &[]))).await.expect("a gated pod");
    let binding =
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n"}});
    let bind = || async {
        api.create_subresource::<Value, Value>("binding", "p", &PostParams::default(), &binding).await
    };
    assert_eq!(code(bind().await), 409);
    let gates = |names: &[&str]| {
        json!({"spec": {"schedulingGates":
        names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}})
    };
    let set = |body: Value| {
        let api = api.clone();
        async move { api.patch("p", &PatchParams::default(), &merge(body)).await }
    };
    assert_eq!(code(set(gates(&["vgpu-dra.io/allocation", "more"])).await), 422);
    set(gates(&[])).await.expect("gates can be taken");
    bind().await.expect("it is bound");
    assert_eq!(code(bind().await), 409, "once");
    assert_eq!(code(set(json!({"spec": {"nodeName": "m"}})).await), 422);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_respects_budgets() {
    let labelled =
        plain_pod("p", "1").set("/metadata/labels", json!({"app": "a"})).set("/spec/nodeName", "n");
    let server = FakeApi::with([node("n"), labelled.set("/status", json!({"phase": "Running"}))]);
    server.create(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    }));
    let api: Api<Pod> = Api::default_namespaced(server.client());
    let eviction: Eviction = of(json!({"metadata": {"name": "p"}}));
    let evict = || async {
        api.create_subresource::<Eviction, Value>("eviction", "p", &PostParams::default(), &eviction).await
    };
    assert_eq!(code(evict().await), 429);
    server
        .patch::<Pod>("default", "p", true, &json!({"status": {"phase": "Pending"}}))
        .expect("a right patch");
    evict().await.expect("a pod that does not run is not protected");
    assert!(api.get("p").await.expect("its kubelet ends it").metadata.deletion_timestamp.is_some());
}

#[tokio::test(start_paused = true)]
async fn applied_fields_go_when_they_are_no_longer_applied() {
    let server = FakeApi::new();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let apply = |manager: &'static str, data: Value| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
        let api = api.clone();
        async move { api.patch("m", &PatchParams::apply(manager), &Patch::Apply(&map)).await }
    };
    apply("one", json!({"a": "1", "b": "1"})).await.expect("it is made");
    apply("two", json!({"c": "1"})).await.expect("another's fields stay");
    assert_eq!(code(apply("two", json!({"a": "2"})).await), 409);
    let left = apply("one", json!({"a": "1"})).await.expect("its own");
    assert_eq!(left.data.unwrap_or_default().into_keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_whose_token_can_be_too_old() {
    let server = FakeApi::with((0..5).map(|i| node(&format!("n{i}"))));
    let api: Api<Node> = Api::all(server.client());
    let first = api.list(&ListParams::default().limit(2)).await.expect("a page");
    let token = first.metadata.continue_.clone().expect("there is more");
    server.create(node("n00"));
    let second = api.list(&ListParams::default().limit(2).continue_token(&token)).await.expect("a page");
    assert_eq!(second.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["n2", "n3"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version, "one list, one version");
    server.compact();
    server.create(node("n6"));
    assert_eq!(code(api.list(&ListParams::default().limit(2).continue_token(&token)).await), 410);
    assert_eq!(code(api.list(&ListParams::default().fields("spec.unknown=1")).await), 400);
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_a_version_until_it_is_forgotten() {
    let server = FakeApi::with([node("a")]);
    let api: Api<Node> = Api::all(server.client());
    let from = server.version().to_string();
    server.create(node("b"));
    let selected = WatchParams::default().labels("kubernetes.io/hostname=b");
    let mut watch = api.watch(&selected, &from).await.expect("a watch").boxed();
    let next = watch.try_next().await.expect("an event");
    assert!(matches!(next, Some(WatchEvent::Added(n)) if n.name_any() == "b"));
    server
        .patch::<Node>("", "b", false, &json!({"metadata": {"labels": {"kubernetes.io/hostname": "c"}}}))
        .expect("b");
    let next = watch.try_next().await.expect("an event");
    assert!(matches!(next, Some(WatchEvent::Deleted(_))), "it left the selection: {next:?}");
    let next = watch.try_next().await.expect("after a minute");
    assert!(matches!(next, Some(WatchEvent::Bookmark(_))), "{next:?}");
    server.compact();
    let mut old = api.watch(&WatchParams::default(), &from).await.expect("the refusal is an event").boxed();
    let next = old.try_next().await.expect("an event");
    assert!(matches!(&next, Some(WatchEvent::Error(e)) if e.code == 410), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn both_kinds_of_reflectors_follow_cuts_and_compactions() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = FakeApi::with([node("a")]);
        let connection = server.connect();
        let (store, writer) = reflector::store::<Node>();
        let stream = watcher(Api::all(connection.client()), config).default_backoff();
        let task = tokio::spawn(reflector(writer, stream).for_each(|_| async {}));
        store.wait_until_ready().await.expect("it is ready");
        connection.cut_watches();
        server.create(node("b"));
        server.compact();
        server.delete::<Node>("", "a").expect("it is there");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let names: Vec<String> = store.state().iter().map(|n| n.name_any()).collect();
        assert_eq!(names, ["b"]);
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn faults_hit_the_calls_they_are_meant_for() {
    let server = FakeApi::new();
    let connection = server.connect();
    let api: Api<ConfigMap> = Api::default_namespaced(connection.client());
    let (parameters, wait) = (PostParams::default(), Duration::from_secs(5));
    let map = |name: &str| of::<ConfigMap>(json!({"metadata": {"name": name}}));
    let make = |name: &'static str| {
        let (api, map, parameters) = (api.clone(), map(name), parameters.clone());
        async move { tokio::time::timeout(wait, api.create(&parameters, &map)).await }
    };
    let is_there = |name: &str| server.get::<ConfigMap>("default", name).is_some();

    connection.rule(|c| (c.verb == Verb::Create).then_some(Fault::Refuse(429)));
    assert_eq!(code(make("refused").await.expect("an answer")), 429);
    connection.rule(|_| Some(Fault::LoseAnswer));
    make("lost").await.expect_err("no answer");
    connection.rule(|_| Some(Fault::Hang));
    make("hung").await.expect_err("no answer");
    connection.rule(|_| Some(Fault::Slow(Duration::from_secs(6))));
    make("slow").await.expect_err("no answer in time");
    connection.rule(|_| Some(Fault::TakeLate(Duration::from_secs(6))));
    make("late").await.expect_err("no answer");
    assert!(!is_there("late"));
    tokio::time::sleep(wait).await;
    let found = ["refused", "lost", "hung", "slow", "late"].map(is_there);
    assert_eq!(found, [false, true, false, false, true]);

    connection.no_rule();
    connection.forget_writes();
    connection.die_after(2);
    make("one").await.expect("an answer").expect("it is made");
    make("two").await.expect_err("it died with the answer on its way");
    make("three").await.expect_err("it is dead");
    connection.died().await;
    assert_eq!(["one", "two", "three"].map(is_there), [true, true, false]);
}
