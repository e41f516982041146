//! Each thread's newest allocation: kept where the thread itself finds it without a lock, so that memory that is freed by
//! the thread that made it, before it makes more, never comes into the shared table ([`crate::pointers`]).
//!
//! A thread has a cell, found by a number that differs between living threads (its thread pointer); a cell whose owner has
//! ended is inherited with what is in it. Threads whose cells are other threads' do without. Who may do what with a cell:
//!
//! | | who | how |
//! |---|---|---|
//! | put an allocation in | the owner, when it is empty | [`Cell::put`], a plain store |
//! | take it to free it | the owner | [`Cell::take`], an exchange, because another thread may free it too |
//! | move it to the table | the owner, holding the table's lock for its address | [`Cell::evict`], a plain store |
//! | take it to free it, or with its context | any thread, holding that lock | [`Newest::take`], an exchange |
//!
//! So an allocation that is not in the table under its lock is in a cell or is no allocation, and of two threads that free
//! the same memory, which is the program's mistake, one finds it.

use crate::places::place;
use crate::pointers::{Found, Owner};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Cells of a process: one bit each of [`Newest::used`].
const CELLS: usize = 1 << CELL_BITS;
const CELL_BITS: u32 = 6;

/// Bits of [`Cell::word`] that tell an address's allocations apart. Addresses of allocations have zeroes there: CUDA aligns
/// them to 256 bytes.
const GENERATION: u64 = 0xff;

/// One thread's, on a cache line of its own.
#[repr(align(64))]
#[derive(Debug, Default)]
pub struct Cell {
    /// The thread's number; 0: nobody's.
    owner: AtomicUsize,
    /// Address and generation; 0: there is none. The rest is valid as long as it stays the same.
    word: AtomicU64,
    bytes: AtomicU64,
    context: AtomicUsize,
    /// Device (lower half) and share.
    place: AtomicU64,
    /// Of the last one put in, the owner's alone.
    generation: AtomicU32,
}

impl Cell {
    /// Puts an allocation in. False, and nothing done, if there is one or its address does not fit.
    #[inline]
    pub fn put(&self, address: u64, owner: Owner, share: usize, bytes: u64) -> bool {
        if address & GENERATION != 0 || address == 0 || self.word.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let Ok(share) = u32::try_from(share) else { return false };
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.context.store(owner.0, Ordering::Relaxed);
        self.place.store(u64::from(share) << 32 | u64::from(owner.1.cast_unsigned()), Ordering::Relaxed);
        self.word.store(address | u64::from(generation) & GENERATION, Ordering::Release);
        true
    }

    /// Address of what is in it.
    #[inline]
    pub fn address(&self) -> Option<u64> {
        Some(self.word.load(Ordering::Acquire) & !GENERATION).filter(|address| *address != 0)
    }

    /// Takes an allocation out, if it is this one.
    #[inline]
    pub fn take(&self, address: u64) -> Option<Found> {
        self.take_of(address, None)
    }

    /// The same, if it was made in this context.
    #[inline]
    fn take_of(&self, address: u64, context: Option<usize>) -> Option<Found> {
        let word = self.word.load(Ordering::Acquire);
        if word & !GENERATION != address || address == 0 {
            return None;
        }
        let found = self.found();
        if context.is_some_and(|context| !matches!(&found, Found::Usual((of, _), ..) if *of == context)) {
            return None;
        }
        let taken = self.word.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok().then_some(found)
    }

    /// The same, of the owner that holds the table's lock for the address: nobody else may take it meanwhile.
    #[inline]
    pub fn evict(&self, address: u64) -> Option<Found> {
        if self.address() != Some(address) {
            return None;
        }
        let found = self.found();
        self.word.store(0, Ordering::Release);
        Some(found)
    }

    #[inline]
    fn found(&self) -> Found {
        let place = self.place.load(Ordering::Relaxed);
        let owner = (self.context.load(Ordering::Relaxed), (place as u32).cast_signed());
        Found::Usual(owner, (place >> 32) as usize, self.bytes.load(Ordering::Relaxed))
    }
}

/// The cells of a process.
#[derive(Debug)]
pub struct Newest {
    cells: Box<[Cell]>,
    /// Cells that have an owner.
    used: AtomicU64,
}

impl Default for Newest {
    fn default() -> Self {
        Self { cells: (0..CELLS).map(|_| Cell::default()).collect(), used: AtomicU64::default() }
    }
}

