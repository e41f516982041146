use super::*;
use crate::compute::{Enforcement, Priority};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const KEY: Key = Key { function: 1, grid: [1; 3], block: [32, 1, 1] };

#[derive(Default)]
struct Bench {
    tenant: Tenant,
    lease: Lease,
    terms: Terms,
}

impl Bench {
    fn capped(cores: u32) -> Self {
        let terms = Terms { cores, enforcement: Enforcement::Hard, priority: Priority::Normal };
        Self { terms, ..Self::default() }
    }

    fn share(&self) -> Share<'_> {
        Share { terms: self.terms, tenant: &self.tenant, lease: &self.lease }
    }

    /// Asks, plans and launches.
    fn launch(&self, gate: &mut Gate, now: u64, key: &Key) -> Verdict {
        let verdict = gate.ask(now, &self.share(), key);
        if verdict == Verdict::Launch {
            gate.plan(now, &self.share(), key);
            gate.launched(now, &self.share(), key);
        }
        verdict
    }

    /// A gate that knows how long its kernel takes.
    fn taught(&self, now: u64, nanos: u64) -> Gate {
        let mut gate = Gate::new(0);
        assert_eq!(self.launch(&mut gate, now, &KEY), Verdict::Launch);
        gate.harvest(now + nanos, &self.share(), now, now + nanos);
        gate.estimates.learn(KEY, tuning::TRIAL, nanos * u64::from(tuning::TRIAL));
        gate
    }
}

#[test]
fn nothing_follows_a_function_that_was_never_measured() {
    let bench = Bench::capped(50);
    let mut gate = Gate::new(0);
    assert_eq!(bench.launch(&mut gate, MS, &KEY), Verdict::Launch);
    assert_eq!(gate.in_flight(), 1, "its epoch ends with it");
    assert!(matches!(gate.ask(2 * MS, &bench.share(), &KEY), Verdict::Wait(_)));
    assert!(matches!(gate.ask(900 * MS, &bench.share(), &KEY), Verdict::Wait(_)));
}

#[test]
fn a_function_that_was_short_once_is_not_trusted_at_once() {
    let bench = Bench::default();
    let mut gate = Gate::new(0);
    let mut now = MS;
    for most in [1, 1, 2, 4, 8] {
        now += MS;
        let launched = (0..100).take_while(|_| bench.launch(&mut gate, now, &KEY) == Verdict::Launch).count();
        assert_eq!(launched, most);
        gate.close(&bench.share());
        let end = now + 10 * US * launched as u64;
        gate.harvest(end, &bench.share(), now, end);
    }
}

#[test]
fn short_kernels_share_an_epoch_until_it_is_long_enough() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 100 * US);
    let closed: Vec<bool> = (0..5)
        .map(|n| {
            let now = 2 * MS + n * US;
            assert_eq!(gate.ask(now, &bench.share(), &KEY), Verdict::Launch);
            let plan = gate.plan(now, &bench.share(), &KEY);
            assert_eq!(plan, Plan { end: false, start: n == 0 });
            gate.launched(now, &bench.share(), &KEY)
        })
        .collect();
    assert_eq!(closed, [false, false, false, false, true]);
}

#[test]
fn no_more_is_in_flight_than_the_bound() {
    let bench = Bench::default();
    let mut gate = bench.taught(MS, MS);
    let now = 10 * MS;
    let launched = (0..100).take_while(|_| bench.launch(&mut gate, now, &KEY) == Verdict::Launch).count();
    assert_eq!(launched as u64, tuning::FLIGHT / MS);
}

#[test]
fn a_kernel_longer_than_the_bound_leaves_no_gap_behind_it() {
    let bench = Bench::default();
    let mut gate = bench.taught(MS, 10 * MS);
    assert_eq!(bench.launch(&mut gate, 20 * MS, &KEY), Verdict::Launch);
    assert!(matches!(gate.ask(28 * MS, &bench.share(), &KEY), Verdict::Wait(_)));
    assert_eq!(gate.ask(29 * MS + 1, &bench.share(), &KEY), Verdict::Launch);
}

