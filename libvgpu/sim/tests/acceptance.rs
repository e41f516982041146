//! What is asked of the compute controller, on a simulated GPU of 2 ms slices with an arbiter 150 us away.
//!
//! One seed and a choice of caps; the bench `metering` plays all of them.

use vgpu_core::compute::{Enforcement, Priority};
use vgpu_sim::gpu::Slicing;
use vgpu_sim::measure::jain;
use vgpu_sim::pattern::{DECODING, Pattern, SYNCHRONISING};
use vgpu_sim::suite::{self, CAPS, LENGTHS, WARM_UP, elastic, hard, oversubscribed, pair, pairs, tenant};
use vgpu_sim::world::{Change, Control, Scene, TenantSpec};
use vgpu_sim::{MS, SECOND, US};

const SHORT: Pattern = Pattern::Saturating(100 * US);

#[test]
fn a_cap_alone_is_met_by_kernels_of_every_length() {
    for (name, length) in LENGTHS {
        for cap in [5, 30, 70, 95] {
            let judged = suite::alone(Control::Leases, &Pattern::Saturating(length), cap, 1);
            // A kernel is a tenth of the second and a second holds whole kernels.
            let window = if length > 10 * MS { 5.05 } else { 2.0 };
            assert!(judged.mean_error() <= 1.0 && judged.error <= window, "{name} at {cap}: {judged:?}");
            assert!(judged.over() <= 0.5, "{name} at {cap}: {judged:?}");
            assert!(judged.mean >= 0.97 * judged.cap, "{name} at {cap}: {judged:?}");
        }
    }
}

#[test]
fn a_cap_alone_is_met_by_programs_that_wait_or_mix() {
    let bursts = Pattern::Bursts { kernel: MS, count: 30, think: 10 * MS };
    for pattern in [SYNCHRONISING, Pattern::Mix, Pattern::Bimodal(50 * US, 20 * MS), bursts] {
        for cap in [5, 30, 70] {
            let judged = suite::alone(Control::Leases, &pattern, cap, 1);
            assert!(judged.mean_error() <= 1.0 && judged.error <= 2.0, "{pattern:?} at {cap}: {judged:?}");
            assert!(judged.over() <= 0.5, "{pattern:?} at {cap}: {judged:?}");
        }
    }
}

#[test]
fn contending_tenants_get_their_shares() {
    let (mut errors, mut count) = (0.0, 0.0);
    for (name, first, second) in pairs() {
        for caps in CAPS {
            let (judged, lost) = suite::contending(&pair(Control::Leases, caps, &first, &second, 1));
            let waits = name.contains("synchronising");
            assert!(waits || lost <= 2.0, "{name} {caps:?}: {lost} % lost");
            for tenant in judged {
                assert!(tenant.mean_error() <= 2.0, "{name} {caps:?}: {tenant:?}");
                let window = if name.contains("two lengths") { 4.0 } else { 2.0 };
                assert!(tenant.error <= window, "{name} {caps:?}: {tenant:?}");
                assert!(tenant.over() <= 0.5, "{name} {caps:?}: {tenant:?}");
                errors += tenant.mean_error();
                count += 1.0;
            }
        }
    }
    assert!(errors / count <= 1.0, "mean error {}", errors / count);
}

#[test]
fn shares_do_not_depend_on_the_slice() {
    for slice in [1, 2, 6, 30] {
        for first in [SHORT, SYNCHRONISING] {
            let mut scene = pair(Control::Leases, (30, 70), &first, &SHORT, 1);
            scene.slicing = Slicing { slice: slice * MS, ..Slicing::default() };
            let (judged, _) = suite::contending(&scene);
            for tenant in judged {
                assert!(tenant.mean_error() <= 1.5, "slices of {slice} ms: {tenant:?}");
            }
        }
    }
}

#[test]
fn four_equal_tenants_get_equal_shares() {
    let shares = suite::four(Control::Leases, 1);
    assert!(jain(&shares) >= 0.99, "{shares:?}");
}

#[test]
fn many_processes_of_a_tenant_get_no_more_than_one() {
    let tenants = vec![hard(50, &[SHORT, SHORT, SHORT, SHORT]), hard(50, &[SHORT])];
    let record = Scene::new(Control::Leases, tenants).play();
    let (many, one) = (record.mean(0, WARM_UP), record.mean(1, WARM_UP));
    assert!((44.0..=50.5).contains(&many), "{many}");
    assert!((48.5..=50.5).contains(&one), "{one}");
}

#[test]
fn a_holder_that_its_own_bucket_blocks_gives_its_turn_away() {
    let (judged, _) = suite::contending(&pair(Control::Leases, (70, 30), &DECODING, &SHORT, 1));
    // 5 ms of 6 on the GPU, alone.
    assert!(judged[0].mean >= 0.95 * 0.7 * 83.0, "{judged:?}");
    assert!(judged[1].mean_error() <= 1.0, "{judged:?}");
}

#[test]
fn a_changed_limit_acts_within_100_ms() {
    let delay = suite::limit_change(Control::Leases, 1);
    assert!(delay.is_some_and(|d| d <= 100), "{delay:?} ms");
}

#[test]
fn high_priority_requests_take_hardly_longer_than_alone() {
    let (alone, _) = suite::high(Control::Leases, None, 1);
    let (beside, rest) = suite::high(Control::Leases, Some(100 * US), 1);
    assert!(beside <= alone + 2 * MS, "{alone} ns alone, {beside} beside");
    assert!(rest >= 65.0, "the low one keeps {rest} %");
}

