//! One controller acts, and what is under way when that changes does no harm.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;
use vgpu_fake_api::objects::{pod, template};
use vgpu_fake_api::{Call, Fault};

use crate::harness::{Cluster, Controller, sleep};

fn holder(cluster: &Cluster) -> Option<String> {
    cluster.api.get::<Lease>("default", "vgpu-controller")?.spec?.holder_identity
}

fn is_allocation(call: &Call) -> bool {
    call.subresource == "status" && !call.body["status"]["allocation"].is_null()
}

async fn cluster() -> Cluster {
    let cluster = Cluster::with(&[("node-a", 1)]);
    cluster.api.create(template("share", "9000Mi"));
    cluster
}

#[tokio::test(start_paused = true)]
async fn of_two_controllers_one_acts() {
    let cluster = cluster().await;
    let one = cluster.controller().await;
    let two = Controller::start(&cluster.api, "two");
    sleep(60).await;
    cluster.api.create(pod("train", &["share"]));
    cluster.idle().await;
    assert!(cluster.bound("train").is_some());
    assert!(two.connection.writes().is_empty(), "{:?}", two.connection.writes());
    assert_eq!(holder(&cluster).as_deref(), Some("one"));
    drop(one);
}

#[tokio::test(start_paused = true)]
async fn a_lease_given_back_is_taken_at_once_and_one_that_ran_out_after_a_wait() {
    let cluster = cluster().await;
    let one = cluster.controller().await;
    let two = Controller::start(&cluster.api, "two");
    sleep(3).await;
    one.stop().await.expect("it held the Lease to its end");
    cluster.api.create(pod("train", &["share"]));
    sleep(1).await;
    assert!(cluster.bound("train").is_some(), "a successor need not wait");

    let three = Controller::start(&cluster.api, "three");
    sleep(3).await;
    two.kill().await;
    cluster.delete_pod("train");
    cluster.api.create(pod("next", &["share"]));
    sleep(8).await;
    assert_eq!(cluster.bound("next"), None, "the Lease ran out, but a write of the holder may be on its way");
    sleep(5).await;
    assert!(cluster.bound("next").is_some());
    drop(three);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_cannot_renew_ends_before_another_may_begin() {
    let cluster = cluster().await;
    let one = cluster.controller().await;
    one.connection.rule(|call| (call.plural == "leases").then_some(Fault::Hang));
    let began = Instant::now();
    one.ended().await.expect_err("it lost the Lease");
    assert!(began.elapsed() < Duration::from_secs(7), "it acted for {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_no_loss() {
    let cluster = cluster().await;
    let one = cluster.controller().await;
    let mut left = 1;
    one.connection.rule(move |call| {
        let hit = call.plural == "leases" && call.verb.writes() && left > 0;
        left -= u32::from(hit);
        hit.then_some(Fault::LoseAnswer)
    });
    sleep(30).await;
    one.connection.no_rule();
    one.stop().await.expect("it held the Lease all the time");
}

#[tokio::test(start_paused = true)]
async fn a_write_under_way_ends_before_the_lease_is_given_back() {
    let cluster = cluster().await;
    let one = cluster.controller().await;
    one.connection.rule(|call| is_allocation(call).then_some(Fault::Slow(Duration::from_secs(1))));
    let connection = one.connection.clone();
    cluster.api.create(pod("train", &["share"]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    one.stop().await.expect("it held the Lease to its end");
    assert_eq!(holder(&cluster), None);
    let writes = connection.writes();
    let at = |f: &dyn Fn(&Call) -> bool| writes.iter().rposition(f).expect("it was written");
    assert!(at(&is_allocation) < at(&|c| c.plural == "leases"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_given_back_while_an_allocation_may_still_take() {
    let cluster = cluster().await;
    let one = cluster.controller().await;
    // The API server takes the write and answers nothing any more.
    let mut silent = false;
    one.connection.rule(move |call| {
        let allocation = is_allocation(call);
        silent |= allocation;
        match (allocation, silent && call.plural != "leases") {
            (true, _) => Some(Fault::TakeLate(Duration::from_secs(4))),
            (false, true) => Some(Fault::Hang),
            (false, false) => None,
        }
    });
    cluster.api.create(pod("train", &["share"]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    one.stop().await.expect("it held the Lease to its end");
    assert_eq!(holder(&cluster).as_deref(), Some("one"), "the successor must wait");
    let _two = Controller::start(&cluster.api, "two");
    for _ in 0..30 {
        sleep(1).await;
        cluster.check_capacity();
    }
    assert!(cluster.bound("train").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_flips_with_writes_in_flight_promises_nothing_twice() {
    for late in [500, 2000, 4000, 6000, 8000] {
        let cluster = cluster().await;
        let one = cluster.controller().await;
        // Its allocation hangs on the way, and its renewals fail: another takes over.
        one.connection.rule(move |call| {
            if call.plural == "leases" {
                return Some(Fault::Refuse(500));
            }
            is_allocation(call).then_some(Fault::TakeLate(Duration::from_millis(late)))
        });
        cluster.api.create(pod("first", &["share"]));
        let two = Controller::start(&cluster.api, "two");
        sleep(1).await;
        cluster.api.create(pod("second", &["share"]));
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.check_capacity();
        }
        let bound = ["first", "second"].iter().filter(|p| cluster.bound(p).is_some()).count();
        assert_eq!(bound, 1, "late by {late} ms");
        drop((one, two));
    }
}
