//! One process on the GPUs: its slot, allocations, contexts, and waiting.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::layout::{EVENTS, MAX_CONTEXTS, MAX_PROCESSES};
use crate::{FakeGpuError, Gpus, timeline};

/// Allocations are rounded up to this many bytes, as the driver does for small ones.
const GRANULE: u64 = 512;

/// This process on the GPUs. Ends with the process, however that ends.
#[derive(Debug)]
pub struct Process {
    gpus: Gpus,
    slot: usize,
    allocations: Mutex<Allocations>,
}

#[derive(Debug, Default)]
struct Allocations {
    next: u64,
    live: HashMap<u64, Allocation>,
    stamps: HashMap<usize, HashSet<u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Allocation {
    gpu: usize,
    context: usize,
    bytes: u64,
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
        locked.slots[slot].pid = std::process::id();
        locked.slots[slot].used = 1;
        drop(locked);
        // Device addresses of a real driver look like this; they only have to differ within the process.
        let allocations = Mutex::new(Allocations { next: 0x7f00_0000_0000, ..Allocations::default() });
        Ok(Self { gpus, slot, allocations })
    }

    /// The GPUs.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    fn allocations(&self) -> std::sync::MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Free and total bytes of a GPU; total is without what the driver keeps.
    pub fn memory(&self, gpu: usize) -> (u64, u64) {
        let mut locked = self.gpus.lock();
        locked.reap(Some(self.slot));
        let total = locked.gpus[gpu].total - locked.gpus[gpu].reserved;
        (total.saturating_sub(locked.used(gpu)), total)
    }

