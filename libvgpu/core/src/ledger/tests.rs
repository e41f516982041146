use std::collections::HashSet;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// Locks in memory: a dead holder's are taken away by hand.
#[derive(Default)]
struct Locks(Mutex<HashSet<u32>>);

impl SlotLocks for Locks {
    fn try_hold(&self, slot: u32) -> bool {
        self.0.lock().unwrap().insert(slot)
    }
    fn release(&self, slot: u32) {
        self.0.lock().unwrap().remove(&slot);
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn a_reservation_that_would_pass_the_limit_charges_nothing() {
    let (region, locks) = (Region::default(), Locks::default());
    let ledger = Ledger::attach(&region, &locks, 1).unwrap();
    assert!(ledger.reserve(60 * MIB, 100 * MIB));
    assert!(!ledger.reserve(60 * MIB, 100 * MIB));
    assert_eq!((ledger.used(), ledger.own()), (60 * MIB, 60 * MIB));
    assert!(ledger.reserve(40 * MIB, 100 * MIB));
    assert!(!ledger.reserve(1, 100 * MIB));
}

#[test]
fn what_fits_can_be_taken_in_part() {
    let (region, locks) = (Region::default(), Locks::default());
    let ledger = Ledger::attach(&region, &locks, 1).unwrap();
    assert_eq!(ledger.reserve_up_to(150 * MIB, 100 * MIB), 100 * MIB);
    assert_eq!(ledger.reserve_up_to(1, 100 * MIB), 0);
}

#[test]
fn a_dead_process_gives_everything_back() {
    let (region, locks) = (Region::default(), Locks::default());
    let dead = Ledger::attach(&region, &locks, 1).unwrap();
    let living = Ledger::attach(&region, &locks, 2).unwrap();
    dead.reserve(60 * MIB, 100 * MIB);
    living.reserve(30 * MIB, 100 * MIB);
    locks.release(dead.slot);
    assert!(!living.reserve(20 * MIB, 100 * MIB));
    assert!(living.reap(&locks));
    assert_eq!(living.used(), 30 * MIB);
    assert!(living.reserve(70 * MIB, 100 * MIB));
}

#[test]
fn a_slot_taken_over_starts_empty() {
    let (region, locks) = (Region::default(), Locks::default());
    let first = Ledger::attach(&region, &locks, 1).unwrap();
    first.reserve(60 * MIB, 100 * MIB);
    locks.release(first.slot);
    let second = Ledger::attach(&region, &locks, 1).unwrap();
    assert_eq!((second.slot, second.used(), second.own()), (first.slot, 0, 0));
}

/// Does the first `steps` of the four steps of a change by hand and dies there.
fn die_after(region: &Region, slot: u32, delta: i64, steps: u32) {
    let record = &region.slots[slot as usize];
    let sequence = unpack(record.charge.load(Ordering::Relaxed)).1 + 1;
    if steps >= 1 {
        record.intent.store(pack(delta, sequence), Ordering::Relaxed);
    }
    if steps >= 2 {
        let word = Word::of(region.memory.0.ledger.load(Ordering::Relaxed));
        let units = u32::try_from(i64::from(word.units) + delta).unwrap();
        region.memory.0.ledger.store(Word { units, slot, sequence }.raw(), Ordering::Relaxed);
    }
    if steps >= 3 {
        let (value, _) = unpack(record.charge.load(Ordering::Relaxed));
        record.charge.store(pack(value + delta, sequence), Ordering::Relaxed);
    }
}

#[test]
fn killed_at_any_step_of_any_change_nothing_stays_charged() {
    for delta in [8, -4] {
        for steps in 0..=3 {
            for others_change_first in [false, true] {
                let (region, locks) = (Region::default(), Locks::default());
                let dead = Ledger::attach(&region, &locks, 1).unwrap();
                let living = Ledger::attach(&region, &locks, 2).unwrap();
                dead.reserve(16 * UNIT, MIB);
                living.reserve(5 * UNIT, MIB);
                die_after(&region, dead.slot, delta, steps);
                if others_change_first {
                    living.reserve(UNIT, MIB);
                    living.release(UNIT);
                }
                locks.release(dead.slot);
                living.reap(&locks);
                assert_eq!(living.used(), 5 * UNIT, "change {delta}, killed after step {steps}");
            }
        }
    }
}

#[test]
fn a_reaper_killed_at_any_step_is_followed_by_the_next() {
    for steps in 0..=3 {
        let (region, locks) = (Region::default(), Locks::default());
        let dead = Ledger::attach(&region, &locks, 1).unwrap();
        let living = Ledger::attach(&region, &locks, 2).unwrap();
        dead.reserve(16 * UNIT, MIB);
        locks.release(dead.slot);
        die_after(&region, dead.slot, -16, steps);
        living.reap(&locks);
        assert_eq!(living.used(), 0, "reaper killed after step {steps}");
    }
}

#[test]
fn racing_threads_never_pass_the_limit_and_end_at_zero() {
    const LIMIT: u64 = 64 * UNIT;
    let (region, locks) = (Region::default(), Locks::default());
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (region, locks) = (&region, &locks);
            scope.spawn(move || {
                let ledger = Ledger::attach(region, locks, thread as u32 + 1).unwrap();
                for round in 0..20_000u64 {
                    let bytes = (1 + (round * 7 + thread * 3) % 30) * UNIT;
                    if ledger.reserve(bytes, LIMIT) {
                        assert!(ledger.used() <= LIMIT);
                        ledger.release(bytes);
                    }
                }
                assert_eq!(ledger.own(), 0);
            });
        }
    });
    assert_eq!(Word::of(region.memory.0.ledger.load(Ordering::Relaxed)).units, 0);
}

