//! What the host can read of a node's GPUs: the truth, through no driver or NVML call.

use serde::Serialize;

use crate::layout::text;
use crate::{Gpus, timeline};

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuStatus {
    /// NVML UUID.
    pub uuid: String,
    /// Product name.
    pub product: String,
    /// Memory in bytes, what the driver keeps included.
    pub total: u64,
    /// Of it the driver's, in bytes.
    pub reserved: u64,
    /// Bytes processes hold.
    pub used: u64,
    /// Percent of the last whole second it was busy.
    pub utilization: u32,
    /// Nanoseconds it was busy since the file was made.
    pub busy_nanos: u64,
    /// The Xid that broke it; 0 if it works.
    pub xid: u32,
    /// Who uses it.
    pub processes: Vec<ProcessStatus>,
}

/// One process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Id in its own pid namespace.
    pub pid: u32,
    /// Inode number of that namespace.
    pub pid_namespace: u64,
    /// Contexts on this GPU.
    pub contexts: usize,
    /// Bytes it holds.
    pub memory: u64,
    /// Percent of the last whole second its kernels ran.
    pub utilization: u32,
    /// Nanoseconds its kernels ran so far.
    pub busy_nanos: u64,
}

impl Gpus {
    /// Every GPU with its processes, as of now. Dead processes are gone from it.
    pub fn status(&self) -> Vec<GpuStatus> {
        (0..self.count()).map(|gpu| self.status_of(gpu)).collect()
    }

    /// One GPU with its processes; `gpu` is below [`Gpus::count`].
    pub fn status_of(&self, gpu: usize) -> GpuStatus {
        let mut locked = self.lock();
        let now = self.clock().now();
        timeline::advance(&mut locked, gpu, now);
        locked.reap(None);
        let mut processes = Vec::new();
        for slot in 0..locked.slots.len() {
            if locked.slots[slot].used == 0 {
                continue;
            }
            let mine: Vec<usize> = timeline::contexts(&locked, gpu)
                .filter(|index| locked.contexts[*index].slot as usize == slot)
                .collect();
            if mine.is_empty() {
                continue;
            }
            let utilization: u32 = mine.iter().map(|i| locked.contexts[*i].samples.percent(now)).sum();
            processes.push(ProcessStatus {
                pid: locked.slots[slot].pid,
                pid_namespace: locked.slots[slot].pid_namespace,
                contexts: mine.len(),
                memory: locked.slots[slot].memory[gpu],
                utilization: utilization.min(100),
                busy_nanos: timeline::busy_of(&locked, gpu, slot, now),
            });
        }
        let used = locked.used(gpu);
        let busy_nanos = timeline::busy(&locked, gpu, now);
        let record = &mut locked.gpus[gpu];
        GpuStatus {
            uuid: text(&record.uuid),
            product: text(&record.product),
            total: record.total,
            reserved: record.reserved,
            used,
            utilization: record.samples.percent(now),
            busy_nanos,
            xid: record.xid,
            processes,
        }
    }
}
