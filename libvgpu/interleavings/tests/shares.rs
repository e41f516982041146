//! Processes of a share, interleaved at every access to shared memory and killed at any.
//!
//! A process is a thread here; its lock on its slot is taken away when it is dead, as the kernel does. The scheduler's memory is
//! sequentially consistent: what weaker orders allow is not tried, nor is tearing within a word.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner, thread};
use vgpu_core_interleaved::compute::{Enforcement, Priority, Terms};
use vgpu_core_interleaved::ledger::{Ledger, SlotLocks};
use vgpu_core_interleaved::sync::{Killed, kill_after};
use vgpu_core_interleaved::usage::{Region, UNIT};

const LIMIT: u64 = 10 * UNIT;

/// Tries so many interleavings, chosen at random.
fn check(play: impl Fn() + Send + Sync + 'static, rounds: usize) {
    let mut config = Config::new();
    // A share is made on the stack before it goes elsewhere.
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(rounds), config).run(play);
}

#[derive(Default)]
struct Share {
    region: Region,
    /// Locked slots. Never held across a step, so it needs no place in the schedule.
    locks: Mutex<HashSet<u32>>,
}

/// A process's open file: its locks go with it.
struct File<'a> {
    share: &'a Share,
    held: Mutex<HashSet<u32>>,
}

impl Share {
    fn open(&self) -> File<'_> {
        File { share: self, held: Mutex::default() }
    }
}

impl SlotLocks for File<'_> {
    fn try_hold(&self, slot: u32) -> bool {
        let taken = self.share.locks.lock().unwrap().insert(slot);
        taken && self.held.lock().unwrap().insert(slot)
    }
    fn release(&self, slot: u32) {
        self.held.lock().unwrap().remove(&slot);
        self.share.locks.lock().unwrap().remove(&slot);
    }
}

impl<'a> File<'a> {
    fn attach(&self, pid: u32) -> Ledger<'a> {
        Ledger::attach(&self.share.region, self, pid).unwrap()
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        held.into_iter().for_each(|slot| self.release(slot));
    }
}

