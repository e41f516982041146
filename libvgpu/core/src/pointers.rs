//! What this process allocated: address or handle -> charge. Spread over locks, so that threads rarely meet, and of
//! constant cost however much is live.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Bytes charged, by share of the GPU. One share is the rule, and needs no heap.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    first: Option<(usize, u64)>,
    more: Vec<(usize, u64)>,
}

impl Parts {
    /// Adds bytes of a share.
    pub fn add(&mut self, share: usize, bytes: u64) {
        if let Some(part) = self.first.iter_mut().chain(&mut self.more).find(|part| part.0 == share) {
            part.1 = part.1.saturating_add(bytes);
        } else if bytes > 0 && self.first.is_none() {
            self.first = Some((share, bytes));
        } else if bytes > 0 {
            self.more.push((share, bytes));
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(share, bytes)| self.add(share, bytes));
    }

    /// Takes so many bytes out, or all there are; from the share that was charged last.
    pub fn take(&mut self, bytes: u64) -> Self {
        let (mut taken, mut left) = (Self::default(), bytes);
        for part in self.first.iter_mut().chain(&mut self.more).rev() {
            let some = part.1.min(left);
            part.1 = part.1.saturating_sub(some);
            left = left.saturating_sub(some);
            taken.add(part.0, some);
        }
        taken
    }

    /// Sum in bytes.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|part| part.1).fold(0, u64::saturating_add)
    }

    /// Share and bytes.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.first.iter().chain(&self.more).copied()
    }
}

/// One allocation.
#[derive(Debug, PartialEq, Eq)]
pub struct Allocation {
    /// CUDA ordinal of its GPU.
    pub device: i32,
    /// CUcontext it was made in, with which it ends; 0 if it does not.
    pub context: usize,
    /// CUmemoryPool that is charged for it; 0 if it is charged itself.
    pub pool: usize,
    /// What it is charged.
    pub parts: Parts,
}

/// Addresses differ in their middle bits: one multiplication spreads them.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

type Shard = HashMap<u64, Allocation, BuildHasherDefault<AddressHasher>>;

/// All allocations of a kind.
#[derive(Debug)]
pub struct Pointers {
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Pointers {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Pointers {
    fn shard(&self, address: u64) -> Option<MutexGuard<'_, Shard>> {
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
        let of = |context| {
            let mut parts = Parts::default();
            parts.add(0, 512);
            Allocation { device: 0, context, pool: 0, parts }
        };
        pointers.insert(0x1000, of(7));
        pointers.insert(0x2000, of(8));
        pointers.insert(0x3000, of(7));
        assert_eq!(pointers.remove_context(7).len(), 2);
        assert_eq!(pointers.remove(0x1000), None);
        assert_eq!(pointers.remove(0x2000), Some(of(8)));
    }

    #[test]
    fn parts_are_taken_from_the_share_charged_last() {
        let mut parts = Parts::default();
        for (share, bytes) in [(0, 10), (1, 5), (0, 1)] {
            parts.add(share, bytes);
        }
        let taken = parts.take(7);
        assert_eq!(taken.iter().collect::<Vec<_>>(), [(1, 5), (0, 2)]);
        assert_eq!((parts.bytes(), taken.bytes()), (9, 7));
    }
}