#[test]
fn a_share_without_credit_waits_for_a_useful_amount() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(1_000 * MS, 100 * MS);
    // 20 ms saved, 100 ms used, 50 ms earned meanwhile.
    let Verdict::Wait(until) = gate.ask(1_100 * MS, &bench.share(), &KEY) else { panic!("not blocked") };
    assert_eq!(until, 1_100 * MS + tuning::RECHECK);
    assert!(matches!(gate.ask(1_160 * MS, &bench.share(), &KEY), Verdict::Wait(_)));
    assert!(bench.tenant.blocked.has(0));
    assert_eq!(gate.ask(1_161 * MS, &bench.share(), &KEY), Verdict::Launch);
    assert!(bench.tenant.blocked.is_empty());
}

#[test]
fn a_denied_share_says_that_it_waits_and_rings_once() {
    let bench = Bench::default();
    let mut gate = bench.taught(MS, 100 * US);
    gate.take_ring();
    bench.lease.publish(2 * MS, Turn::Denied, false, 0);
    for _ in 0..2 {
        let verdict = gate.ask(2 * MS, &bench.share(), &KEY);
        assert_eq!(verdict, Verdict::WaitForTurn(2 * MS + tuning::RECHECK));
    }
    assert!(bench.tenant.waiting.has(0));
    assert!(gate.take_ring());
    assert!(!gate.take_ring());
    bench.lease.publish(3 * MS, Turn::Held, false, 0);
    assert_eq!(gate.ask(3 * MS, &bench.share(), &KEY), Verdict::Launch);
    assert!(bench.tenant.waiting.is_empty());
}

#[test]
fn the_charge_is_what_was_measured_and_not_what_was_thought() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 100 * US);
    let before = bench.tenant.balance(2 * MS, bench.terms, false);
    bench.launch(&mut gate, 2 * MS, &KEY);
    assert!(gate.close(&bench.share()));
    gate.harvest(2 * MS, &bench.share(), 2 * MS, 2 * MS + 300 * US);
    assert_eq!(bench.tenant.balance(2 * MS, bench.terms, false), before - 300_000);
    assert_eq!(bench.tenant.account.charged.load(Ordering::Relaxed), 400_000);
}

#[test]
fn a_kernel_that_never_ends_is_charged_as_it_runs_and_once() {
    let bench = Bench::default();
    let mut gate = bench.taught(MS, MS);
    bench.launch(&mut gate, 10 * MS, &KEY);
    for now in [60 * MS, 61 * MS, 200 * MS] {
        gate.settle(now, &bench.share());
    }
    let charged = || bench.tenant.account.charged.load(Ordering::Relaxed);
    assert_eq!(charged(), MS + 190 * MS);
    gate.harvest(300 * MS, &bench.share(), 10 * MS, 300 * MS);
    assert_eq!(charged(), MS + 290 * MS);
}

#[test]
fn an_epoch_without_launches_is_closed() {
    let bench = Bench::default();
    let mut gate = bench.taught(MS, 10 * US);
    bench.launch(&mut gate, 2 * MS, &KEY);
    assert!(!gate.close_idle(2 * MS + tuning::EPOCH_IDLE - 1, &bench.share()));
    assert!(gate.close_idle(2 * MS + tuning::EPOCH_IDLE, &bench.share()));
    assert!(bench.tenant.busy.has(0));
    gate.harvest(3 * MS, &bench.share(), 2 * MS, 2 * MS + 10 * US);
    assert!(bench.tenant.is_idle());
}

#[test]
fn launches_of_an_open_epoch_write_nothing_that_is_shared() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 10 * US);
    let now = 100 * MS;
    assert_eq!(bench.launch(&mut gate, now, &KEY), Verdict::Launch);
    let words = |tenant: &Tenant| format!("{tenant:?}");
    let before = words(&bench.tenant);
    for n in 1..20 {
        assert_eq!(bench.launch(&mut gate, now + n * 3 * US, &KEY), Verdict::Launch);
    }
    assert_eq!(words(&bench.tenant), before);
}

