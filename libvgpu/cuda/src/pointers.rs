//! What this process allocated, spread over locks, so that threads rarely meet.

use vgpu_core::pointers::{Allocation, Found, Owner, Pointers, spread};

use crate::spin::Spin;

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;

/// A table on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Spin<Pointers>);

/// All allocations of a kind.
pub(crate) struct Known {
    shards: Box<[Shard]>,
}

impl Default for Known {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Known {
    #[inline]
    fn shard(&self, address: u64) -> Option<&Spin<Pointers>> {
        self.shards.get((spread(address) >> (64 - SHARD_BITS)) as usize).map(|shard| &shard.0)
    }

    /// Remembers an allocation.
    pub(crate) fn insert(&self, address: u64, allocation: Allocation) {
        if let Some(shard) = self.shard(address) {
            shard.lock().insert(address, allocation);
        }
    }

    /// Remembers one that lies in one share and in no pool.
    #[inline]
    pub(crate) fn insert_usual(&self, address: u64, owner: Owner, share: usize, bytes: u64) {
        if let Some(shard) = self.shard(address) {
            shard.lock().insert_usual(address, owner, share, bytes);
        }
    }

    /// Forgets it.
    #[inline]
    pub(crate) fn remove(&self, address: u64) -> Option<Found> {
        self.shard(address)?.lock().remove(address)
    }

    /// Forgets all of a context.
    pub(crate) fn remove_context(&self, context: usize) -> Vec<Allocation> {
        self.shards.iter().flat_map(|shard| shard.0.lock().remove_context(context)).collect()
    }
}
