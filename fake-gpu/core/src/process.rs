//! One process on the GPUs: its slot, allocations, contexts, and waiting.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::contents::Contents;
use crate::layout::{EVENTS, MAX_CONTEXTS, MAX_PROCESSES};
use crate::{FakeGpuError, Gpus, timeline};

mod memory;
#[cfg(test)]
mod tests;

pub use memory::Kind;

/// Xid of a GPU that has fallen off the bus: it takes no more work.
pub const OFF_THE_BUS: u32 = 79;

/// This process on the GPUs. Ends with the process, however that ends.
#[derive(Debug)]
pub struct Process {
    gpus: Gpus,
    slot: usize,
    own: Mutex<Own>,
}

/// What only this process knows.
#[derive(Debug)]
struct Own {
    next: u64,
    next_narrow: u64,
    /// By address.
    live: BTreeMap<u64, Allocation>,
    /// Event stamps by context.
    stamps: HashMap<usize, Stamps>,
}

#[derive(Debug)]
struct Allocation {
    gpu: usize,
    context: usize,
    /// As asked.
    bytes: u64,
    /// As charged.
    charged: u64,
    contents: Contents,
}

#[derive(Debug, Default)]
struct Stamps {
    next: u32,
    free: Vec<u32>,
}

/// A CUDA context of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    index: usize,
    gpu: usize,
}

impl Context {
    /// Its GPU.
    pub fn gpu(self) -> usize {
        self.gpu
    }
}

impl Process {
    /// Takes a slot.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`].
    pub fn attach(gpus: Gpus) -> Result<Self, FakeGpuError> {
        let mut locked = gpus.lock();
        locked.reap(None);
        let free = (0..MAX_PROCESSES).find(|slot| locked.slots[*slot].used == 0 && gpus.hold_slot(*slot));
        let slot = free.ok_or(FakeGpuError::Full("process slots"))?;
        locked.clear_slot(slot);
        let record = &mut locked.slots[slot];
        record.pid = std::process::id();
        record.pid_namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
        record.used = 1;
        drop(locked);
        // Device addresses only have to differ within the process, from those of managed memory too, which are the
        // host's own. Those of the first ABI have 32 bits.
        let (next, next_narrow) = (0x0302_0000_0000, 0x0010_0000);
        let own = Mutex::new(Own { next, next_narrow, live: BTreeMap::new(), stamps: HashMap::new() });
        Ok(Self { gpus, slot, own })
    }

    /// The GPUs.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a context; it takes the GPU's overhead per context.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`], [`FakeGpuError::OutOfMemory`], [`FakeGpuError::Lost`].
    pub fn create_context(&self, gpu: usize) -> Result<Context, FakeGpuError> {
        let mut locked = self.gpus.lock();
        if locked.gpus[gpu].xid == OFF_THE_BUS {
            return Err(FakeGpuError::Lost);
        }
        if locked.contexts.iter().all(|c| c.used != 0) {
            locked.reap(Some(self.slot));
        }
        let free = (0..MAX_CONTEXTS).find(|i| locked.contexts[*i].used == 0);
        let index = free.ok_or(FakeGpuError::Full("contexts"))?;
        let overhead = locked.gpus[gpu].context_overhead;
        locked.charge(self.slot, gpu, overhead)?;
        timeline::begin_context(&mut locked, index, self.slot, gpu);
        Ok(Context { index, gpu })
    }

    /// Ends a context once its work has ended, and frees what was allocated in it.
    pub fn destroy_context(&self, context: Context) {
        self.synchronize(context);
        let mut own = self.own();
        own.stamps.remove(&context.index);
        let mut freed = 0;
        own.live.retain(|_, allocation| {
            let stays = allocation.context != context.index;
            freed += if stays { 0 } else { allocation.charged };
            stays
        });
        drop(own);
        let mut locked = self.gpus.lock();
        let now = self.gpus.clock().now();
        timeline::end_context(&mut locked, context.index, now);
        freed += locked.gpus[context.gpu].context_overhead;
        let memory = &mut locked.slots[self.slot].memory[context.gpu];
        *memory = memory.saturating_sub(freed);
    }

    /// Queues a kernel; blocks while the queue is full.
    ///
    /// # Errors
    /// [`FakeGpuError::Lost`].
    pub fn launch(&self, context: Context, nanos: u64) -> Result<(), FakeGpuError> {
        self.queue(context, nanos.max(1), None).map(drop)
    }

    fn queue(&self, context: Context, nanos: u64, stamp: Option<u32>) -> Result<u64, FakeGpuError> {
        let mut is_lost = false;
        let number = self.when(|locked, now| {
            is_lost = locked.gpus[context.gpu].xid == OFF_THE_BUS;
            if is_lost { Ok(0) } else { timeline::queue(locked, context.index, nanos, stamp, now) }
        });
        if is_lost { Err(FakeGpuError::Lost) } else { Ok(number) }
    }

    /// Asks again and again until there is an answer, sleeping as long as it says. Whoever had to wait looks for dead
    /// processes first: one of them may be what it waits behind.
    fn when<T>(&self, mut ask: impl FnMut(&mut crate::Locked<'_>, u64) -> Result<T, u64>) -> T {
        let mut has_waited = false;
        loop {
            let mut locked = self.gpus.lock();
            if has_waited {
                locked.reap(Some(self.slot));
            }
            let answer = ask(&mut locked, self.gpus.clock().now());
            drop(locked);
            match answer {
                Ok(answer) => return answer,
                Err(again) => self.gpus.clock().sleep_until(again),
            }
            has_waited = true;
        }
    }

    /// Whether everything queued has ended.
    pub fn is_idle(&self, context: Context) -> bool {
        timeline::idle(&mut self.gpus.lock(), context.index, self.gpus.clock().now()).is_ok()
    }

    /// Waits until everything queued has ended.
    pub fn synchronize(&self, context: Context) {
        self.when(|locked, now| timeline::idle(locked, context.index, now));
    }

    /// An event of a context.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`].
    pub fn create_event(&self, context: Context) -> Result<u32, FakeGpuError> {
        let mut own = self.own();
        let stamps = own.stamps.entry(context.index).or_default();
        if let Some(stamp) = stamps.free.pop() {
            return Ok(stamp);
        }
        if stamps.next as usize >= EVENTS {
            return Err(FakeGpuError::Full("events of the context"));
        }
        stamps.next += 1;
        Ok(stamps.next - 1)
    }

    /// Gives an event back. Its stamp may be used again at once: sequences tell new records from old ones.
    pub fn destroy_event(&self, context: Context, stamp: u32) {
        if let Some(stamps) = self.own().stamps.get_mut(&context.index) {
            stamps.free.push(stamp);
        }
    }

    /// Records an event behind what is queued; gives the sequence to ask for.
    ///
    /// # Errors
    /// [`FakeGpuError::Lost`].
    pub fn record(&self, context: Context, stamp: u32) -> Result<u64, FakeGpuError> {
        Ok(self.queue(context, 0, Some(stamp))? + 1)
    }

    /// When a recorded event was reached, if it was.
    pub fn reached(&self, context: Context, stamp: u32, sequence: u64) -> Option<u64> {
        let mut locked = self.gpus.lock();
        timeline::stamped(&mut locked, context.index, stamp, sequence, self.gpus.clock().now()).ok()
    }

    /// Waits for a recorded event.
    pub fn wait(&self, context: Context, stamp: u32, sequence: u64) -> u64 {
        self.when(|locked, now| timeline::stamped(locked, context.index, stamp, sequence, now))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.gpus.lock().clear_slot(self.slot);
        self.gpus.release_slot(self.slot);
    }
}
