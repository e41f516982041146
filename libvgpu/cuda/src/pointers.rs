//! What this process allocated, spread over locks, so that threads rarely meet.

use vgpu_core::pointers::{Allocation, Pointers, spread};

use crate::spin::Spin;

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;

/// A table on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Spin<Pointers>);

/// All allocations of a kind.
pub(crate) struct Known {
    shards: [Shard; SHARDS],
}

impl Default for Known {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()) }
    }
}

impl Known {
    fn shard(&self, address: u64) -> Option<&Spin<Pointers>> {
        self.shards.get((spread(address) >> (64 - SHARD_BITS)) as usize).map(|shard| &shard.0)
    }

    /// Remembers an allocation.
    pub(crate) fn insert(&self, address: u64, allocation: Allocation) {
        if let Some(shard) = self.shard(address) {
            shard.lock().insert(address, allocation);
        }
    }

    /// Forgets it.
    pub(crate) fn remove(&self, address: u64) -> Option<Allocation> {
        self.shard(address)?.lock().remove(address)
    }

    /// Forgets all of a context.
    pub(crate) fn remove_context(&self, context: usize) -> Vec<Allocation> {
        self.shards.iter().flat_map(|shard| shard.0.lock().remove_context(context)).collect()
    }
}
