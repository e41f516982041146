//! What decides whether a GPU takes a request.

use crate::cluster::{Gpu, GpuState, Node};
use crate::demand::{MemoryAsk, Request};
use crate::placement::GpuReason;
use crate::taken::{NodeTaken, Taken};

/// Memory is handed out in this unit.
const MIB: u64 = 1 << 20;

/// A GPU as requests see it: two of equal vacancy are alike to every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Vacancy {
    pub(crate) shape: u32,
    pub(crate) is_unhealthy: bool,
    /// All of its memory, in bytes.
    pub(crate) capacity: u64,
    /// Free memory, in bytes.
    pub(crate) memory: u64,
    /// Free cores, in percent.
    pub(crate) cores: u32,
    /// Memory and cores that can still be promised to those that may be oversubscribed.
    pub(crate) soft: (u64, u32),
    /// Tenants that it still takes.
    pub(crate) places: u32,
}

/// Bytes a request takes of a GPU of this capacity.
pub(crate) fn memory_of(ask: MemoryAsk, capacity: u64) -> u64 {
    match ask {
        MemoryAsk::All => capacity,
        MemoryAsk::Nothing => 0,
        MemoryAsk::Bytes(bytes) => bytes,
        MemoryAsk::Percent(percent) => {
            let bytes = u128::from(capacity) * u128::from(percent) / 100;
            (u64::try_from(bytes).unwrap_or(u64::MAX) / MIB * MIB).max(MIB)
        }
    }
}

impl Vacancy {
    pub(crate) fn of(gpu: &Gpu, taken: &Taken) -> Self {
        Self {
            shape: gpu.shape,
            is_unhealthy: gpu.state == GpuState::Unhealthy,
            capacity: gpu.memory,
            memory: gpu.memory.saturating_sub(taken.memory(gpu)),
            cores: gpu.cores.saturating_sub(taken.cores(gpu)),
            soft: taken.soft_room(gpu),
            places: gpu.shares.saturating_sub(taken.shares),
        }
    }

    /// Of each GPU of a node, in the order of names.
    pub(crate) fn of_node(node: &Node, taken: Option<&NodeTaken>) -> impl Iterator<Item = Self> {
        node.gpus.iter().map(move |gpu| {
            let taken = taken.and_then(|t| t.gpu(&gpu.name)).unwrap_or_default();
            Self::of(gpu, &taken)
        })
    }

    /// Memory and cores that are free for a request.
    pub(crate) fn free_for(&self, request: &Request) -> (u64, u32) {
        let soft = request.oversubscribed;
        let memory = if soft.memory { self.soft.0 } else { self.memory };
        (memory, if soft.cores { self.soft.1 } else { self.cores })
    }

    /// Whether it has room for one unit of a request.
    pub(crate) fn takes(&self, request: &Request) -> Result<(), GpuReason> {
        let looks_only = request.memory == MemoryAsk::Nothing;
        if self.is_unhealthy && !looks_only {
            return Err(GpuReason::Unhealthy);
        }
        if !request.shapes.contains(self.shape) {
            return Err(GpuReason::ModelMismatch);
        }
        if request.barred.contains(&self.shape) {
            return Err(GpuReason::Tainted);
        }
        if looks_only {
            return Ok(());
        }
        if self.places == 0 {
            return Err(GpuReason::NoSharesLeft);
        }
        let (memory, cores) = self.free_for(request);
        if memory_of(request.memory, self.capacity) > memory {
            return Err(GpuReason::InsufficientMemory);
        }
        if request.cores > cores {
            return Err(GpuReason::InsufficientCores);
        }
        Ok(())
    }
}