#[test]
fn threads_of_one_process_share_its_slot() {
    const LIMIT: u64 = 64 * UNIT;
    let (region, locks) = (Region::default(), Locks::default());
    let ledger = Ledger::attach(&region, &locks, 1).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let ledger = &ledger;
            scope.spawn(move || {
                for round in 0..20_000u64 {
                    let bytes = (1 + (round * 7 + thread * 3) % 30) * UNIT;
                    if ledger.reserve(bytes, LIMIT) {
                        ledger.release(bytes);
                    }
                }
            });
        }
    });
    locks.release(ledger.slot);
    let next = Ledger::attach(&region, &locks, 1).unwrap();
    assert_eq!((ledger.own(), next.used(), next.own()), (0, 0, 0));
}

#[test]
fn what_is_in_use_already_is_charged_past_the_limit() {
    let (region, locks) = (Region::default(), Locks::default());
    let ledger = Ledger::attach(&region, &locks, 1).unwrap();
    ledger.charge(8 * UNIT);
    assert!(!ledger.reserve(UNIT, 4 * UNIT));
    ledger.release(8 * UNIT);
    assert!(ledger.reserve(4 * UNIT, 4 * UNIT));
}

#[test]
fn what_lies_on_the_host_has_a_limit_of_its_own_and_goes_with_its_process() {
    let (region, locks) = (Region::default(), Locks::default());
    let (one, other) =
        (Ledger::attach(&region, &locks, 1).unwrap(), Ledger::attach(&region, &locks, 2).unwrap());
    let (one_host, other_host) = (one.on_host(), other.on_host());
    assert!(one.reserve(10 * UNIT, 10 * UNIT) && !other.reserve(UNIT, 10 * UNIT));
    assert_eq!(other_host.reserve_up_to(30 * UNIT, 20 * UNIT), 20 * UNIT);
    assert!(!one_host.reserve(UNIT, 20 * UNIT));
    locks.release(other.slot());
    assert!(one.reap(&locks));
    assert_eq!((one.used(), one_host.used(), one_host.others_hold()), (10 * UNIT, 0, false));
    locks.release(one.slot());
    let next = Ledger::attach(&region, &locks, 1).unwrap();
    assert_eq!((next.used(), next.on_host().used()), (0, 0));
}

