//! What this process allocated: address -> charge. Spread over locks, so that threads rarely meet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// One allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// CUDA ordinal of its GPU.
    pub device: i32,
    /// CUcontext it was made in; it ends with it.
    pub context: usize,
    /// Bytes charged, by share of the GPU.
    pub charges: Vec<(usize, u64)>,
}

/// All allocations.
#[derive(Debug)]
pub struct Pointers {
    shards: [Mutex<HashMap<u64, Allocation>>; SHARDS],
}

impl Default for Pointers {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Pointers {
    fn shard(&self, address: u64) -> Option<MutexGuard<'_, HashMap<u64, Allocation>>> {
        // Addresses are at least 512 bytes apart, and larger blocks by 2 MiB: mix both.
        let index = ((address >> 9) ^ (address >> 21)) as usize % SHARDS;
        self.shards.get(index).map(|s| s.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers an allocation.
    pub fn insert(&self, address: u64, allocation: Allocation) {
        if let Some(mut shard) = self.shard(address) {
            shard.insert(address, allocation);
        }
    }

    /// Forgets it.
    pub fn remove(&self, address: u64) -> Option<Allocation> {
        self.shard(address)?.remove(&address)
    }

    /// Forgets all of a context.
    pub fn remove_context(&self, context: usize) -> Vec<Allocation> {
        let mut removed = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            removed.extend(shard.extract_if(|_, a| a.context == context).map(|(_, a)| a));
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_takes_its_allocations_with_it() {
        let pointers = Pointers::default();
        let of = |context| Allocation { device: 0, context, charges: vec![(0, 512)] };
        pointers.insert(0x1000, of(7));
        pointers.insert(0x2000, of(8));
        pointers.insert(0x3000, of(7));
        assert_eq!(pointers.remove_context(7).len(), 2);
        assert_eq!(pointers.remove(0x1000), None);
        assert_eq!(pointers.remove(0x2000), Some(of(8)));
    }
}
