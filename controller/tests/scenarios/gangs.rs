//! Pods of a gang get all their claims or none.

use serde_json::json;
use vgpu_fake_api::objects::{Object, pod, template};

use crate::harness::{Cluster, Controller, names, sleep};

fn of_gang(gang: &str, size: u32, pod: Object) -> Object {
    pod.set(
        "/metadata/annotations",
        json!({"vgpu-dra.io/gang": gang, "vgpu-dra.io/gang-size": size.to_string()}),
    )
}

/// So many pods of a gang, a whole GPU each.
fn gang(name: &str, size: u32) -> Vec<Object> {
    (0..size).map(|n| of_gang(name, size, pod(&format!("{name}-{n}"), &["whole"]))).collect()
}

fn cluster(nodes: &[(&str, u32)]) -> Cluster {
    let cluster = Cluster::with(nodes);
    cluster.api.create(template("whole", ""));
    cluster
}

fn create(cluster: &Cluster, pods: &[Object]) {
    pods.iter().for_each(|p| drop(cluster.api.create(p)));
}

/// How many of these run, and how many hold a GPU.
fn count(cluster: &Cluster, pods: &[Object]) -> (usize, usize) {
    let names = names(pods);
    let bound = names.iter().filter(|n| cluster.bound(n).is_some()).count();
    (bound, names.iter().filter(|n| !cluster.gpus(n).is_empty()).count())
}

