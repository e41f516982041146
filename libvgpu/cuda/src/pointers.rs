//! The tables of what this process allocated, each behind a lock for a few instructions.

use vgpu_core::known::Table;
use vgpu_core::pointers::Pointers;

use crate::spin::Spin;

/// A table on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Shard(Spin<Pointers>);

impl Table for Shard {
    #[inline]
    fn with<T>(&self, work: impl FnOnce(&mut Pointers) -> T) -> T {
        work(&mut self.0.lock())
    }
}

/// All allocations of a kind.
pub(crate) type Known = vgpu_core::known::Known<Shard>;
