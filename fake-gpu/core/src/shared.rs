//! The mapped file and its lock.
//!
//! The lock is an open-file-description lock on byte 0 together with a mutex in the process: the kernel drops it with
//! its last descriptor, however the holder ended, and threads of one process exclude each other by the mutex. A holder
//! that dies in the middle leaves a queue entry that is not counted yet, a step of the timeline that the next one
//! completes, or a count that its slot's end corrects.
//!
//! A forked child shares its parent's opening and so its lock: it must not use the parent's [`Gpus`] but open its own
//! ([`Gpus::is_inherited`]).

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, TryLockError};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::layout::{
    GpuRecord, Layout, MAGIC, MAX_GPUS, MAX_PROCESSES, QUEUE, SLOT_LOCKS, TimingRecord, VERSION, XIDS,
    XidRecord, put_text, text,
};
use crate::profile::{Description, Spec};
use crate::{FakeGpuError, lock, timeline};

/// The byte everything is changed under.
const STATE: i64 = 0;

/// The GPUs of a node. Clones are the same opening.
#[derive(Debug, Clone)]
pub struct Gpus {
    pub(crate) opening: Arc<Opening>,
}

/// One opening of the file.
#[derive(Debug)]
pub(crate) struct Opening {
    path: PathBuf,
    pub(crate) file: File,
    /// Another opening that never holds a lock, so that it sees who does, this process included.
    pub(crate) probe: File,
    /// Absent where the file can only be read, as in a read-only mount of the driver root.
    pub(crate) map: Option<MmapRaw>,
    threads: Mutex<()>,
    /// Device and inode number.
    pub(crate) id: (u64, u64),
    pub(crate) timing: TimingRecord,
    /// Process that opened it.
    opener: u32,
}

/// The file while this thread may change it.
///
/// Of a file that can only be read it holds a copy: what is changed there nobody else sees, which is right for bringing
/// the timeline up to date and for leaving out dead processes.
pub struct Locked<'a> {
    owner: &'a Opening,
    copy: Option<MmapMut>,
    _thread: MutexGuard<'a, ()>,
}

fn write(record: &mut GpuRecord, spec: &Spec) {
    put_text(&mut record.uuid, &spec.uuid);
    put_text(&mut record.product, &spec.model.product);
    record.total = spec.model.total_mib << 20;
    record.reserved = spec.model.reserved_mib << 20;
    record.context_overhead = spec.model.context_mib << 20;
    record.module_overhead = spec.model.module_mib << 20;
    record.memory_rate = spec.model.memory_rate;
    record.copy_rate = spec.model.copy_rate;
    record.compute = [spec.model.compute.0, spec.model.compute.1];
    record.multiprocessors = spec.model.multiprocessors;
    record.threads = spec.model.threads;
    record.cores = spec.model.cores;
    record.brand = spec.model.brand;
    record.architecture = spec.model.architecture;
    record.bus = spec.bus;
    record.root = spec.root;
    record.numa = spec.numa;
    record.nvlink = spec.nvlink;
}

fn is(record: &GpuRecord, spec: &Spec) -> bool {
    text(&record.uuid) == spec.uuid
        && text(&record.product) == spec.model.product
        && (record.total, record.reserved) == (spec.model.total_mib << 20, spec.model.reserved_mib << 20)
        && record.context_overhead == spec.model.context_mib << 20
        && record.module_overhead == spec.model.module_mib << 20
        && (record.memory_rate, record.copy_rate) == (spec.model.memory_rate, spec.model.copy_rate)
        && record.compute == [spec.model.compute.0, spec.model.compute.1]
        && (record.multiprocessors, record.threads, record.cores)
            == (spec.model.multiprocessors, spec.model.threads, spec.model.cores)
        && (record.brand, record.architecture) == (spec.model.brand, spec.model.architecture)
        && (record.bus, record.root) == (spec.bus, spec.root)
        && (record.numa, record.nvlink) == (spec.numa, spec.nvlink)
}

