//! What a set of nodes has at most and at least: enough to tell that a pod fits none of them, and often why.

use crate::room::Free;
use crate::vacancy::Vacancy;

/// The grid of free memory and free cores: tenths of a GPU, and all of it.
const STEPS: u64 = 11;

/// Least and most of something; the least above the most when there is none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

impl Range {
    const NONE: Self = Self { min: i64::MAX, max: i64::MIN };

    fn add(&mut self, value: i64) {
        self.merge(Self { min: value, max: value });
    }

    fn merge(&mut self, other: Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// Of one node, or of several merged. What is free is negative where more is held than there is.
///
/// A GPU is *open* when it is healthy and has a tenant's place left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Nodes that have GPUs.
    pub(crate) nodes: u32,
    pub(crate) gpus: u32,
    pub(crate) unhealthy: u32,
    /// Healthy, but without a tenant's place.
    pub(crate) crowded: u32,
    pub(crate) cpu: Range,
    pub(crate) memory: Range,
    pub(crate) pods: Range,
    /// Free memory of open GPUs.
    pub(crate) gpu_memory: Range,
    /// Free cores of open GPUs.
    pub(crate) gpu_cores: Range,
    /// Most free memory over all open GPUs of one node.
    pub(crate) whole: i64,
    /// Bit `11 m + c` of the n-th: some node has 2^n open GPUs, each with at least `m` tenths of the memory and `c`
    /// tenths of the cores free.
    grid: [u128; 4],
}

/// Largest GPU of a kind of node: what the grid's tenths are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) memory: u64,
    pub(crate) cores: u32,
}

impl Scale {
    /// Cell of an amount, rounded down.
    fn cell(self, memory: u64, cores: u32) -> (u64, u64) {
        let most = u128::from(STEPS) - 1;
        let step =
            |amount: u64, whole: u64| (u128::from(amount) * most / u128::from(whole.max(1))).min(most) as u64;
        (step(memory, self.memory), step(cores.into(), self.cores.into()))
    }

    /// Bit that must be set where so much fits.
    pub(crate) fn bit(self, memory: u64, cores: u32) -> u128 {
        let (m, c) = self.cell(memory, cores);
        1 << (m * STEPS + c)
    }
}

impl Summary {
    pub(crate) const NONE: Self = Self {
        nodes: 0,
        gpus: 0,
        unhealthy: 0,
        crowded: 0,
        cpu: Range::NONE,
        memory: Range::NONE,
        pods: Range::NONE,
        gpu_memory: Range::NONE,
        gpu_cores: Range::NONE,
        whole: 0,
        grid: [0; 4],
    };

    /// Of a node with so much free CPU, memory and places.
    pub(crate) fn of((cpu, memory, pods): Free, gpus: &[Vacancy], scale: Scale) -> Self {
        let mut sum = Self { nodes: u32::from(!gpus.is_empty()), gpus: gpus.len() as u32, ..Self::NONE };
        sum.cpu.add(cpu);
        sum.memory.add(memory);
        sum.pods.add(pods);
        let mut cells = [0u8; (STEPS * STEPS) as usize];
        for gpu in gpus {
            if gpu.is_unhealthy {
                sum.unhealthy += 1;
                continue;
            }
            if gpu.places == 0 {
                sum.crowded += 1;
                continue;
            }
            let memory = i64::try_from(gpu.memory).unwrap_or(i64::MAX);
            sum.gpu_memory.add(memory);
            sum.gpu_cores.add(gpu.cores.into());
            sum.whole = sum.whole.saturating_add(memory);
            let (m, c) = scale.cell(gpu.memory, gpu.cores);
            let cell = &mut cells[(m * STEPS + c) as usize];
            *cell = cell.saturating_add(1);
        }
        sum.grid = grid(&cells);
        sum
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.nodes += other.nodes;
        self.gpus += other.gpus;
        self.unhealthy += other.unhealthy;
        self.crowded += other.crowded;
        self.cpu.merge(other.cpu);
        self.memory.merge(other.memory);
        self.pods.merge(other.pods);
        self.gpu_memory.merge(other.gpu_memory);
        self.gpu_cores.merge(other.gpu_cores);
        self.whole = self.whole.max(other.whole);
        for (mine, theirs) in self.grid.iter_mut().zip(other.grid) {
            *mine |= theirs;
        }
    }

    /// Whether some node may have `count` open GPUs with so much free: false is certain.
    pub(crate) fn may_have(&self, count: u32, bit: u128) -> bool {
        self.grid[count.max(1).ilog2().min(3) as usize] & bit != 0
    }
}

/// Turns GPUs per cell into the four masks: a cell counts the GPUs in it and in all cells above it.
fn grid(cells: &[u8; (STEPS * STEPS) as usize]) -> [u128; 4] {
    let mut masks = [0; 4];
    let mut above = [0u32; STEPS as usize];
    for m in (0..STEPS).rev() {
        let mut row = 0;
        for c in (0..STEPS).rev() {
            let at = (m * STEPS + c) as usize;
            row += u32::from(cells[at]);
            above[c as usize] += row;
            let count = above[c as usize];
            for (n, mask) in masks.iter_mut().enumerate() {
                if count >= 1 << n {
                    *mask |= 1 << at;
                }
            }
        }
    }
    masks
}
