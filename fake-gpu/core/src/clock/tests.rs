use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::profile::{Description, parse};

fn node(change: impl FnOnce(&mut Description)) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpus");
    let mut description = parse("T4", "node").unwrap().in_virtual_time();
    change(&mut description);
    Gpus::create(&path, &description).unwrap();
    (folder, path)
}

#[test]
fn time_moves_to_whoever_is_due_first_and_only_then() {
    let (_folder, path) = node(|_| ());
    let gpus = Gpus::open(&path).unwrap();
    let log = Mutex::new(Vec::new());
    // Nobody runs on before all three are there.
    gpus.join();
    std::thread::scope(|scope| {
        for (name, step) in [("a", 300), ("b", 500)] {
            let (path, log) = (&path, &log);
            scope.spawn(move || {
                let own = Gpus::open(path).unwrap();
                for turn in 1..=3 {
                    own.sleep_until(turn * step);
                    log.lock().unwrap().push((own.now(), name));
                }
            });
        }
        while gpus.lock().header.clock.attached < 3 {
            std::thread::yield_now();
        }
        assert_eq!(gpus.now(), 0);
        gpus.sleep_until(1_000);
        log.lock().unwrap().push((gpus.now(), "test"));
        gpus.leave();
    });
    // At 1,000 the test is first: it came first.
    let want = [(300, "a"), (500, "b"), (600, "a"), (900, "a"), (1_000, "test"), (1_000, "b"), (1_500, "b")];
    assert_eq!(log.into_inner().unwrap(), want);
}

#[test]
fn a_thread_that_is_away_does_not_hold_the_time() {
    let (_folder, path) = node(|_| ());
    let gpus = Gpus::open(&path).unwrap();
    gpus.join();
    let other = std::thread::spawn(move || {
        let gpus = Gpus::open(&path).unwrap();
        gpus.sleep_until(5_000_000_000);
        gpus.now()
    });
    let at = gpus.away(|| other.join().unwrap());
    assert!((5_000_000_000..=gpus.now()).contains(&at));
}

#[test]
fn who_waits_for_something_goes_on_when_it_is_told() {
    let (_folder, path) = node(|_| ());
    let gpus = Gpus::open(&path).unwrap();
    let flag = AtomicBool::new(false);
    gpus.join();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let own = Gpus::open(&path).unwrap();
            let came = own.wait_until(10_000, || flag.load(Ordering::SeqCst));
            let then = own.now();
            (came, then, own.wait_until(10_000, || false), own.now())
        });
        gpus.sleep_until(700);
        flag.store(true, Ordering::SeqCst);
        gpus.notify();
        assert_eq!(gpus.away(|| waiter.join().unwrap()), (true, 700, false, 10_000));
    });
}

#[test]
fn time_waits_for_its_participants() {
    let (_folder, path) = node(|d| d.timing.participants = 2);
    let came = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let process = crate::Process::attach(Gpus::open(&path).unwrap()).unwrap();
            assert!(came.load(Ordering::SeqCst));
            process.gpus().now()
        });
        std::thread::sleep(Duration::from_millis(50));
        came.store(true, Ordering::SeqCst);
        let process = crate::Process::attach(Gpus::open(&path).unwrap()).unwrap();
        assert_eq!(process.gpus().away(|| first.join().unwrap()), 0);
    });
}

#[test]
fn a_process_is_counted_when_its_thread_is_there_and_not_before() {
    const PROCESSES: u32 = 100;
    let (_folder, path) = node(|d| d.timing.participants = PROCESSES);
    std::thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| crate::Process::attach(Gpus::open(&path).unwrap()).unwrap().gpus().leave());
        }
        // Looks without the lock, as nobody whom the machine keeps from running can.
        let gpus = Gpus::open(&path).unwrap();
        let file = gpus.opening.map.as_ref().unwrap().as_mut_ptr().cast::<Layout>();
        // SAFETY: aligned words of the mapping, which lives longer than this.
        let (joined, attached) = unsafe {
            let clock = &raw mut (*file).header.clock;
            (AtomicU32::from_ptr(&raw mut (*clock).joined), AtomicU64::from_ptr(&raw mut (*clock).attached))
        };
        loop {
            let counted = joined.load(Ordering::SeqCst);
            assert!(u64::from(counted) <= attached.load(Ordering::SeqCst), "{counted} are counted");
            if counted == PROCESSES {
                break;
            }
        }
    });
}

#[test]
fn what_a_call_costs_its_thread_lets_others_in() {
    let (_folder, path) = node(|_| ());
    let gpus = Gpus::open(&path).unwrap();
    gpus.spend(40);
    gpus.spend(2);
    assert_eq!(gpus.now(), 42);
}