#[inline]
fn index(thread: usize) -> usize {
    place(thread, CELL_BITS)
}

impl Newest {
    /// The calling thread's cell, if it has one.
    #[inline]
    pub fn of(&self, thread: usize) -> Option<&Cell> {
        self.cells.get(index(thread)).filter(|cell| cell.owner.load(Ordering::Relaxed) == thread)
    }

    /// The same, made its own if it is nobody's.
    #[inline]
    pub fn own(&self, thread: usize) -> Option<&Cell> {
        self.of(thread).or_else(|| self.claim(thread))
    }

    #[cold]
    fn claim(&self, thread: usize) -> Option<&Cell> {
        let index = index(thread);
        let cell = self.cells.get(index)?;
        // Said first: who looks into a cell too many loses nothing.
        self.used.fetch_or(1 << index, Ordering::AcqRel);
        let claimed = cell.owner.compare_exchange(0, thread, Ordering::AcqRel, Ordering::Relaxed);
        claimed.is_ok().then_some(cell)
    }

    /// Cells that have an owner.
    fn used(&self) -> impl Iterator<Item = &Cell> {
        let used = self.used.load(Ordering::Acquire);
        self.cells.iter().enumerate().filter(move |(index, _)| used >> index & 1 != 0).map(|(_, cell)| cell)
    }

    /// Takes an allocation, of this context if there is one, out of whosever cell it is in. The caller holds the table's
    /// lock for its address.
    pub fn take(&self, address: u64, context: Option<usize>) -> Option<Found> {
        self.used().find_map(|cell| cell.take_of(address, context))
    }

    /// Addresses of what is in the cells and was made in a context, as far as can be told without a lock.
    pub fn of_context(&self, context: usize) -> Vec<u64> {
        self.used()
            .filter(|cell| cell.context.load(Ordering::Relaxed) == context)
            .filter_map(Cell::address)
            .collect()
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    const OWNER: Owner = (7, -1);

    #[test]
    fn a_cell_holds_one_allocation_until_it_is_taken() {
        let newest = Newest::default();
        let cell = newest.own(0x1000).unwrap();
        assert!(cell.put(0x200, OWNER, 3, 512) && !cell.put(0x400, OWNER, 0, 512));
        assert_eq!((cell.take(0x400), cell.take(0)), (None, None));
        assert_eq!(cell.take(0x200), Some(Found::Usual(OWNER, 3, 512)));
        assert_eq!((cell.take(0x200), cell.address()), (None, None));
        assert!(cell.put(0x400, OWNER, 0, 1 << 63));
        assert_eq!(cell.evict(0x200), None);
        assert_eq!(cell.evict(0x400), Some(Found::Usual(OWNER, 0, 1 << 63)));
        assert_eq!(cell.address(), None);
    }

    #[test]
    fn addresses_that_do_not_fit_are_not_put_in() {
        let newest = Newest::default();
        let cell = newest.own(0x1000).unwrap();
        assert!(!cell.put(0x201, OWNER, 0, 512) && !cell.put(0, OWNER, 0, 512));
        assert!(!cell.put(0x200, OWNER, 1 << 32, 512));
        assert_eq!(cell.address(), None);
    }

    #[test]
    fn a_thread_whose_cell_is_anothers_has_none_and_others_find_what_is_in_it() {
        let newest = Newest::default();
        let (one, same) = (1, 1 + (1 << 32));
        assert!(newest.of(one).is_none());
        assert!(newest.own(one).unwrap().put(0x200, OWNER, 0, 512));
        assert!(newest.own(same).is_none() && newest.of(one).is_some());
        assert_eq!((newest.of_context(7), newest.of_context(8)), (vec![0x200], vec![]));
        assert_eq!(newest.take(0x400, None), None);
        assert_eq!(newest.take(0x200, Some(8)), None);
        assert_eq!(newest.take(0x200, Some(7)), Some(Found::Usual(OWNER, 0, 512)));
        assert_eq!(newest.take(0x200, None), None);
    }

    #[test]
    fn an_address_that_comes_again_is_another_allocation() {
        let newest = Newest::default();
        let cell = newest.own(1).unwrap();
        let words = [1, 2].map(|n| {
            assert!(cell.put(0x200, OWNER, 0, n * 512));
            let word = cell.word.load(Ordering::Relaxed);
            assert_eq!(cell.take(0x200), Some(Found::Usual(OWNER, 0, n * 512)));
            word
        });
        assert_ne!(words[0], words[1]);
    }
}
