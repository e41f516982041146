use super::*;
use crate::compute::{Enforcement, Terms};

const MS: u64 = 1_000_000;
const NOW: u64 = 1_000 * MS;

fn asking(cores: u32) -> View {
    let terms = Terms { cores, enforcement: Enforcement::Hard, ..Terms::default() };
    View { terms, waiting: true, balance: MS as i64, changed: NOW, ..View::default() }
}

fn working(cores: u32) -> View {
    View { waiting: false, busy: 1, ..asking(cores) }
}

/// Turns by share.
fn turns(arbiter: &mut Arbiter, now: u64, views: &[View]) -> Vec<Turn> {
    let views: Vec<(Id, View)> = (0..).zip(views.iter().copied()).collect();
    arbiter.evaluate(now, &views).0.iter().map(|n| n.turn).collect()
}

use Turn::{Denied, Held, Open};

#[test]
fn alone_nobody_needs_a_turn_and_nobody_looks_again() {
    let mut arbiter = Arbiter::default();
    let idle = View { changed: 0, ..View::default() };
    let (notices, next) = arbiter.evaluate(NOW, &[(0, working(30)), (1, idle)]);
    assert!(notices.iter().all(|n| n.turn == Open));
    assert_eq!(next, u64::MAX);
}

#[test]
fn of_two_that_are_at_it_one_goes_on_and_the_other_knows_of_it() {
    let mut arbiter = Arbiter::default();
    let views = [(0, working(30)), (1, working(70))];
    let (notices, next) = arbiter.evaluate(NOW, &views);
    let told: Vec<(Turn, u32)> = notices.iter().map(|n| (n.turn, n.neighbours)).collect();
    assert_eq!(told, [(Held, 1), (Denied, 1)]);
    assert!(next <= NOW + tuning::RECHECK);
}

#[test]
fn a_turn_ends_when_it_is_used_up_and_the_work_in_flight_is_waited_for() {
    let mut arbiter = Arbiter::default();
    assert_eq!(turns(&mut arbiter, NOW, &[working(50), asking(50)]), [Held, Denied]);
    // The other was charged for what it had in flight before, and is hardly behind.
    let (used, waits) = (View { charged: 20 * MS, ..working(50) }, View { charged: 16 * MS, ..asking(50) });
    assert_eq!(turns(&mut arbiter, NOW + 19 * MS, &[used, waits]), [Held, Denied]);
    assert_eq!(turns(&mut arbiter, NOW + 20 * MS, &[used, waits]), [Denied, Denied]);
    let drained = View { busy: 0, changed: NOW + 21 * MS, ..used };
    assert_eq!(turns(&mut arbiter, NOW + 21 * MS, &[drained, waits]), [Denied, Held]);
}

#[test]
fn a_turn_is_short_while_somebody_is_clearly_behind() {
    let mut arbiter = Arbiter::default();
    turns(&mut arbiter, NOW, &[working(50), asking(50)]);
    let used = |ms| View { charged: ms * MS, ..working(50) };
    assert_eq!(turns(&mut arbiter, NOW + 5 * MS, &[used(5), asking(50)]), [Held, Denied]);
    assert_eq!(turns(&mut arbiter, NOW + 6 * MS, &[used(6), asking(50)]), [Denied, Denied]);
}

#[test]
fn a_kernel_that_outlasts_its_turn_is_joined_after_the_patience() {
    let mut arbiter = Arbiter::default();
    turns(&mut arbiter, NOW, &[working(50), asking(50)]);
    let stuck = [View { charged: 0, ..working(50) }, asking(50)];
    let drained = NOW + 20 * MS;
    assert_eq!(turns(&mut arbiter, drained, &stuck), [Denied, Denied]);
    assert_eq!(turns(&mut arbiter, drained + tuning::PATIENCE - 1, &stuck), [Denied, Denied]);
    assert_eq!(turns(&mut arbiter, drained + tuning::PATIENCE, &stuck), [Denied, Held]);
}

#[test]
fn an_idle_holder_loses_its_turn_after_its_grace() {
    for (gap, grace) in [(0, tuning::GRACE), (2 * tuning::LONG_GAP, tuning::GRACE_SHORT)] {
        let mut arbiter = Arbiter::default();
        turns(&mut arbiter, NOW, &[working(50), asking(50)]);
        let idle = View { busy: 0, changed: NOW + MS, gap, ..working(50) };
        let at = NOW + MS + grace;
        assert_eq!(turns(&mut arbiter, at - 1, &[idle, asking(50)]), [Held, Denied]);
        assert_eq!(turns(&mut arbiter, at, &[idle, asking(50)]), [Denied, Held]);
    }
}

#[test]
fn a_holder_without_credit_gives_way_and_one_that_may_borrow_does_not() {
    for (enforcement, first) in [(Enforcement::Hard, Denied), (Enforcement::Elastic, Held)] {
        let mut arbiter = Arbiter::default();
        turns(&mut arbiter, NOW, &[working(50), asking(50)]);
        let mut broke = View { balance: -1, ..working(50) };
        broke.terms.enforcement = enforcement;
        assert_eq!(turns(&mut arbiter, NOW + MS, &[broke, asking(50)])[0], first);
    }
}