/// Forks that lie between this process and the first of its line that had a file open.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Counts from now on, without a system call to look.
fn forks() -> u32 {
    static COUNTED: Once = Once::new();
    // SAFETY: the handler only adds to an atomic. Without memory for it a child takes its parent's files for its own.
    COUNTED.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forked));
    });
    FORKS.load(Ordering::Relaxed)
}

impl Gpus {
    /// Writes a fresh file; one that is there already with the same GPUs is left as it is, in use or not.
    ///
    /// # Errors
    /// [`FakeGpuError::Io`].
    pub fn create(path: &Path, description: &Description) -> Result<(), FakeGpuError> {
        let io = |action| move |source| FakeGpuError::Io { action, path: path.to_owned(), source };
        let (specs, timing) = (&description.gpus, description.timing);
        let is_there = Self::open(path).is_ok_and(|g| {
            let same = |l: &Locked<'_>| l.gpus.iter().zip(specs).all(|(record, spec)| is(record, spec));
            g.count() == specs.len() && g.timing() == timing && same(&g.lock())
        });
        if is_there {
            return Ok(());
        }
        let part = path.with_extension("part");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&part);
        let file = file.map_err(io("create"))?;
        file.set_len(size_of::<Layout>() as u64).map_err(io("size"))?;
        let gpus = Self::map(file, &part, true)?;
        let mut locked = gpus.lock();
        locked.header.magic = MAGIC;
        locked.header.version = VERSION;
        locked.header.gpus = specs.len().min(MAX_GPUS) as u32;
        locked.header.timing = TimingRecord { queue: timing.queue.clamp(1, QUEUE as u32), ..timing };
        locked.gpus.iter_mut().zip(specs).for_each(|(record, spec)| write(record, spec));
        drop(locked);
        let everyone = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&part, everyone).map_err(io("set the mode of"))?;
        std::fs::rename(&part, path).map_err(io("rename"))
    }

    /// Maps an existing file.
    ///
    /// # Errors
    /// [`FakeGpuError::Io`] or [`FakeGpuError::Format`].
    pub fn open(path: &Path) -> Result<Self, FakeGpuError> {
        let io = |action| move |source| FakeGpuError::Io { action, path: path.to_owned(), source };
        let (file, writable) = match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                (File::open(path).map_err(io("open"))?, false)
            }
            other => (other.map_err(io("open"))?, true),
        };
        let length = file.metadata().map_err(io("read"))?.len();
        let wrong = |why: String| FakeGpuError::Format { path: path.to_owned(), why };
        if length != size_of::<Layout>() as u64 {
            return Err(wrong(format!("{length} bytes instead of {}", size_of::<Layout>())));
        }
        let mut gpus = Self::map(file, path, writable)?;
        let (magic, version, timing) = {
            let locked = gpus.lock();
            (locked.header.magic, locked.header.version, locked.header.timing)
        };
        if magic != MAGIC || version != VERSION {
            return Err(wrong(format!("magic {magic:x}, version {version}")));
        }
        if let Some(opening) = Arc::get_mut(&mut gpus.opening) {
            opening.timing = timing;
        }
        Ok(gpus)
    }

    fn map(file: File, path: &Path, writable: bool) -> Result<Self, FakeGpuError> {
        let io = |action| move |source| FakeGpuError::Io { action, path: path.to_owned(), source };
        let map = writable.then(|| MmapRaw::map_raw(&file)).transpose().map_err(io("map"))?;
        let probe = File::open(path).map_err(io("open"))?;
        let metadata = file.metadata().map_err(io("read"))?;
        let id = (metadata.dev(), metadata.ino());
        let (path, threads, opener) = (path.to_owned(), Mutex::new(()), forks());
        let timing = Description::real_time();
        Ok(Self { opening: Arc::new(Opening { path, file, probe, map, threads, id, timing, opener }) })
    }

    /// How time passes.
    pub fn timing(&self) -> TimingRecord {
        self.opening.timing
    }

    /// Whether this process got it from its parent by fork. Then it must open its own.
    pub fn is_inherited(&self) -> bool {
        self.opening.opener != FORKS.load(Ordering::Relaxed)
    }

    /// Takes the lock.
    pub fn lock(&self) -> Locked<'_> {
        self.opening.lock()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.opening.path
    }

    /// Number of GPUs.
    pub fn count(&self) -> usize {
        (self.lock().header.gpus as usize).min(MAX_GPUS)
    }

    /// UUID of a GPU; empty past the last.
    pub fn uuid(&self, index: usize) -> String {
        self.lock().gpus.get(index).map(|g| text(&g.uuid)).unwrap_or_default()
    }

    /// Index of a UUID.
    ///
    /// # Errors
    /// [`FakeGpuError::UnknownGpu`].
    pub fn index(&self, uuid: &str) -> Result<usize, FakeGpuError> {
        let found = (0..self.count()).find(|i| self.uuid(*i).eq_ignore_ascii_case(uuid));
        found.ok_or_else(|| FakeGpuError::UnknownGpu(uuid.to_owned()))
    }

    /// True time a GPU was busy, in nanoseconds since the file was made.
    ///
    /// # Errors
    /// [`FakeGpuError::UnknownGpu`].
    pub fn busy_nanos(&self, uuid: &str) -> Result<u64, FakeGpuError> {
        let index = self.index(uuid)?;
        let mut locked = self.lock();
        locked.advance(index);
        locked.reap(None);
        Ok(locked.gpus[index].scheduler.busy)
    }

    /// Breaks a GPU with an Xid, or mends it with 0. Programs that wait for NVML events of it get the Xid.
    ///
    /// # Errors
    /// [`FakeGpuError::UnknownGpu`].
    pub fn set_xid(&self, uuid: &str, xid: u32) -> Result<(), FakeGpuError> {
        let index = self.index(uuid)?;
        let mut locked = self.lock();
        locked.gpus[index].xid = xid;
        if xid != 0 {
            let number = locked.header.raised;
            locked.header.xids[number as usize % XIDS] = XidRecord { gpu: index as u32, xid };
            locked.header.raised = number + 1;
        }
        Ok(())
    }

    /// Keeps a slot's byte locked for this opening; false if another has it.
    pub(crate) fn hold_slot(&self, slot: usize) -> bool {
        lock::try_take(&self.opening.file, SLOT_LOCKS + slot as i64)
    }

    /// Gives a slot's byte back.
    pub(crate) fn release_slot(&self, slot: usize) {
        lock::give(&self.opening.file, SLOT_LOCKS + slot as i64);
    }
}