#[test]
fn what_a_dead_process_said_of_its_work_goes_with_it() {
    let (region, locks) = (Region::default(), Locks::default());
    let (one, other) =
        (Ledger::attach(&region, &locks, 1).unwrap(), Ledger::attach(&region, &locks, 2).unwrap());
    for ledger in [&one, &other] {
        region.compute.busy.set(ledger.slot(), true);
        region.compute.waiting.set(ledger.slot(), true);
    }
    locks.release(other.slot());
    assert!(one.reap(&locks));
    assert_eq!(region.compute.present().collect::<Vec<_>>(), [one.slot(); 2]);
}

#[test]
fn only_what_others_hold_has_to_be_looked_for() {
    let (region, locks) = (Region::default(), Locks::default());
    let one = Ledger::attach(&region, &locks, 1).unwrap();
    let two = Ledger::attach(&region, &locks, 2).unwrap();
    one.charge(UNIT);
    assert_eq!((one.others_hold(), two.others_hold()), (false, true));
}

#[test]
fn sequence_numbers_wrap() {
    let (region, locks) = (Region::default(), Locks::default());
    let ledger = Ledger::attach(&region, &locks, 1).unwrap();
    ledger.own.sequence.store(SEQUENCE - 1, Ordering::Relaxed);
    for _ in 0..4 {
        assert!(ledger.reserve(UNIT, MIB));
    }
    locks.release(ledger.slot);
    let other = Ledger::attach(&region, &locks, 2).unwrap();
    other.reap(&locks);
    assert_eq!(other.used(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(usize, u64),
    Release(usize),
    Kill(usize),
    Reap(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 1..40u64).prop_map(|(p, n)| Step::Reserve(p, n)),
        3 => (0..4usize).prop_map(Step::Release),
        1 => (0..4usize).prop_map(Step::Kill),
        1 => (0..4usize).prop_map(Step::Reap),
    ]
}

proptest! {
    #[test]
    fn the_ledger_is_the_sum_of_what_living_and_unreaped_processes_hold(steps in proptest::collection::vec(step(), 1..80)) {
        const LIMIT: u64 = 100 * UNIT;
        let (region, locks) = (Region::default(), Locks::default());
        let attach = |pid| Ledger::attach(&region, &locks, pid).unwrap();
        let mut processes: Vec<(Ledger<'_>, Vec<u64>)> = (0..4).map(|p| (attach(p + 1), vec![])).collect();
        // By slot: what processes that died hold until somebody looks.
        let mut unreaped: std::collections::HashMap<u32, u64> = Default::default();
        for step in steps {
            match step {
                Step::Reserve(p, n) => {
                    let held: u64 = processes.iter().flat_map(|x| &x.1).sum::<u64>() + unreaped.values().sum::<u64>();
                    let (ledger, own) = &mut processes[p];
                    let fits = held + n * UNIT <= LIMIT;
                    prop_assert_eq!(ledger.reserve(n * UNIT, LIMIT), fits);
                    if fits { own.push(n * UNIT) }
                }
                Step::Release(p) => {
                    let (ledger, own) = &mut processes[p];
                    if let Some(bytes) = own.pop() { ledger.release(bytes) }
                }
                Step::Kill(p) => {
                    let (ledger, own) = &mut processes[p];
                    locks.release(ledger.slot);
                    unreaped.insert(ledger.slot, own.drain(..).sum());
                    // Its successor takes the first free slot, which empties it.
                    *ledger = attach(p as u32 + 1);
                    unreaped.remove(&ledger.slot);
                }
                Step::Reap(p) => {
                    processes[p].0.reap(&locks);
                    unreaped.clear();
                }
            }
            let held: u64 = processes.iter().flat_map(|x| &x.1).sum::<u64>() + unreaped.values().sum::<u64>();
            prop_assert_eq!(processes[0].0.used(), held);
            for (ledger, own) in &processes {
                prop_assert_eq!(ledger.own(), own.iter().sum::<u64>());
            }
        }
    }
}