#[test]
fn what_is_left_of_the_credit_is_not_granted_twice() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(1_000 * MS, 10 * US);
    bench.tenant.balance(1_001 * MS, bench.terms, false);
    bench.tenant.credit(45 * US as i64 - bench.tenant.balance(1_001 * MS, bench.terms, false));
    let granted =
        (0..100).take_while(|_| bench.launch(&mut gate, 1_001 * MS, &KEY) == Verdict::Launch).count();
    // As long as there is any credit: the last one goes into debt.
    assert_eq!(granted, 5);
}

#[test]
fn an_epoch_that_is_lost_stays_paid_and_its_kind_is_measured_by_itself() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 10 * US);
    bench.launch(&mut gate, 2 * MS, &KEY);
    assert!(!gate.is_done(2 * MS + 9 * US));
    assert!(gate.is_done(2 * MS + 10 * US));
    let before = bench.tenant.balance(3 * MS, bench.terms, false);
    assert!(gate.close(&bench.share()));
    gate.lose(3 * MS, &bench.share());
    assert_eq!(bench.tenant.balance(3 * MS, bench.terms, false), before - 10_000);
    assert!(gate.is_empty() && bench.tenant.is_idle());
    bench.launch(&mut gate, 4 * MS, &KEY);
    assert_eq!(gate.in_flight(), 1, "its epoch ends with it");
}

/// Launches at a moment, and lends what else fits.
fn lend(bench: &Bench, gate: &mut Gate, now: u64) -> Option<Loan> {
    assert_eq!(bench.launch(gate, now, &KEY), Verdict::Launch);
    gate.lend(now, &bench.share(), &KEY)
}

#[test]
fn a_loan_is_paid_for_and_what_was_not_launched_of_it_is_given_back() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 10 * US);
    let loan = lend(&bench, &mut gate, 2 * MS).unwrap();
    // Half a millisecond less the launch before.
    assert_eq!((loan.launches, loan.each), (49, 10 * US));
    let balance = || bench.tenant.balance(2 * MS, bench.terms, false);
    let before = balance();
    assert!(gate.close(&bench.share()));
    assert_eq!(balance(), before - 500 * US as i64);
    gate.take_back(2 * MS, Some(0), &bench.share(), loan, 20);
    assert_eq!(balance(), before - 300 * US as i64);
    gate.harvest(3 * MS, &bench.share(), 2 * MS, 2 * MS + 310 * US);
    assert_eq!(bench.tenant.account.charged.load(Ordering::Relaxed), 10 * US + 310 * US);
}

#[test]
fn what_is_lent_is_not_granted_twice() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(1_000 * MS, 10 * US);
    let now = 1_001 * MS;
    let balance = bench.tenant.balance(now, bench.terms, false);
    bench.tenant.credit(45 * US as i64 - balance);
    let loan = lend(&bench, &mut gate, now).unwrap();
    assert_eq!(loan.launches, 3);
    let more = (0..100).take_while(|_| bench.launch(&mut gate, now, &KEY) == Verdict::Launch).count();
    // As without a loan: five, of which the last goes into debt.
    assert_eq!(more, 1);
}

#[test]
fn what_is_lent_counts_as_in_flight() {
    let bench = Bench::default();
    let mut gate = bench.taught(MS, 100 * US);
    let now = 10 * MS;
    let mut launches = 0;
    while bench.launch(&mut gate, now, &KEY) == Verdict::Launch {
        launches += 1 + gate.lend(now, &bench.share(), &KEY).map_or(0, |loan| u64::from(loan.launches));
    }
    assert_eq!(launches, tuning::FLIGHT / (100 * US));
}

#[test]
fn nothing_is_lent_of_what_is_not_known_well_or_to_a_share_whose_turn_it_is_not() {
    let bench = Bench::capped(50);
    let mut gate = Gate::new(0);
    assert_eq!(lend(&bench, &mut gate, MS), None);
    let bench = Bench::capped(50);
    let mut gate = bench.taught(2 * MS, 10 * US);
    gate.estimates.lost(&KEY);
    assert_eq!(lend(&bench, &mut gate, 3 * MS), None);
    let mut gate = bench.taught(4 * MS, 10 * US);
    bench.launch(&mut gate, 5 * MS, &KEY);
    bench.lease.publish(5 * MS, Turn::Denied, false, 0);
    assert_eq!(gate.lend(5 * MS, &bench.share(), &KEY), None);
}