impl Opening {
    pub(crate) fn lock(&self) -> Locked<'_> {
        // Held for microseconds of the machine's time. A program whose waits pass in virtual time must not see this one: it
        // would take a thread that holds it for one that virtual time has to reach.
        let thread = loop {
            match self.threads.try_lock() {
                Ok(thread) => break thread,
                Err(TryLockError::Poisoned(thread)) => break thread.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        };
        // It can only fail for a descriptor that is not open; then nothing can be done here that makes sense.
        let _ = lock::take(&self.file, STATE, self.map.is_some());
        let copy = self.map.is_none().then(|| {
            // SAFETY: the mapping is private, and the file keeps its size for as long as it exists.
            let private = unsafe { MmapOptions::new().map_copy(&self.file) };
            private.expect("a file that could be opened and has its size can be mapped")
        });
        Locked { owner: self, copy, _thread: thread }
    }
}

impl Locked<'_> {
    /// Now, by the file's clock.
    pub fn now(&self) -> u64 {
        match self.header.timing.mode {
            crate::layout::VIRTUAL => self.header.clock.now,
            _ => crate::clock::monotonic(),
        }
    }

    /// Plays a GPU's timeline up to now; gives that moment.
    pub fn advance(&mut self, gpu: usize) -> u64 {
        let now = self.now();
        timeline::advance(self, gpu, now);
        now
    }

    /// Slots that were ever used.
    pub fn slots(&self) -> usize {
        (self.header.slots as usize).min(MAX_PROCESSES)
    }

    /// Empties the slots of dead processes. `own` is a slot that is not looked at, because its holder is the caller.
    pub fn reap(&mut self, own: Option<usize>) {
        for slot in 0..self.slots() {
            if self.slots[slot].used != 0
                && Some(slot) != own
                && !lock::is_held(&self.owner.probe, SLOT_LOCKS + slot as i64)
            {
                self.clear_slot(slot);
            }
        }
    }

    /// Gives back all that a slot holds.
    pub(crate) fn clear_slot(&mut self, slot: usize) {
        let now = self.now();
        for index in 0..self.contexts.len() {
            if self.contexts[index].used != 0 && self.contexts[index].slot as usize == slot {
                timeline::end_context(self, index, now);
            }
        }
        self.drop_exports(slot);
        let record = &mut self.slots[slot];
        for per_gpu in [&mut record.memory, &mut record.overhead, &mut record.peak, &mut record.busy] {
            *per_gpu = [0; MAX_GPUS];
        }
        self.slots[slot].used = 0;
        // Who waits behind it looks again.
        crate::clock::hurry(self);
    }

    /// Bytes held on a GPU by all processes.
    pub fn used(&self, gpu: usize) -> u64 {
        self.slots[..self.slots()].iter().filter(|s| s.used != 0).map(|s| s.memory[gpu]).sum()
    }

    /// Bytes of a GPU that processes can have.
    pub fn usable(&self, gpu: usize) -> u64 {
        self.gpus[gpu].total.saturating_sub(self.gpus[gpu].reserved)
    }

    /// Charges a slot, after emptying dead ones if need be.
    ///
    /// # Errors
    /// [`FakeGpuError::OutOfMemory`].
    pub(crate) fn charge(&mut self, slot: usize, gpu: usize, bytes: u64) -> Result<(), FakeGpuError> {
        let sum = |l: &Self| l.used(gpu).checked_add(bytes).filter(|sum| *sum <= l.usable(gpu));
        let fits = match sum(self) {
            Some(sum) => Some(sum),
            None => {
                self.reap(Some(slot));
                sum(self)
            }
        };
        let used = fits.ok_or(FakeGpuError::OutOfMemory)?;
        let record = &mut self.slots[slot];
        record.memory[gpu] += bytes;
        record.peak[gpu] = record.peak[gpu].max(record.memory[gpu]);
        self.gpus[gpu].peak = self.gpus[gpu].peak.max(used);
        Ok(())
    }

    /// Takes a charge back.
    pub(crate) fn uncharge(&mut self, slot: usize, gpu: usize, bytes: u64) {
        let memory = &mut self.slots[slot].memory[gpu];
        *memory = memory.saturating_sub(bytes);
    }

    fn at(&self) -> *mut Layout {
        let shared = self.owner.map.as_ref().map(MmapRaw::as_mut_ptr);
        let copy = || self.copy.as_ref().map_or(std::ptr::null_mut(), |m| m.as_ptr().cast_mut());
        shared.unwrap_or_else(copy).cast()
    }
}

impl Deref for Locked<'_> {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        // SAFETY: there is a map or a copy, as long as a Layout (checked when the file was opened), page aligned, of plain
        // integers for which every bit pattern is a value, and nobody else changes it while the lock is held.
        unsafe { &*self.at() }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Layout {
        // SAFETY: as above; both kinds of mapping may be written, and `&mut self` makes it the only reference here.
        unsafe { &mut *self.at() }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        lock::give(&self.owner.file, STATE);
    }
}
