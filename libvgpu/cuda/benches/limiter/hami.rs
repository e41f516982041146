//! What HAMi-core does around a launch, an allocation and a free, for comparison: re-implemented from the description of
//! its algorithm, in the best case for it. Its region is here, its lock is free, one process is in it, every host process
//! id is known, nothing is logged, and the bucket is never empty.
//!
//! Left out because their cost is not the algorithm's: the symbol table its hooks look functions up in, and builds without
//! optimisation.

use std::collections::LinkedList;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Processes its region has room for; a sum over all that are there is made at each allocation.
const PROCESSES: usize = 1024;
/// Of the container, in percent; checked at each launch.
static LIMIT: AtomicI32 = AtomicI32::new(50);
static SWITCH: AtomicI32 = AtomicI32::new(1);
/// What the node's monitor and the launches tell each other.
static RECENT: AtomicI32 = AtomicI32::new(2);
static LAST_KERNEL: AtomicI64 = AtomicI64::new(0);
/// Grid blocks; shared by all threads.
static TOKENS: AtomicI32 = AtomicI32::new(i32::MAX);

/// Before a launch of so many blocks.
pub(crate) fn before_launch(grid: [u32; 3]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    if now > LAST_KERNEL.load(Ordering::Relaxed) {
        LAST_KERNEL.store(now, Ordering::Relaxed);
    }
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 || limit >= 100 || SWITCH.load(Ordering::Relaxed) == 0 {
        return;
    }
    while RECENT.load(Ordering::Relaxed) < 0 {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    RECENT.store(2, Ordering::Relaxed);
    let blocks = grid.iter().fold(1i32, |product, n| product.wrapping_mul(*n as i32));
    loop {
        let before = TOKENS.load(Ordering::SeqCst);
        if before < 0 {
            // Its watcher would fill it; here it never gets so far.
            TOKENS.store(i32::MAX, Ordering::SeqCst);
            continue;
        }
        let after = before.wrapping_sub(blocks);
        if TOKENS.compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}

/// A process's slot in its region.
struct Slot {
    pid: AtomicI32,
    used: AtomicU64,
}

/// Its books: a region under one lock, and a list of what was allocated.
pub(crate) struct Books {
    slots: Vec<Slot>,
    count: usize,
    list: Mutex<LinkedList<(u64, u64)>>,
    /// Taken and given back as a semaphore in shared memory is.
    lock: AtomicI32,
    pid: i32,
}

impl Default for Books {
    fn default() -> Self {
        let slot = || Slot { pid: AtomicI32::new(0), used: AtomicU64::new(0) };
        let books = Self {
            slots: (0..PROCESSES).map(|_| slot()).collect(),
            count: 1,
            list: Mutex::default(),
            lock: AtomicI32::new(1),
            pid: std::process::id() as i32,
        };
        books.slots[0].pid.store(books.pid, Ordering::Relaxed);
        books
    }
}

impl Books {
    fn locked<T>(&self, work: impl FnOnce() -> T) -> T {
        while self.lock.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        let done = work();
        self.lock.store(1, Ordering::Release);
        done
    }

    /// All processes' together.
    fn usage(&self) -> u64 {
        self.locked(|| self.slots[..self.count].iter().map(|slot| slot.used.load(Ordering::Relaxed)).sum())
    }

    fn add(&self, bytes: i64) {
        self.locked(|| {
            let own =
                self.slots[..self.count].iter().find(|slot| slot.pid.load(Ordering::Relaxed) == self.pid);
            if let Some(slot) = own {
                slot.used.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
    }

    /// Around an allocation.
    pub(crate) fn alloc(
        &self,
        bytes: u64,
        limit: u64,
        call: impl FnOnce() -> Result<u64, i32>,
    ) -> Result<u64, i32> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if self.usage() + bytes > limit {
            return Err(2);
        }
        let address = call()?;
        list.push_back((address, bytes));
        self.add(bytes as i64);
        Ok(address)
    }

    /// Around a free: the list is searched from its head.
    pub(crate) fn free(&self, address: u64, call: impl FnOnce() -> i32) -> i32 {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = list.iter().position(|(known, _)| *known == address) else { return -1 };
        let code = call();
        let mut rest = list.split_off(at);
        if let Some((_, bytes)) = rest.pop_front() {
            self.add(-(bytes as i64));
        }
        list.append(&mut rest);
        code
    }
}
