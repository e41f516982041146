//! What decides whether a GPU takes a request.

use crate::cluster::{Gpu, GpuState, Node, NodeTaken, Taken};
use crate::demand::{MemoryAsk, Request};
use crate::placement::GpuReason;

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
            memory: gpu.memory.saturating_sub(taken.memory),
            cores: gpu.cores.saturating_sub(taken.cores),
            places: gpu.shares.saturating_sub(taken.shares),
        }
    }

    /// Of each GPU of a node, in the order of names.
    pub(crate) fn of_node(node: &Node, taken: Option<&NodeTaken>) -> impl Iterator<Item = Self> {
        node.gpus.iter().map(move |gpu| {
            let taken = taken.and_then(|t| t.gpus.get(&gpu.name)).copied().unwrap_or_default();
            Self::of(gpu, &taken)
        })
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
        if memory_of(request.memory, self.capacity) > self.memory {
            return Err(GpuReason::InsufficientMemory);
        }
        if request.cores > self.cores {
            return Err(GpuReason::InsufficientCores);
        }
        Ok(())
    }
}