#[test]
fn an_epoch_that_is_overtaken_loses_no_time() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 10 * US);
    let loan = lend(&bench, &mut gate, 2 * MS).unwrap();
    gate.close(&bench.share());
    bench.launch(&mut gate, 2 * MS + 100 * US, &KEY);
    gate.close(&bench.share());
    let charged = || bench.tenant.account.charged.load(Ordering::Relaxed);
    let before = charged();
    gate.harvest_at(1, 3 * MS, &bench.share(), (2 * MS + 500 * US, 2 * MS + 600 * US), false);
    assert_eq!(charged() - before, 100 * US);
    gate.take_back(3 * MS, Some(0), &bench.share(), loan, 0);
    gate.harvest_at(0, 3 * MS, &bench.share(), (2 * MS, 2 * MS + 700 * US), false);
    // Its estimate: what ran before the other is nowhere else.
    assert_eq!(charged() - before, 100 * US + 500 * US);
}

#[test]
fn an_epoch_beside_others_is_charged_all_that_lies_between_its_events() {
    for (crowded, want) in [(false, 500), (true, 1_000)] {
        let bench = Bench::capped(50);
        let mut gate = bench.taught(MS, 10 * US);
        let loan = lend(&bench, &mut gate, 2 * MS).unwrap();
        gate.take_back(3 * MS, None, &bench.share(), loan, 0);
        gate.close(&bench.share());
        let before = bench.tenant.account.charged.load(Ordering::Relaxed);
        gate.harvest_at(0, 4 * MS, &bench.share(), (2 * MS, 3 * MS), crowded);
        let charged = bench.tenant.account.charged.load(Ordering::Relaxed) - before;
        assert_eq!(charged, want * US, "crowded: {crowded}");
    }
}

/// Charged for half a millisecond of kernels on loan, launched within so long, between events a millisecond apart.
fn charged_for_a_millisecond(within: u64) -> (u64, Gate, Bench) {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 10 * US);
    let loan = lend(&bench, &mut gate, 2 * MS).unwrap();
    gate.take_back(2 * MS + within, None, &bench.share(), loan, 0);
    gate.close(&bench.share());
    let before = bench.tenant.account.charged.load(Ordering::Relaxed);
    let balance = bench.tenant.balance(2 * MS, bench.terms, false);
    gate.harvest(4 * MS, &bench.share(), 2 * MS, 3 * MS);
    let charged = bench.tenant.account.charged.load(Ordering::Relaxed) - before;
    let moved = bench.tenant.balance(2 * MS, bench.terms, false) - balance;
    assert_eq!(moved, 500 * US as i64 - charged as i64, "half a millisecond was paid beforehand");
    (charged, gate, bench)
}

#[test]
fn kernels_on_loan_that_turn_out_long_are_paid_for() {
    assert_eq!(charged_for_a_millisecond(100 * US).0, 900 * US);
}

#[test]
fn a_pause_on_loan_is_not_paid_for_and_nothing_is_learnt_from_it() {
    let (charged, mut gate, bench) = charged_for_a_millisecond(900 * US);
    assert_eq!(charged, 500 * US);
    assert_eq!(gate.estimates.get(&KEY), Some(10 * US));
    assert_eq!(lend(&bench, &mut gate, 5 * MS), None, "the next are measured by themselves");
}

#[test]
fn epochs_on_loan_that_are_lost_are_cheap_for_a_while() {
    let bench = Bench::capped(50);
    let mut gate = bench.taught(MS, 10 * US);
    let mut now = 2 * MS;
    let mut lent = 0;
    while let Some(loan) = lend(&bench, &mut gate, now) {
        gate.take_back(now, None, &bench.share(), loan, 0);
        gate.close(&bench.share());
        gate.lose(now, &bench.share());
        now += 10 * MS;
        lent += 1;
    }
    assert_eq!(lent, tuning::SKIPPED);
}