#[tokio::test(start_paused = true)]
async fn a_gang_that_does_not_fit_holds_nothing_and_runs_when_it_does() {
    let cluster = cluster(&[("node-a", 2)]);
    let _controller = cluster.controller().await;
    let pods = gang("train", 3);
    create(&cluster, &pods);
    create(&cluster, &[pod("alone", &["whole"])]);
    sleep(60).await;
    assert_eq!(count(&cluster, &pods), (0, 0));
    assert!(cluster.bound("alone").is_some(), "others are served");
    for pod in names(&pods) {
        let told = cluster.notes(&pod, "NotPlaced");
        assert!(
            told.len() == 1 && told[0].contains("gang train: 1 of 3 pods fit; for the next: "),
            "{told:?}"
        );
    }
    cluster.add_node("node-b", 2);
    sleep(5).await;
    assert_eq!(count(&cluster, &pods), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn of_two_gangs_that_do_not_fit_together_one_runs_and_then_the_other() {
    let cluster = cluster(&[("node-a", 2), ("node-b", 1)]);
    let (first, second) = (gang("first", 2), gang("second", 2));
    // One of each in turn, as two controllers of theirs would make them.
    for (a, b) in first.iter().zip(&second) {
        create(&cluster, &[a.clone(), b.clone()]);
    }
    let _controller = cluster.controller().await;
    sleep(30).await;
    assert_eq!((count(&cluster, &first), count(&cluster, &second)), ((2, 2), (0, 0)));
    names(&first).iter().for_each(|n| cluster.delete_pod(n));
    sleep(10).await;
    assert_eq!(count(&cluster, &second), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_gang_waits_until_all_its_pods_are_there() {
    let cluster = cluster(&[("node-a", 4)]);
    let _controller = cluster.controller().await;
    let pods = gang("train", 3);
    create(&cluster, &pods[..2]);
    sleep(60).await;
    assert_eq!(count(&cluster, &pods), (0, 0));
    assert_eq!(cluster.notes("train-0", "GangIncomplete"), ["gang train: 2 of its 3 pods are there"]);
    create(&cluster, &pods[2..]);
    sleep(5).await;
    assert_eq!(count(&cluster, &pods), (3, 3));
    // A replacement finds the others running, and one more than the gang takes goes as well.
    cluster.delete_pod("train-1");
    create(
        &cluster,
        &[of_gang("train", 3, pod("again", &["whole"])), of_gang("train", 3, pod("more", &["whole"]))],
    );
    sleep(5).await;
    assert!(cluster.bound("again").is_some() && cluster.bound("more").is_some());
}

#[tokio::test(start_paused = true)]
async fn no_gate_goes_before_every_claim_of_the_gang_is_allocated() {
    let cluster = cluster(&[("node-a", 4)]);
    let controller = cluster.controller().await;
    controller.connection.forget_writes();
    create(&cluster, &gang("train", 4));
    sleep(5).await;
    let writes = controller.connection.writes();
    let of = |plural: &'static str| -> Vec<usize> {
        (0..).zip(&writes).filter(|(_, c)| c.plural == plural).map(|(i, _)| i).collect()
    };
    let (last_claim, first_gate) = (of("resourceclaims").into_iter().max(), of("pods").into_iter().min());
    assert_eq!((of("resourceclaims").len(), of("pods").len()), (8, 8), "each pod's node and gate");
    assert!(last_claim < first_gate, "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn killed_after_any_write_a_gang_runs_whole_or_holds_nothing() {
    let mut writes = 0;
    loop {
        let cluster = cluster(&[("node-a", 3)]);
        let first = cluster.controller().await;
        let pods = gang("train", 3);
        first.connection.die_after(writes);
        create(&cluster, &pods);
        sleep(3).await;
        first.kill().await;
        let bound = count(&cluster, &pods).0;
        // Every other time somebody takes a GPU of those that are still free.
        let thief =
            pod("thief", &["whole"]).set("/spec/priority", 100).set("/spec/preemptionPolicy", "Never");
        let comes = writes % 2 == 1;
        if comes {
            create(&cluster, &[thief]);
        }
        let _second = Controller::start(&cluster.api, "two");
        sleep(60).await;
        let all = if comes && cluster.bound("thief").is_some() { 0 } else { 3 };
        assert_eq!(count(&cluster, &pods), (all, all), "after {writes} writes, a thief: {comes}");
        cluster.check_capacity();
        if bound == 3 {
            break;
        }
        writes += 1;
        assert!(writes < 40, "it never got through");
    }
    assert!(writes >= 9, "two writes a claim and one a gate: {writes}");
}

#[tokio::test(start_paused = true)]
async fn annotations_that_make_no_gang_are_told() {
    let cluster = cluster(&[("node-a", 4)]);
    let _controller = cluster.controller().await;
    let bad = pod("bad", &["whole"])
        .set("/metadata/annotations", json!({"vgpu-dra.io/gang": "g", "vgpu-dra.io/gang-size": "two"}));
    create(
        &cluster,
        &[bad, of_gang("h", 2, pod("two", &["whole"])), of_gang("h", 3, pod("three", &["whole"]))],
    );
    sleep(30).await;
    assert!(cluster.notes("bad", "InvalidGang")[0].contains("is \"two\": write how many pods"));
    assert!(cluster.notes("two", "InvalidGang")[0].contains("sizes 2 and 3; give all of them the same"));
    assert!(["bad", "two", "three"].iter().all(|n| cluster.gpus(n).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_gang_choose_among_their_alternatives_together() {
    let cluster = cluster(&[("node-a", 2)]);
    let alternative =
        |name: &str, count: u32| json!({"name": name, "deviceClassName": "gpu.vgpu-dra.io", "count": count});
    let list = json!([{"name": "gpu", "firstAvailable": [alternative("two", 2), alternative("one", 1)]}]);
    cluster.api.create(template("either", "").set("/spec/spec/devices/requests", list));
    let _controller = cluster.controller().await;
    // Both like two GPUs best, and for both there are two.
    let pods = [0, 1].map(|n| of_gang("train", 2, pod(&format!("train-{n}"), &["either"])));
    create(&cluster, &pods);
    sleep(5).await;
    assert_eq!(count(&cluster, &pods), (2, 2));
    names(&pods).iter().for_each(|n| cluster.delete_pod(n));
    sleep(5).await;
    // Three do not fit in any way, and nothing is held of the ways that were tried.
    let pods = [0, 1, 2].map(|n| of_gang("more", 3, pod(&format!("more-{n}"), &["either"])));
    create(&cluster, &pods);
    sleep(10).await;
    assert_eq!(count(&cluster, &pods), (0, 0));
    let told = cluster.notes("more-2", "NotPlaced");
    assert!(told[0].contains("gang more: 2 of 3 pods fit; for the next: "), "{told:?}");
    create(&cluster, &[pod("alone", &["either"])]);
    sleep(10).await;
    assert_eq!(cluster.gpus("alone").len(), 2);
}
