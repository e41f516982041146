//! One process on the GPUs: its slot, contexts, and waiting.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::layout::{COPY, EVENTS, Item, KERNEL, MAX_CONTEXTS, MAX_PROCESSES, NONE, REAL};
use crate::{FakeGpuError, Gpus, timeline};

mod memory;
#[cfg(test)]
mod tests;

pub use memory::{Kind, Store};

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
    live: BTreeMap<u64, memory::Span>,
    /// Event stamps by context.
    stamps: HashMap<usize, Stamps>,
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
        locked.header.slots = locked.header.slots.max(slot as u32 + 1);
        let record = &mut locked.slots[slot];
        record.pid = std::process::id();
        record.pid_namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
        record.used = 1;
        drop(locked);
        gpus.join_as_process();
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

    fn is_timeless(&self) -> bool {
        self.gpus.timing().mode == NONE
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
        locked.slots[self.slot].overhead[gpu] += overhead;
        timeline::begin_context(&mut locked, index, self.slot, gpu);
        Ok(Context { index, gpu })
    }

    /// Ends a context once its work has ended, and frees what was allocated in it.
    pub fn destroy_context(&self, context: Context) {
        self.synchronize(context);
        self.free_all(context);
        let mut own = self.own();
        own.stamps.remove(&context.index);
        drop(own);
        let mut locked = self.gpus.lock();
        let now = locked.now();
        timeline::end_context(&mut locked, context.index, now);
        let overhead = locked.gpus[context.gpu].context_overhead;
        locked.uncharge(self.slot, context.gpu, overhead);
        let sum = &mut locked.slots[self.slot].overhead[context.gpu];
        *sum = sum.saturating_sub(overhead);
    }

    /// Queues a kernel; blocks while the queue is full.
    ///
    /// # Errors
    /// [`FakeGpuError::Lost`].
    pub fn launch(&self, context: Context, nanos: u64) -> Result<(), FakeGpuError> {
        if self.is_timeless() {
            return Ok(());
        }
        self.gpus.spend(self.gpus.timing().launch);
        self.queue(context, Item { length: nanos.max(1), stamp: 0, kind: KERNEL }).map(drop)
    }

    /// Queues a memset of so many bytes: a kernel that is as long as writing them takes.
    ///
    /// # Errors
    /// [`FakeGpuError::Lost`].
    pub fn queue_set(&self, context: Context, bytes: u64) -> Result<(), FakeGpuError> {
        self.queue_bytes(context, bytes, KERNEL)
    }

    /// Queues a copy of so many bytes to or from the host.
    ///
    /// # Errors
    /// [`FakeGpuError::Lost`].
    pub fn queue_copy(&self, context: Context, bytes: u64) -> Result<(), FakeGpuError> {
        self.queue_bytes(context, bytes, COPY)
    }

    fn queue_bytes(&self, context: Context, bytes: u64, kind: u32) -> Result<(), FakeGpuError> {
        if self.is_timeless() {
            return Ok(());
        }
        self.gpus.spend(self.gpus.timing().launch);
        let length = self.length_of(context.gpu, bytes, kind == COPY);
        if length == 0 {
            return if self.gpus.lock().gpus[context.gpu].xid == OFF_THE_BUS {
                Err(FakeGpuError::Lost)
            } else {
                Ok(())
            };
        }
        self.queue(context, Item { length, stamp: 0, kind }).map(drop)
    }

    /// Nanoseconds it takes to write so many bytes of a GPU's memory, or to copy them to or from the host.
    pub fn length_of(&self, gpu: usize, bytes: u64, is_copy: bool) -> u64 {
        let locked = self.gpus.lock();
        let rate = if is_copy { locked.gpus[gpu].copy_rate } else { locked.gpus[gpu].memory_rate };
        bytes.saturating_mul(1_000).checked_div(rate).unwrap_or(0)
    }

    fn queue(&self, context: Context, item: Item) -> Result<u64, FakeGpuError> {
        let mut is_lost = false;
        let number = self.when(|locked, now| {
            is_lost = locked.gpus[context.gpu].xid == OFF_THE_BUS;
            if is_lost { Ok(0) } else { timeline::queue(locked, context.index, item, now) }
        });
        if is_lost { Err(FakeGpuError::Lost) } else { Ok(number) }
    }

    /// Asks again and again until there is an answer, sleeping as long as it says. Whoever had to wait looks for dead
    /// processes first: one of them may be what it waits behind.
    fn when<T>(&self, mut ask: impl FnMut(&mut crate::Locked<'_>, u64) -> Result<T, u64>) -> T {
        let mut has_waited = false;
        let is_real = self.gpus.timing().mode == REAL;
        loop {
            let mut locked = self.gpus.lock();
            if has_waited && is_real {
                locked.reap(Some(self.slot));
            }
            let now = locked.now();
            let answer = ask(&mut locked, now);
            drop(locked);
            match answer {
                Ok(answer) => {
                    if has_waited {
                        self.gpus.spend(self.gpus.timing().wake);
                    }
                    return answer;
                }
                Err(again) => self.gpus.sleep_until(again),
            }
            has_waited = true;
        }
    }

    /// Whether everything queued has ended.
    pub fn is_idle(&self, context: Context) -> bool {
        if self.is_timeless() {
            return true;
        }
        self.gpus.spend(self.gpus.timing().query);
        let mut locked = self.gpus.lock();
        let now = locked.now();
        timeline::idle(&mut locked, context.index, now).is_ok()
    }

    /// Waits until everything queued has ended.
    pub fn synchronize(&self, context: Context) {
        if self.is_timeless() {
            return;
        }
        self.gpus.spend(self.gpus.timing().query);
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
        if self.is_timeless() {
            return Ok(0);
        }
        let timing = self.gpus.timing();
        self.gpus.spend(timing.record);
        Ok(self.queue(context, Item { length: timing.marker, stamp: stamp + 1, kind: KERNEL })? + 1)
    }

    /// When a recorded event was reached, if it was.
    pub fn reached(&self, context: Context, stamp: u32, sequence: u64) -> Option<u64> {
        if self.is_timeless() {
            return Some(0);
        }
        self.gpus.spend(self.gpus.timing().query);
        let mut locked = self.gpus.lock();
        let now = locked.now();
        timeline::stamped(&mut locked, context.index, stamp, sequence, now).ok()
    }

    /// Waits for a recorded event.
    pub fn wait(&self, context: Context, stamp: u32, sequence: u64) -> u64 {
        if self.is_timeless() {
            return 0;
        }
        self.gpus.spend(self.gpus.timing().query);
        self.when(|locked, now| timeline::stamped(locked, context.index, stamp, sequence, now))
    }

    /// Makes memory this process is charged for known to others; gives its number.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`].
    pub fn export(&self, gpu: Option<usize>, bytes: u64) -> Result<u64, FakeGpuError> {
        self.gpus.lock().export(self.slot, gpu, bytes)
    }

    /// Holds memory another process has made known: its GPU (`None`: host memory), its bytes, and whether it is this
    /// process's own. `None` if nobody holds it any more.
    pub fn import(&self, number: u64) -> Option<(Option<usize>, u64, bool)> {
        let found = self.gpus.lock().import(self.slot, number);
        found.map(|(gpu, bytes, owner)| (gpu, bytes, owner == self.slot))
    }

    /// No longer holds what it exported or imported. The last to do so frees it.
    pub fn drop_export(&self, number: u64) {
        self.gpus.lock().drop_export(self.slot, number);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.gpus.lock().clear_slot(self.slot);
        self.gpus.release_slot(self.slot);
    }
}
