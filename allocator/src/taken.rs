//! What is taken of GPUs and nodes.

use crate::cluster::{Gpu, Room};
use crate::overcommit::{Oversubscribed, charge, room};

/// What is taken of a GPU. There is one for every GPU with a tenant, so it is kept small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes held by firm shares, and promised to those that may be oversubscribed.
    memory: (u64, u64),
    /// Percent, likewise.
    cores: (u16, u16),
    pub(crate) shares: u32,
}

/// What is taken of a node, whether it is there or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeTaken {
    pub(crate) room: Room,
    /// GPUs with tenants, by name.
    gpus: Vec<(Box<str>, Taken)>,
}

impl Taken {
    fn change(
        &mut self,
        (memory, cores): (u64, u32),
        soft: Oversubscribed,
        change: impl Fn(u64, u64) -> u64,
    ) {
        let of_memory = if soft.memory { &mut self.memory.1 } else { &mut self.memory.0 };
        *of_memory = change(*of_memory, memory);
        let of_cores = if soft.cores { &mut self.cores.1 } else { &mut self.cores.0 };
        *of_cores = u16::try_from(change((*of_cores).into(), cores.into())).unwrap_or(u16::MAX);
        self.shares = u32::try_from(change(self.shares.into(), 1)).unwrap_or(u32::MAX);
    }

    /// A share of so much memory and cores comes.
    pub(crate) fn add(&mut self, amounts: (u64, u32), soft: Oversubscribed) {
        self.change(amounts, soft, u64::saturating_add);
    }

    /// It goes.
    pub(crate) fn sub(&mut self, amounts: (u64, u32), soft: Oversubscribed) {
        self.change(amounts, soft, u64::saturating_sub);
    }

    /// Memory that is used up of a GPU.
    pub(crate) fn memory(&self, gpu: &Gpu) -> u64 {
        self.memory.0.saturating_add(charge(self.memory.1, gpu.overcommit.memory))
    }

    /// Cores that are used up of a GPU.
    pub(crate) fn cores(&self, gpu: &Gpu) -> u32 {
        u32::from(self.cores.0) + small(charge(self.cores.1.into(), gpu.overcommit.cores))
    }

    /// What can still be promised of a GPU to those that may be oversubscribed.
    pub(crate) fn soft_room(&self, gpu: &Gpu) -> (u64, u32) {
        let memory = gpu.memory.saturating_sub(self.memory.0);
        let cores = gpu.cores.saturating_sub(self.cores.0.into());
        (
            room(memory, self.memory.1, gpu.overcommit.memory),
            small(room(cores.into(), self.cores.1.into(), gpu.overcommit.cores)),
        )
    }

    /// Whether firm shares hold more of a GPU than it has. How many tenants there may be is a word of the admin's, who may
    /// have lowered it since.
    pub(crate) fn exceeds(&self, gpu: &Gpu) -> bool {
        self.memory.0 > gpu.memory || u32::from(self.cores.0) > gpu.cores
    }
}

fn small(amount: u64) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}

impl NodeTaken {
    fn find(&self, gpu: &str) -> Result<usize, usize> {
        self.gpus.binary_search_by(|(name, _)| (**name).cmp(gpu))
    }

    /// Of a GPU by name.
    pub(crate) fn gpu(&self, name: &str) -> Option<Taken> {
        self.find(name).ok().map(|at| self.gpus[at].1)
    }

    /// Of each GPU of a node; they are in the order of their names, as those with tenants are.
    pub(crate) fn along(taken: Option<&Self>, gpus: &[Gpu]) -> Vec<Taken> {
        let mut taken = taken.map_or(&[][..], |t| &t.gpus).iter().peekable();
        let of_gpu = |gpu: &Gpu| {
            while taken.next_if(|(name, _)| **name < *gpu.name).is_some() {}
            taken.next_if(|(name, _)| **name == *gpu.name).map(|(_, taken)| *taken).unwrap_or_default()
        };
        gpus.iter().map(of_gpu).collect()
    }

    /// Changes what is taken of a GPU.
    pub(crate) fn change(&mut self, gpu: &str, change: impl FnOnce(&mut Taken)) {
        let at = self.find(gpu).unwrap_or_else(|at| {
            self.gpus.reserve_exact(1);
            self.gpus.insert(at, (gpu.into(), Taken::default()));
            at
        });
        change(&mut self.gpus[at].1);
        if self.gpus[at].1 == Taken::default() {
            self.gpus.remove(at);
        }
    }
}