#[test]
fn an_elastic_share_borrows_idle_time_and_gives_it_back() {
    let early = Pattern::During(0, 4 * SECOND, Box::new(SHORT));
    let late = Pattern::During(8 * SECOND, 12 * SECOND, Box::new(SHORT));
    let tenants = vec![elastic(50, &[SHORT]), elastic(50, &[early, late])];
    let record = Scene::new(Control::Leases, tenants).play();
    let borrowed = record.share(0, 4_100 * MS, 8 * SECOND);
    let returned = record.share(1, 8_050 * MS, 9 * SECOND);
    assert!(borrowed >= 99.0, "{borrowed}");
    assert!((48.0..=52.0).contains(&returned), "{returned}");
}

#[test]
fn a_share_without_a_reservation_gets_what_is_left() {
    let none = tenant(0, Enforcement::None, Priority::Normal, &[SHORT]);
    let record = Scene::new(Control::Leases, vec![hard(50, &[SHORT]), none]).play();
    let (reserved, rest) = (record.mean(0, WARM_UP), record.mean(1, WARM_UP));
    assert!((48.5..=50.5).contains(&reserved), "{reserved}");
    assert!(rest >= 44.0, "{rest}");
}

#[test]
fn of_a_gpu_promised_twice_firm_shares_have_theirs_and_the_others_divide_the_rest() {
    let over = |cores: u32, how: fn(u32, &[Pattern]) -> TenantSpec| oversubscribed(how(cores, &[SHORT]));
    let firm = |cores: u32, how: fn(u32, &[Pattern]) -> TenantSpec| how(cores, &[SHORT]);
    for (tenants, want) in [
        (vec![over(80, hard), over(80, hard)], vec![50.0, 50.0]),
        (vec![over(60, elastic), over(90, elastic)], vec![40.0, 60.0]),
        (vec![over(100, hard), over(100, elastic), over(50, hard)], vec![40.0, 40.0, 20.0]),
        (vec![firm(60, hard), over(80, hard)], vec![60.0, 40.0]),
        (vec![firm(50, hard), over(60, elastic), over(40, hard)], vec![50.0, 30.0, 20.0]),
        (vec![firm(20, elastic), over(60, hard), over(100, elastic)], vec![20.0, 30.0, 50.0]),
    ] {
        let record = Scene::new(Control::Leases, tenants).play();
        let got: Vec<f64> = (0..want.len()).map(|t| record.mean(t, WARM_UP)).collect();
        let near = got.iter().zip(&want).all(|(got, want): (&f64, &f64)| (got - want).abs() <= 1.5);
        assert!(near, "{got:.2?} of {want:?}");
    }
}

#[test]
fn a_promise_that_shrank_is_whole_again_when_the_others_are_idle() {
    let early = Pattern::During(0, 6 * SECOND, Box::new(SHORT));
    let tenants = vec![oversubscribed(hard(80, &[SHORT])), oversubscribed(hard(80, &[early]))];
    let record = Scene::new(Control::Leases, tenants).play();
    // The quarter of a second it saved up is spent 1.25 seconds later.
    let (beside, alone) = (record.share(0, WARM_UP, 6 * SECOND), record.share(0, 8 * SECOND, 12 * SECOND));
    assert!((beside - 50.0).abs() <= 1.5 && (alone - 80.0).abs() <= 1.0, "{beside} and {alone}");
}

#[test]
fn a_killed_holder_or_waiter_delays_its_neighbour_by_a_turn() {
    for step in 0..20 {
        for kernel in [100 * US, 10 * MS] {
            let tenants = vec![elastic(50, &[Pattern::Saturating(kernel)]), elastic(50, &[SHORT])];
            let mut scene = Scene { length: 4 * SECOND, ..Scene::new(Control::Leases, tenants) };
            let at = 3 * SECOND + step * 2_137 * US;
            scene.changes.push((at, Change::Kill(0)));
            let record = scene.play();
            let delay = record.longest_delay(1, at, at + SECOND);
            assert!(delay <= 45 * MS, "killed at {at} with {kernel} ns kernels: {delay} ns");
            let after = record.share(1, 3_200 * MS, 4 * SECOND);
            assert!(after >= 99.0, "killed at {at}: {after} %");
        }
    }
}

#[test]
fn without_the_arbiter_caps_hold_and_nobody_waits_for_ever() {
    let mut scene = pair(Control::Leases, (30, 70), &SHORT, &Pattern::Saturating(10 * MS), 1);
    scene.changes.push((3 * SECOND, Change::StopArbiter));
    let record = scene.play();
    for (tenant, cap) in [(0, 30.0), (1, 70.0)] {
        let share = record.share(tenant, 4 * SECOND, 12 * SECOND);
        assert!(share <= cap + 0.5 && share >= cap * 0.3, "{share} of {cap}");
    }
}

#[test]
fn kernels_that_outlast_their_turn_do_not_stop_the_others() {
    let mut scene = pair(Control::Leases, (30, 70), &Pattern::Saturating(SECOND), &SHORT, 1);
    scene.length = 42 * SECOND;
    let record = scene.play();
    assert!(record.longest_delay(1, WARM_UP, scene.length) <= 60 * MS);
    assert!(record.mean(1, WARM_UP) >= 60.0, "{}", record.mean(1, WARM_UP));
    assert!(record.mean(0, WARM_UP) <= 30.5, "{}", record.mean(0, WARM_UP));
}

#[test]
fn a_run_is_decided_by_its_seed() {
    let shares = |seed| {
        let mut scene = pair(Control::Leases, (30, 70), &Pattern::Mix, &Pattern::Mix, seed);
        scene.length = 3 * SECOND;
        let record = scene.play();
        (record.charged.clone(), record.share(0, 0, 3 * SECOND))
    };
    assert_eq!(shares(7), shares(7));
    assert_ne!(shares(7), shares(8));
}
