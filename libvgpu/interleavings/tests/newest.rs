//! Threads that allocate and free, interleaved at every access to what they share: each allocation is found once by the
//! one that frees it, wherever it is by then.

use std::sync::Arc;

use shuttle::scheduler::RandomScheduler;
use shuttle::sync::{Mutex, mpsc};
use shuttle::{Config, Runner, thread};
use vgpu_core_interleaved::known::{Known, Table};
use vgpu_core_interleaved::pointers::{Found, Owner, Pointers};

#[derive(Default)]
struct Locked(Mutex<Pointers>);

impl Table for Locked {
    fn with<T>(&self, work: impl FnOnce(&mut Pointers) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
}

const OWNER: Owner = (7, 0);

/// Tries so many interleavings, chosen at random. Threads have numbers of their own, or a cell in common.
fn check(rounds: usize, play: impl Fn(&Arc<Known<Locked>>) + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(rounds), config).run(move || play(&Arc::default()));
}

fn bytes(address: u64) -> u64 {
    address * 3
}

fn found(address: u64) -> Option<Found> {
    Some(Found::Usual(OWNER, 0, bytes(address)))
}

#[test]
fn what_one_thread_allocates_another_finds_while_it_goes_to_the_table() {
    check(1_000, |known| {
        let (give, take) = mpsc::channel();
        let other = known.clone();
        let freeing = thread::spawn(move || {
            while let Ok(address) = take.recv() {
                assert_eq!(other.remove(2, address), found(address));
            }
        });
        for address in [0x100, 0x200, 0x300] {
            known.insert_usual(1, address, OWNER, 0, bytes(address));
            give.send(address).unwrap();
        }
        drop(give);
        freeing.join().unwrap();
        assert!(known.remove_context(OWNER.0).is_empty());
    });
}

#[test]
fn of_threads_that_free_the_same_memory_one_finds_it() {
    check(1_000, |known| {
        known.insert_usual(1, 0x100, OWNER, 0, bytes(0x100));
        let others = [2, 3].map(|thread| {
            let known = known.clone();
            thread::spawn(move || known.remove(thread, 0x100))
        });
        let own = known.remove(1, 0x100);
        known.insert_usual(1, 0x200, OWNER, 0, bytes(0x200));
        let all = others.map(|other| other.join().unwrap());
        assert_eq!(all.into_iter().chain([own]).flatten().collect::<Vec<_>>(), [found(0x100).unwrap()]);
        assert_eq!(known.remove(1, 0x200), found(0x200));
    });
}

#[test]
fn an_address_that_is_given_out_again_is_found_with_its_own_size() {
    check(1_000, |known| {
        known.insert_usual(1, 0x100, OWNER, 0, 1);
        // Frees twice, the second time perhaps what the first thread has been given since.
        let other = known.clone();
        let freeing = thread::spawn(move || [other.remove(2, 0x100), other.remove(2, 0x100)]);
        let mut own = vec![known.remove(1, 0x100)];
        for size in 2..4 {
            if own.last().is_some_and(Option::is_some) {
                known.insert_usual(1, 0x100, OWNER, 0, size);
                own.push(known.remove(1, 0x100));
            }
        }
        let others = freeing.join().unwrap();
        let mut sizes: Vec<u64> = own
            .into_iter()
            .chain(others)
            .flatten()
            .map(|found| if let Found::Usual(_, _, bytes) = found { bytes } else { 0 })
            .collect();
        sizes.sort_unstable();
        assert!(sizes.iter().copied().eq(1..=sizes.len() as u64), "{sizes:?}");
        assert!(known.remove_context(OWNER.0).is_empty());
    });
}

#[test]
fn a_context_ends_with_what_is_on_its_way_to_the_table() {
    check(1_000, |known| {
        known.insert_usual(1, 0x100, OWNER, 0, bytes(0x100));
        let other = known.clone();
        let ending = thread::spawn(move || other.remove_context(OWNER.0).len());
        known.insert_usual(1, 0x200, (8, 0), 0, bytes(0x200));
        assert_eq!(ending.join().unwrap(), 1);
        assert_eq!((known.remove(1, 0x100), known.remove_context(8).len()), (None, 1));
    });
}

#[test]
fn threads_without_a_cell_use_the_table() {
    check(400, |known| {
        // One cell for both: the upper half of the number does not count.
        let threads = [0usize, 1].map(|n| {
            let known = known.clone();
            thread::spawn(move || {
                let (thread, address) = (n << 32 | 1, 0x100 + 0x100 * n as u64);
                known.insert_usual(thread, address, OWNER, 0, bytes(address));
                assert_eq!(known.remove(thread, address), found(address));
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(known.remove_context(OWNER.0).is_empty());
    });
}
