//! A pod of higher priority gets its place from pods of lower priority.

use serde_json::json;
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{Object, claim, pod, pod_with_claims, template};

use crate::harness::{Cluster, Controller, sleep};

fn of_priority(pod: Object, priority: i32) -> Object {
    pod.set("/spec/priority", priority)
}

/// A cluster with templates `half` and `whole`, on which these pods run, the first being the oldest.
async fn running(nodes: &[(&str, u32)], pods: &[Object]) -> (Cluster, Controller) {
    let cluster = Cluster::with(nodes);
    cluster.api.create(template("half", "7000Mi"));
    cluster.api.create(template("whole", "15104Mi"));
    let controller = cluster.controller().await;
    for pod in pods {
        cluster.api.create(pod);
        sleep(2).await;
        assert!(cluster.bound(pod.name()).is_some(), "{} does not run", pod.name());
    }
    (cluster, controller)
}

/// A budget on pods labelled `app: db` that lets so many go.
fn budget(allowed: u32) -> Object {
    Object(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "db", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}, "minAvailable": 1},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    }))
}

fn there(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<String> =
        cluster.api.all::<Pod>().into_iter().filter_map(|p| p.metadata.name).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn the_youngest_of_the_lowest_goes_and_is_told_for_whom() {
    let low = [pod("old", &["half"]), pod("young", &["half"])];
    let (cluster, _controller) = running(&[("node-a", 1)], &low).await;
    cluster.api.create(of_priority(pod("high", &["half"]), 100));
    sleep(10).await;
    assert_eq!(there(&cluster), ["high", "old"]);
    assert_eq!(cluster.bound("high").as_deref(), Some("node-a"));
    let told = cluster.notes("young", "Preempted");
    assert!(
        told.len() == 1 && told[0].contains("pod default/high, whose priority 100 is above 0"),
        "{told:?}"
    );
    let told = cluster.notes("high", "Preempting");
    assert!(told.len() == 1 && told[0].contains("default/young must go from node-a"), "{told:?}");
    cluster.check_capacity();
}

#[tokio::test(start_paused = true)]
async fn the_node_where_the_fewest_must_go_is_taken() {
    let low = [pod("a1", &["half"]), pod("a2", &["half"]), of_priority(pod("b", &["whole"]), 50)];
    let (cluster, _controller) = running(&[("node-a", 1), ("node-b", 1)], &low).await;
    cluster.api.create(of_priority(pod("high", &["whole"]), 100));
    sleep(10).await;
    assert_eq!(there(&cluster), ["a1", "a2", "high"]);
    assert_eq!(cluster.bound("high").as_deref(), Some("node-b"));
}

#[tokio::test(start_paused = true)]
async fn of_as_many_those_of_the_lowest_priority_go() {
    let low = [of_priority(pod("a", &["whole"]), 50), of_priority(pod("b", &["whole"]), 10)];
    let (cluster, _controller) = running(&[("node-a", 1), ("node-b", 1)], &low).await;
    cluster.api.create(of_priority(pod("high", &["whole"]), 100));
    sleep(10).await;
    assert_eq!(there(&cluster), ["a", "high"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_for_a_pod_of_the_same_priority_or_one_that_never_preempts() {
    let (cluster, _controller) = running(&[("node-a", 1)], &[of_priority(pod("low", &["whole"]), 5)]).await;
    cluster.api.create(of_priority(pod("same", &["whole"]), 5));
    cluster.api.create(of_priority(pod("meek", &["whole"]), 100).set("/spec/preemptionPolicy", "Never"));
    sleep(120).await;
    assert_eq!(there(&cluster), ["low", "meek", "same"]);
    assert_eq!(cluster.notes("meek", "NotPlaced").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_respected() {
    let guarded = |name: &str| pod(name, &["half"]).set("/metadata/labels", json!({"app": "db"}));
    let (cluster, _controller) =
        running(&[("node-a", 1)], &[pod("free", &["half"]), guarded("guarded")]).await;
    cluster.api.create(budget(0));
    sleep(2).await;
    cluster.api.create(of_priority(pod("high", &["half"]), 100));
    sleep(10).await;
    assert_eq!(there(&cluster), ["guarded", "high"]);
    cluster.api.create(of_priority(pod("higher", &["whole"]), 200));
    sleep(120).await;
    assert_eq!(there(&cluster), ["guarded", "high", "higher"], "half a way is none, so nobody goes");
    assert_eq!(cluster.bound("higher"), None);
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_where_a_budget_lets_too_few_go() {
    let guarded = |name: &str| pod(name, &["half"]).set("/metadata/labels", json!({"app": "db"}));
    let (cluster, _controller) = running(&[("node-a", 1)], &[guarded("one"), guarded("two")]).await;
    cluster.api.create(budget(1));
    sleep(2).await;
    cluster.api.create(of_priority(pod("whole", &["whole"]), 200));
    sleep(120).await;
    assert_eq!(there(&cluster), ["one", "two", "whole"], "one of two is not enough, so neither goes");
    cluster.delete_pod("whole");
    cluster.api.create(of_priority(pod("half", &["half"]), 100));
    sleep(10).await;
    assert_eq!(there(&cluster), ["half", "one"]);
}

#[tokio::test(start_paused = true)]
async fn what_victims_leave_is_kept_for_whom_they_left() {
    let slow = pod("slow", &["half"]).set("/spec/terminationGracePeriodSeconds", 30);
    let (cluster, _controller) = running(&[("node-a", 1)], &[pod("quick", &["half"]), slow]).await;
    cluster.api.create(pod("behind", &["half"]));
    sleep(2).await;
    cluster.api.create(of_priority(pod("high", &["whole"]), 100));
    sleep(120).await;
    assert_eq!(there(&cluster), ["behind", "high"]);
    assert_eq!(cluster.bound("high").as_deref(), Some("node-a"));
    assert!(cluster.gpus("behind").is_empty() && cluster.notes("behind", "Placed").is_empty());
}

#[tokio::test(start_paused = true)]
async fn pods_that_share_a_claim_go_together_or_not_at_all() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(claim("shared", "15104Mi"));
    cluster.api.create(template("half", "7000Mi"));
    let _controller = cluster.controller().await;
    cluster.api.create(pod_with_claims("low", &["shared"]));
    cluster.api.create(of_priority(pod_with_claims("important", &["shared"]), 500));
    sleep(5).await;
    cluster.api.create(of_priority(pod("high", &["half"]), 100));
    sleep(120).await;
    assert_eq!(there(&cluster), ["high", "important", "low"]);
    cluster.api.create(of_priority(pod("highest", &["half"]), 1000));
    sleep(10).await;
    // `high` fits beside it.
    assert_eq!(there(&cluster), ["high", "highest"]);
    assert!(cluster.bound("high").is_some() && cluster.bound("highest").is_some());
}

#[tokio::test(start_paused = true)]
async fn plain_pods_go_for_their_cpu() {
    let cpu = vgpu_fake_api::objects::plain_pod("cpu", "7");
    let (cluster, _controller) = running(&[("node-a", 1)], &[cpu]).await;
    let high = pod("high", &["half"]).set("/spec/containers/0/resources/requests", json!({"cpu": "2"}));
    cluster.api.create(of_priority(high, 100));
    sleep(10).await;
    assert_eq!(there(&cluster), ["high"]);
    assert!(cluster.bound("high").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_successor_waits_for_those_who_are_going_and_sends_nobody_else_away() {
    let slow = |name: &str| pod(name, &["half"]).set("/spec/terminationGracePeriodSeconds", 30);
    let (cluster, controller) = running(&[("node-a", 1)], &[slow("old"), slow("young")]).await;
    cluster.api.create(of_priority(pod("high", &["half"]), 100));
    sleep(3).await;
    controller.kill().await;
    let _second = Controller::start(&cluster.api, "two");
    sleep(120).await;
    assert_eq!(there(&cluster), ["high", "old"]);
    assert!(cluster.bound("high").is_some());
}

#[tokio::test(start_paused = true)]
async fn switched_off_nobody_goes() {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("whole", "15104Mi"));
    let _controller = Controller::start_with(cluster.api.connect(), "one", |args| args.preemption = false);
    cluster.api.create(pod("low", &["whole"]));
    sleep(5).await;
    cluster.api.create(of_priority(pod("high", &["whole"]), 100));
    sleep(120).await;
    assert_eq!(there(&cluster), ["high", "low"]);
    assert!(cluster.bound("low").is_some());
}