    /// Allocates; gives an address.
    ///
    /// # Errors
    /// [`FakeGpuError::OutOfMemory`].
    pub fn alloc(&self, context: Context, bytes: u64) -> Result<u64, FakeGpuError> {
        let rounded = bytes.checked_next_multiple_of(GRANULE).ok_or(FakeGpuError::OutOfMemory)?;
        let mut locked = self.gpus.lock();
        let fits = |l: &crate::Locked<'_>| {
            let total = l.gpus[context.gpu].total - l.gpus[context.gpu].reserved;
            l.used(context.gpu).checked_add(rounded).is_some_and(|sum| sum <= total)
        };
        if !fits(&locked) {
            locked.reap(Some(self.slot));
        }
        if !fits(&locked) {
            return Err(FakeGpuError::OutOfMemory);
        }
        locked.slots[self.slot].memory[context.gpu] += rounded;
        drop(locked);
        let mut allocations = self.allocations();
        let address = allocations.next;
        allocations.next += rounded.max(GRANULE);
        let allocation = Allocation { gpu: context.gpu, context: context.index, bytes: rounded };
        allocations.live.insert(address, allocation);
        Ok(address)
    }

    /// Frees; false for an address that is not allocated.
    pub fn free(&self, address: u64) -> bool {
        let Some(allocation) = self.allocations().live.remove(&address) else { return false };
        let mut locked = self.gpus.lock();
        let memory = &mut locked.slots[self.slot].memory[allocation.gpu];
        *memory = memory.saturating_sub(allocation.bytes);
        true
    }

    /// Size of the allocation at an address.
    pub fn size(&self, address: u64) -> Option<u64> {
        self.allocations().live.get(&address).map(|a| a.bytes)
    }

    /// Makes a context.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`].
    pub fn create_context(&self, gpu: usize) -> Result<Context, FakeGpuError> {
        let mut locked = self.gpus.lock();
        if locked.contexts.iter().all(|c| c.used != 0) {
            locked.reap(Some(self.slot));
        }
        let free = (0..MAX_CONTEXTS).find(|i| locked.contexts[*i].used == 0);
        let index = free.ok_or(FakeGpuError::Full("contexts"))?;
        let context = &mut locked.contexts[index];
        context.slot = self.slot as u32;
        context.gpu = gpu as u32;
        (context.begun, context.queued, context.ends_at, context.busy) = (0, 0, 0, 0);
        context.stamps.iter_mut().for_each(|s| s.sequence = 0);
        context.used = 1;
        Ok(Context { index, gpu })
    }

    /// Ends a context and frees what was allocated in it.
    pub fn destroy_context(&self, context: Context) {
        let mut allocations = self.allocations();
        allocations.stamps.remove(&context.index);
        let mine: Vec<u64> =
            allocations.live.iter().filter(|(_, a)| a.context == context.index).map(|(p, _)| *p).collect();
        drop(allocations);
        for address in mine {
            self.free(address);
        }
        self.gpus.lock().contexts[context.index].used = 0;
    }

    /// Queues a kernel; blocks while the queue is full.
    pub fn launch(&self, context: Context, nanos: u64) {
        self.queue(context, nanos.max(1), None);
    }

    fn queue(&self, context: Context, nanos: u64, stamp: Option<u32>) -> u64 {
        loop {
            let answer = timeline::queue(&mut self.gpus.lock(), context.index, nanos, stamp, timeline::now());
            match answer {
                Ok(number) => return number,
                Err(again) => sleep_until(again),
            }
        }
    }

    /// Whether everything queued has ended.
    pub fn is_idle(&self, context: Context) -> bool {
        timeline::idle(&mut self.gpus.lock(), context.index, timeline::now()).is_ok()
    }

    /// Waits until everything queued has ended.
    pub fn synchronize(&self, context: Context) {
        loop {
            let answer = timeline::idle(&mut self.gpus.lock(), context.index, timeline::now());
            match answer {
                Ok(()) => return,
                Err(again) => sleep_until(again),
            }
        }
    }

    /// An event of a context.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`].
    pub fn create_event(&self, context: Context) -> Result<u32, FakeGpuError> {
        let mut allocations = self.allocations();
        let taken = allocations.stamps.entry(context.index).or_default();
        let free = (0..EVENTS as u32).find(|s| !taken.contains(s));
        let stamp = free.ok_or(FakeGpuError::Full("events of the context"))?;
        taken.insert(stamp);
        Ok(stamp)
    }

    /// Gives an event back.
    pub fn destroy_event(&self, context: Context, stamp: u32) {
        if let Some(taken) = self.allocations().stamps.get_mut(&context.index) {
            taken.remove(&stamp);
        }
    }

    /// Records an event behind what is queued; gives the sequence to ask for.
    pub fn record(&self, context: Context, stamp: u32) -> u64 {
        self.queue(context, 0, Some(stamp)) + 1
    }

    /// When a recorded event was reached, if it was.
    pub fn reached(&self, context: Context, stamp: u32, sequence: u64) -> Option<u64> {
        timeline::stamped(&mut self.gpus.lock(), context.index, stamp, sequence, timeline::now()).ok()
    }

    /// Waits for a recorded event.
    pub fn wait(&self, context: Context, stamp: u32, sequence: u64) -> u64 {
        loop {
            let now = timeline::now();
            let answer = timeline::stamped(&mut self.gpus.lock(), context.index, stamp, sequence, now);
            match answer {
                Ok(time) => return time,
                Err(again) => sleep_until(again),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.gpus.lock().clear_slot(self.slot);
        self.gpus.release_slot(self.slot);
    }
}

/// At most 20 ms at a time: another process may end, and with it what this one waits behind.
fn sleep_until(time: u64) {
    let left = time.saturating_sub(timeline::now()).clamp(1_000, 20_000_000);
    std::thread::sleep(Duration::from_nanos(left));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    const MIB: u64 = 1 << 20;

    fn gpus(folder: &tempfile::TempDir) -> Gpus {
        let path = folder.path().join("gpus");
        Gpus::create(&path, &profile::parse("T4x1", "node").unwrap()).unwrap();
        Gpus::open(&path).unwrap()
    }

    #[test]
    fn all_but_the_reserved_memory_can_be_had_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::attach(gpus(&folder)).unwrap();
        let context = process.create_context(0).unwrap();
        let whole = process.alloc(context, 15_104 * MIB).unwrap();
        assert!(matches!(process.alloc(context, 1), Err(FakeGpuError::OutOfMemory)));
        assert!(process.free(whole));
        assert!(!process.free(whole));
        assert_eq!(process.memory(0), (15_104 * MIB, 15_104 * MIB));
    }

    #[test]
    fn processes_share_the_memory_and_an_ended_one_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Process::attach(gpus(&folder)).unwrap(), Process::attach(gpus(&folder)).unwrap());
        let (a, b) = (one.create_context(0).unwrap(), two.create_context(0).unwrap());
        one.alloc(a, 10_000 * MIB).unwrap();
        assert!(two.alloc(b, 10_000 * MIB).is_err());
        drop(one);
        assert!(two.alloc(b, 10_000 * MIB).is_ok());
    }

    #[test]
    fn a_slot_nobody_locks_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::attach(gpus(&folder)).unwrap();
        // As a killed process leaves it: charged, in use, its lock gone.
        let mut locked = process.gpus.lock();
        locked.slots[7].used = 1;
        locked.slots[7].memory[0] = 9_000 * MIB;
        drop(locked);
        assert_eq!(process.memory(0).0, 15_104 * MIB);
    }

    #[test]
    fn a_context_takes_its_allocations_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::attach(gpus(&folder)).unwrap();
        let context = process.create_context(0).unwrap();
        process.alloc(context, 100 * MIB).unwrap();
        process.destroy_context(context);
        assert_eq!(process.memory(0).0, 15_104 * MIB);
    }
}