/// Does something as a process that is killed before it makes more than so many steps. True if it was.
fn killed_after(steps: u32, work: impl FnOnce()) -> bool {
    kill_after(steps);
    let ended = catch_unwind(AssertUnwindSafe(work));
    kill_after(u32::MAX);
    match ended {
        Ok(()) => false,
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Plays processes side by side; each has the file open until it ends.
fn processes(count: u32, each: impl Fn(&File<'_>, u32) + Send + Sync + 'static) -> Arc<Share> {
    let (share, each) = (Arc::new(Share::default()), Arc::new(each));
    let threads: Vec<_> = (1..=count)
        .map(|pid| {
            let (share, each) = (share.clone(), each.clone());
            thread::spawn(move || each(&share.open(), pid))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    share
}

/// What is charged when nobody is left but one who looks.
fn left(share: &Share) -> (u64, u64) {
    let file = share.open();
    let last = file.attach(60);
    last.reap(&file);
    (last.used(), last.on_host().used())
}

#[test]
fn processes_that_race_never_pass_the_limit_and_leave_nothing() {
    check(
        || {
            let share = processes(3, |file, pid| {
                let ledger = file.attach(pid);
                for bytes in [6 * UNIT, u64::from(pid) * UNIT] {
                    if ledger.reserve(bytes, LIMIT) {
                        assert!(ledger.used() <= LIMIT);
                        ledger.release(bytes);
                    }
                }
                assert_eq!(ledger.own(), 0);
            });
            assert_eq!(left(&share), (0, 0));
        },
        400,
    );
}

#[test]
fn what_fits_is_never_refused_whoever_helps_whom() {
    check(
        || {
            processes(2, |file, pid| {
                let ledger = file.attach(pid);
                for _ in 0..2 {
                    assert!(ledger.reserve(5 * UNIT, LIMIT));
                    ledger.release(5 * UNIT);
                }
            });
        },
        400,
    );
}

#[test]
fn threads_of_a_process_change_its_slot_one_after_another() {
    check(
        || {
            // They live to the end of the test.
            let share: &'static Share = Box::leak(Box::default());
            let file: &'static File<'static> = Box::leak(Box::new(share.open()));
            let ledger: &'static Ledger<'static> = Box::leak(Box::new(file.attach(1)));
            let threads = [2, 3].map(|units| {
                thread::spawn(move || {
                    assert!(ledger.reserve(units * UNIT, LIMIT));
                    ledger.release(units * UNIT);
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!((ledger.own(), ledger.used()), (0, 0));
        },
        200,
    );
}

#[test]
fn a_process_killed_at_any_step_leaves_nothing_whoever_works_beside_it() {
    let killed = Arc::new(AtomicU32::new(0));
    let count = killed.clone();
    check(
        move || {
            let count = count.clone();
            let share = processes(3, move |file, pid| {
                let ledger = file.attach(pid);
                if pid > 1 {
                    assert!(ledger.reserve(3 * UNIT, LIMIT));
                    ledger.reap(file);
                    ledger.release(UNIT);
                    assert_eq!(ledger.own(), 2 * UNIT);
                    return;
                }
                let host = ledger.on_host();
                let died = killed_after(thread_rng().gen_range(0..60), || {
                    assert_eq!(host.reserve_up_to(3 * UNIT, LIMIT), 3 * UNIT);
                    if ledger.reserve(4 * UNIT, LIMIT) {
                        ledger.release(2 * UNIT);
                        ledger.release(2 * UNIT);
                    }
                    host.release(UNIT);
                });
                count.fetch_add(died.into(), Ordering::Relaxed);
            });
            assert_eq!(left(&share), (0, 0));
        },
        1_000,
    );
    assert!((200..900).contains(&killed.load(Ordering::Relaxed)), "{killed:?} of 1000 were killed");
}

#[test]
fn whoever_gives_back_what_a_dead_one_left_may_be_killed_too() {
    let killed = Arc::new(AtomicU32::new(0));
    let count = killed.clone();
    check(
        move || {
            let share = Arc::new(Share::default());
            let file = share.open();
            assert!(file.attach(1).reserve(7 * UNIT, LIMIT));
            drop(file);
            let threads: Vec<_> = (2..=3)
                .map(|pid| {
                    let (share, count) = (share.clone(), count.clone());
                    thread::spawn(move || {
                        let file = share.open();
                        let ledger = file.attach(pid);
                        let died = killed_after(thread_rng().gen_range(0..60), || {
                            ledger.reap(&file);
                        });
                        count.fetch_add(died.into(), Ordering::Relaxed);
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(left(&share), (0, 0));
        },
        600,
    );
    assert!(killed.load(Ordering::Relaxed) > 200, "{killed:?} of 1200 were killed");
}

#[test]
fn processes_of_equal_ids_get_slots_of_their_own() {
    check(
        || {
            let slots = Arc::new(Mutex::new(HashSet::new()));
            let seen = slots.clone();
            processes(3, move |file, _| {
                let ledger = file.attach(7);
                assert!(seen.lock().unwrap().insert(ledger.slot()), "one slot for two");
                assert!(ledger.reserve(UNIT, LIMIT));
            });
            assert_eq!(slots.lock().unwrap().len(), 3);
        },
        200,
    );
}

#[test]
fn credit_is_refilled_once_however_many_look() {
    const TERMS: Terms = Terms { cores: 50, enforcement: Enforcement::Hard, priority: Priority::Normal };
    check(
        || {
            let share = processes(3, |file, pid| {
                let tenant = &file.share.region.compute;
                tenant.busy.set(pid, true);
                for now in [1_000, 2_000, 4_000] {
                    let balance = tenant.balance(now + u64::from(pid) * 100, TERMS, false);
                    assert!(balance <= 2_150, "{balance} ns of credit");
                }
                tenant.busy.set(pid, false);
            });
            let tenant = &share.region.compute;
            assert_eq!(tenant.balance(4_300, TERMS, false), 2_150);
            assert!(tenant.is_idle());
        },
        400,
    );
}
