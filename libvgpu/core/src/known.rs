//! What a process allocated, spread over locked tables, so that threads rarely meet; each thread's newest without a lock.

use crate::newest::{Cell, Newest};
use crate::pointers::{Allocation, Found, Owner, Pointers, spread};

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;

/// A lock of one's own kind around a table.
pub trait Table: Default {
    /// Does something with the table, which nobody else does meanwhile.
    fn with<T>(&self, work: impl FnOnce(&mut Pointers) -> T) -> T;
}

/// All allocations of a kind. Threads are told apart by a number, their thread pointer.
#[derive(Debug)]
pub struct Known<T> {
    shards: Box<[T]>,
    newest: Newest,
}

impl<T: Table> Default for Known<T> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| T::default()).collect(), newest: Newest::default() }
    }
}

impl<T: Table> Known<T> {
    #[inline]
    fn shard(&self, address: u64) -> Option<&T> {
        self.shards.get((spread(address) >> (64 - SHARD_BITS)) as usize)
    }

    /// Remembers an allocation.
    pub fn insert(&self, address: u64, allocation: Allocation) {
        if let Some(shard) = self.shard(address) {
            shard.with(|table| table.insert(address, allocation));
        }
    }

    /// Remembers one that lies in one share and in no pool, as the calling thread's newest.
    #[inline]
    pub fn insert_usual(&self, thread: usize, address: u64, owner: Owner, share: usize, bytes: u64) {
        if let Some(cell) = self.newest.own(thread) {
            if let Some(before) = cell.address() {
                self.evict(cell, before);
            }
            if cell.put(address, owner, share, bytes) {
                return;
            }
        }
        self.insert_in_table(address, owner, share, bytes);
    }

    /// Moves what was a thread's newest to the table.
    #[inline(never)]
    fn evict(&self, cell: &Cell, address: u64) {
        if let Some(shard) = self.shard(address) {
            shard.with(|table| {
                if let Some(Found::Usual(owner, share, bytes)) = cell.evict(address) {
                    table.insert_usual(address, owner, share, bytes);
                }
            });
        }
    }

    #[inline(never)]
    fn insert_in_table(&self, address: u64, owner: Owner, share: usize, bytes: u64) {
        if let Some(shard) = self.shard(address) {
            shard.with(|table| table.insert_usual(address, owner, share, bytes));
        }
    }

    /// Forgets it.
    #[inline]
    pub fn remove(&self, thread: usize, address: u64) -> Option<Found> {
        let newest = self.newest.of(thread).and_then(|cell| cell.take(address));
        newest.or_else(|| self.remove_from_table(address))
    }

    #[inline(never)]
    fn remove_from_table(&self, address: u64) -> Option<Found> {
        // What is another thread's newest cannot go to the table meanwhile.
        self.shard(address)?.with(|table| table.remove(address).or_else(|| self.newest.take(address, None)))
    }

    /// Forgets all of a context.
    pub fn remove_context(&self, context: usize) -> Vec<Allocation> {
        // A thread's newest may go to the table meanwhile, but nothing the other way.
        let newest = self.newest.of_context(context).into_iter().filter_map(|address| {
            self.shard(address)?.with(|_| self.newest.take(address, Some(context))).map(Allocation::from)
        });
        let mut removed: Vec<Allocation> = newest.collect();
        removed
            .extend(self.shards.iter().flat_map(|shard| shard.with(|table| table.remove_context(context))));
        removed
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default)]
    struct Locked(Mutex<Pointers>);

    impl Table for Locked {
        fn with<T>(&self, work: impl FnOnce(&mut Pointers) -> T) -> T {
            work(&mut self.0.lock().unwrap())
        }
    }

    proptest! {
        #[test]
        fn it_knows_what_a_map_knows_whichever_thread_asks(
            steps in prop::collection::vec((1usize..4, 1u64..40, 0usize..4, 1u64..1 << 40), 0..400),
        ) {
            let (known, mut model) = (Known::<Locked>::default(), HashMap::new());
            for (thread, address, what, bytes) in steps {
                let address = address << 8;
                let found = |(context, bytes)| Found::Usual((context, 0), 0, bytes);
                match what {
                    0 => prop_assert_eq!(known.remove(thread, address), model.remove(&address).map(found)),
                    // The driver gives out no address twice.
                    _ if model.contains_key(&address) => {}
                    context => {
                        known.insert_usual(thread, address, (context, 0), 0, bytes);
                        model.insert(address, (context, bytes));
                    }
                }
            }
            prop_assert_eq!(known.remove_context(1).len(), model.extract_if(|_, a| a.0 == 1).count());
            for (address, (context, bytes)) in model {
                prop_assert_eq!(known.remove(9, address), Some(Found::Usual((context, 0), 0, bytes)));
                prop_assert_eq!(known.remove(1, address), None);
            }
        }
    }
}
