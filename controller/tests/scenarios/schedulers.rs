//! Pods of another scheduler than kube-scheduler's own name.

use kube::ResourceExt;
use vgpu_fake_api::Scheduler;
use vgpu_fake_api::objects::{Object, pod, template};

use crate::harness::{Cluster, sleep};

fn of_scheduler(name: &str, scheduler: &str, template: &str) -> Object {
    pod(name, &[template]).set("/spec/schedulerName", scheduler)
}

async fn one_node() -> Cluster {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "7500Mi"));
    cluster.api.create(template("most", "15000Mi"));
    cluster
}

#[tokio::test(start_paused = true)]
async fn whichever_scheduler_a_pod_names_binds_it_where_its_claims_are_allocated() {
    let cluster = one_node().await;
    let batch = Scheduler::start_as(&cluster.api, "batch");
    let _controller = cluster.controller().await;
    cluster.api.create(pod("usual", &["share"]));
    cluster.api.create(of_scheduler("other", "batch", "share"));
    cluster.idle().await;
    for name in ["usual", "other"] {
        assert_eq!(cluster.bound(name).as_deref(), Some("node-a"), "{name}");
        assert_eq!(cluster.notes(name, "Placed").len(), 1, "{name}");
    }
    drop(batch);
}

#[tokio::test(start_paused = true)]
async fn what_another_scheduler_refuses_is_planned_elsewhere_as_it_is_for_the_usual_one() {
    let cluster = one_node().await;
    cluster.add_node("node-b", 1);
    let batch = Scheduler::start_as(&cluster.api, "batch");
    batch.tell(|s| {
        s.refuses.extend(["node-a".to_owned()]);
        s.keeps_allocations = true;
    });
    let _controller = cluster.controller().await;
    cluster.api.create(of_scheduler("p", "batch", "share"));
    sleep(10).await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-b"));
}

#[tokio::test(start_paused = true)]
async fn gpus_are_not_held_for_a_pod_whose_scheduler_is_not_there() {
    let cluster = one_node().await;
    let _controller = cluster.controller().await;
    cluster.api.create(of_scheduler("stray", "nobody", "most"));
    cluster.idle().await;
    assert_eq!(cluster.allocated("stray").as_deref(), Some("node-a"), "its scheduler may be slow");
    cluster.api.create(pod("usual", &["most"]));
    sleep(290).await;
    assert_eq!(cluster.bound("usual"), None);
    sleep(20).await;
    assert_eq!(cluster.bound("usual").as_deref(), Some("node-a"));
    let notes = cluster.notes("stray", "NoScheduler");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("\"nobody\""), "{notes:?}");
    // Once there is one, the pod goes on by itself.
    cluster.delete_pod("usual");
    let _late = Scheduler::start_as(&cluster.api, "nobody");
    sleep(300).await;
    assert_eq!(cluster.bound("stray").as_deref(), Some("node-a"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_scheduler_holds_gpus_for_an_ever_smaller_part_of_the_time() {
    let cluster = one_node().await;
    let _controller = cluster.controller().await;
    cluster.api.create(of_scheduler("stray", "nobody", "most"));
    let mut held = [0; 2];
    for minute in 0..16 * 60 {
        sleep(60).await;
        held[usize::from(minute >= 8 * 60)] += u32::from(cluster.allocated("stray").is_some());
    }
    // At first five minutes of ten; in the end five of sixty-five.
    assert!(held[1] < held[0] && held[1] <= 45, "minutes of the first and the last eight hours: {held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_kube_scheduler_is_waited_for() {
    let cluster = one_node().await;
    let _controller = cluster.controller().await;
    cluster.scheduler.tell(|s| s.stopped = true);
    cluster.api.create(pod("p", &["share"]));
    sleep(3600).await;
    let claim = &cluster.claims("p")[0];
    assert_eq!(cluster.allocated("p").as_deref(), Some("node-a"), "{}", claim.name_any());
    cluster.scheduler.tell(|s| s.stopped = false);
    cluster.idle().await;
    assert_eq!(cluster.bound("p").as_deref(), Some("node-a"));
}