#[test]
fn who_waits_without_credit_is_not_next() {
    let mut arbiter = Arbiter::default();
    let broke = View { balance: 0, ..asking(50) };
    turns(&mut arbiter, NOW, &[working(50), broke]);
    assert_eq!(turns(&mut arbiter, NOW + 100 * MS, &[working(50), broke]), [Held, Denied]);
}

#[test]
fn a_higher_priority_joins_at_once() {
    let mut arbiter = Arbiter::default();
    turns(&mut arbiter, NOW, &[working(50), asking(50)]);
    let mut high = asking(10);
    high.terms.priority = Priority::High;
    let views = [(0, working(50)), (1, asking(50)), (2, high)];
    let (notices, _) = arbiter.evaluate(NOW + MS, &views);
    let told: Vec<(Turn, bool)> = notices.iter().map(|n| (n.turn, n.outranked)).collect();
    assert_eq!(told, [(Denied, true), (Denied, true), (Held, false)]);
}

#[test]
fn what_is_reserved_goes_before_what_is_not() {
    let mut arbiter = Arbiter::default();
    let views = [View { charged: 900 * MS, ..asking(0) }, View { charged: 0, ..asking(10) }];
    assert_eq!(turns(&mut arbiter, NOW, &views), [Denied, Held]);
}

#[test]
fn a_turn_held_and_not_used_counts_in_the_order() {
    let mut arbiter = Arbiter::default();
    // The first holds for 20 ms, uses 1 and goes idle; the second uses what it holds.
    turns(&mut arbiter, NOW, &[working(50), asking(50)]);
    let lazy = View { busy: 0, charged: MS, changed: NOW + 20 * MS, ..asking(50) };
    turns(&mut arbiter, NOW + 20 * MS, &[lazy, asking(50)]);
    assert_eq!(turns(&mut arbiter, NOW + 20 * MS, &[lazy, asking(50)]), [Denied, Held]);
    // After 4 ms of the second's turn the first still does not come first, though it used less.
    let second = View { charged: 4 * MS, ..working(50) };
    assert_eq!(turns(&mut arbiter, NOW + 24 * MS, &[lazy, second]), [Denied, Held]);
}

#[test]
fn who_was_away_does_not_come_back_with_all_the_time_it_missed() {
    let mut arbiter = Arbiter::default();
    let away = View { changed: 0, waiting: false, ..asking(50) };
    turns(&mut arbiter, NOW, &[working(50), away]);
    let later = NOW + 10_000 * MS;
    let old = View { charged: 10_000 * MS, changed: later, ..working(50) };
    turns(&mut arbiter, later, &[old, View { changed: later, ..asking(50) }]);
    let time = |id| arbiter.members.get(&id).map_or(0, |m: &Member| m.time);
    // Of what half of the GPU is reserved for, an hour counts as two.
    assert_eq!(time(0) - time(1), 2 * tuning::SAVED_IDLE.unsigned_abs());
}

#[test]
fn a_share_that_is_gone_holds_nothing() {
    let mut arbiter = Arbiter::default();
    arbiter.evaluate(NOW, &[(0, working(50)), (1, asking(50)), (2, asking(50))]);
    let (notices, _) = arbiter.evaluate(NOW + MS, &[(1, asking(50)), (2, asking(50))]);
    assert_eq!(notices.iter().map(|n| n.turn).collect::<Vec<_>>(), [Held, Denied]);
}

#[test]
fn what_is_promised_twice_is_divided_among_those_who_let_it_be() {
    let over = |cores| View { oversubscribed: true, ..asking(cores) };
    let away = View { waiting: false, changed: 0, ..over(100) };
    for (views, want) in [
        // As long as all fit, everybody has what was promised.
        (vec![asking(60), over(40)], vec![60_000, 40_000]),
        (vec![asking(60), over(80)], vec![60_000, 40_000]),
        (vec![asking(50), over(60), over(40)], vec![50_000, 30_000, 20_000]),
        (vec![over(100), over(100), over(50)], vec![40_000, 40_000, 20_000]),
        // Who wants nothing now takes nothing.
        (vec![asking(60), over(40), away], vec![60_000, 40_000, 100_000]),
        // Firm ones that were promised more than there is are in proportion, and nobody has nothing.
        (vec![asking(80), asking(80), over(40)], vec![80_000, 80_000, tuning::LEAST_WEIGHT]),
        (vec![asking(100), asking(0)], vec![100_000, tuning::LEAST_WEIGHT]),
    ] {
        let mut arbiter = Arbiter::default();
        let named: Vec<(Id, View)> = (0..).zip(views.iter().copied()).collect();
        arbiter.evaluate(NOW, &named);
        let got: Vec<u64> = arbiter.members.values().map(|m| m.weight).collect();
        assert_eq!(got, want, "{views:?}");
    }
}
