//! What the host can read of a node's GPUs: the truth, through no driver or NVML call.

use serde::Serialize;

use crate::layout::text;
use crate::{Gpus, samples, timeline};

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
    /// Most bytes they held at once since the file was made or [`Gpus::reset_peaks`].
    pub peak: u64,
    /// Percent of the last whole second it was busy.
    pub utilization: u32,
    /// Nanoseconds it was busy since the file was made.
    pub busy_nanos: u64,
    /// Nanoseconds it changed contexts since the file was made.
    pub switching_nanos: u64,
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
    /// Of them what its contexts and modules take for themselves.
    pub overhead: u64,
    /// Most bytes it held at once.
    pub peak: u64,
    /// Percent of the last whole second its kernels ran.
    pub utilization: u32,
    /// Nanoseconds its kernels ran so far.
    pub busy_nanos: u64,
}

impl Gpus {
    /// High-water marks begin anew with what is held now.
    pub fn reset_peaks(&self) {
        let mut locked = self.lock();
        for gpu in 0..locked.gpus.len() {
            locked.gpus[gpu].peak = locked.used(gpu);
        }
        locked.slots.iter_mut().for_each(|slot| slot.peak = slot.memory);
    }

    /// Every GPU with its processes, as of now. Dead processes are gone from it.
    pub fn status(&self) -> Vec<GpuStatus> {
        (0..self.count()).map(|gpu| self.status_of(gpu)).collect()
    }

    /// One GPU with its processes; `gpu` is below [`Gpus::count`].
    pub fn status_of(&self, gpu: usize) -> GpuStatus {
        let mut locked = self.lock();
        let now = locked.advance(gpu);
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
            let percent = |context: &usize| samples::percent(&locked.contexts[*context].samples, now);
            let utilization: u32 = mine.iter().map(percent).sum();
            let record = &locked.slots[slot];
            processes.push(ProcessStatus {
                pid: record.pid,
                pid_namespace: record.pid_namespace,
                contexts: mine.len(),
                memory: record.memory[gpu],
                overhead: record.overhead[gpu],
                peak: record.peak[gpu],
                utilization: utilization.min(100),
                busy_nanos: record.busy[gpu],
            });
        }
        let used = locked.used(gpu);
        let record = &locked.gpus[gpu];
        GpuStatus {
            uuid: text(&record.uuid),
            product: text(&record.product),
            total: record.total,
            reserved: record.reserved,
            used,
            peak: record.peak,
            utilization: samples::percent(&record.samples, now),
            busy_nanos: record.scheduler.busy,
            switching_nanos: record.scheduler.switching,
            xid: record.xid,
            processes,
        }
    }
}
