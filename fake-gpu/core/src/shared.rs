//! The mapped file and its lock.
//!
//! The lock is an open-file-description lock on byte 0 together with a mutex in the process: the kernel drops it with
//! its last descriptor, however the holder ended, and threads of one process exclude each other by the mutex. A holder
//! that dies in the middle leaves a queue entry that is not counted yet, or a count that its slot's end corrects.
//!
//! A forked child shares its parent's opening and so its lock: it must not use the parent's [`Gpus`] but open its own
//! ([`Gpus::is_inherited`]).

use std::fs::{File, OpenOptions};
use std::mem::size_of;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapRaw;

use crate::clock::{Clock, RealTime};
use crate::layout::{
    GpuRecord, Layout, MAGIC, MAX_GPUS, MAX_PROCESSES, SLOT_LOCKS, VERSION, XIDS, XidRecord, put_text, text,
};
use crate::profile::Spec;
use crate::{FakeGpuError, lock, timeline};

/// The byte everything is changed under.
const STATE: i64 = 0;

/// The GPUs of a node.
#[derive(Debug)]
pub struct Gpus {
    path: PathBuf,
    file: File,
    map: MmapRaw,
    threads: Mutex<()>,
    clock: Arc<dyn Clock>,
    /// Process that opened it.
    opener: u32,
}

/// The file while this thread may change it.
pub struct Locked<'a> {
    owner: &'a Gpus,
    _thread: MutexGuard<'a, ()>,
}

fn write(record: &mut GpuRecord, spec: &Spec) {
    put_text(&mut record.uuid, &spec.uuid);
    put_text(&mut record.product, &spec.model.product);
    record.total = spec.model.total_mib << 20;
    record.reserved = spec.model.reserved_mib << 20;
    record.context_overhead = spec.model.context_mib << 20;
    record.compute = [spec.model.compute.0, spec.model.compute.1];
    record.multiprocessors = spec.model.multiprocessors;
    record.threads = spec.model.threads;
    record.cores = spec.model.cores;
    record.brand = spec.model.brand;
    record.architecture = spec.model.architecture;
    record.bus = spec.bus;
    record.root = spec.root;
    record.numa = spec.numa;
}

fn is(record: &GpuRecord, spec: &Spec) -> bool {
    text(&record.uuid) == spec.uuid
        && text(&record.product) == spec.model.product
        && (record.total, record.reserved) == (spec.model.total_mib << 20, spec.model.reserved_mib << 20)
        && record.context_overhead == spec.model.context_mib << 20
        && record.compute == [spec.model.compute.0, spec.model.compute.1]
        && (record.multiprocessors, record.threads, record.cores)
            == (spec.model.multiprocessors, spec.model.threads, spec.model.cores)
        && (record.brand, record.architecture) == (spec.model.brand, spec.model.architecture)
        && (record.bus, record.root, record.numa) == (spec.bus, spec.root, spec.numa)
}

impl Gpus {
    /// Writes a fresh file; one that is there already with the same GPUs is left as it is, in use or not.
    ///
    /// # Errors
    /// [`FakeGpuError::Io`].
    pub fn create(path: &Path, specs: &[Spec]) -> Result<(), FakeGpuError> {
        let io = |action| move |source| FakeGpuError::Io { action, path: path.to_owned(), source };
        let is_there = Self::open(path).is_ok_and(|g| {
            g.count() == specs.len() && g.lock().gpus.iter().zip(specs).all(|(record, spec)| is(record, spec))
        });
        if is_there {
            return Ok(());
        }
        let part = path.with_extension("part");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&part);
        let file = file.map_err(io("create"))?;
        file.set_len(size_of::<Layout>() as u64).map_err(io("size"))?;
        let gpus = Self::map(file, &part)?;
        let mut locked = gpus.lock();
        locked.header.magic = MAGIC;
        locked.header.version = VERSION;
        locked.header.gpus = specs.len().min(MAX_GPUS) as u32;
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
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("read"))?.len();
        let wrong = |why: String| FakeGpuError::Format { path: path.to_owned(), why };
        if length != size_of::<Layout>() as u64 {
            return Err(wrong(format!("{length} bytes instead of {}", size_of::<Layout>())));
        }
        let gpus = Self::map(file, path)?;
        let (magic, version) = {
            let locked = gpus.lock();
            (locked.header.magic, locked.header.version)
        };
        if magic != MAGIC || version != VERSION {
            return Err(wrong(format!("magic {magic:x}, version {version}")));
        }
        Ok(gpus)
    }

    fn map(file: File, path: &Path) -> Result<Self, FakeGpuError> {
        let map = MmapRaw::map_raw(&file);
        let map = map.map_err(|source| FakeGpuError::Io { action: "map", path: path.to_owned(), source })?;
        let (threads, opener) = (Mutex::new(()), std::process::id());
        Ok(Self { path: path.to_owned(), file, map, threads, clock: Arc::new(RealTime), opener })
    }

    /// The same GPUs by another clock, which must be that of everybody who uses the file.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The clock of the GPUs' timeline.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Whether this process got it from its parent by fork. Then it must open its own.
    pub fn is_inherited(&self) -> bool {
        self.opener != std::process::id()
    }

    /// Takes the lock.
    pub fn lock(&self) -> Locked<'_> {
        let thread = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // It can only fail for a descriptor that is not open; then nothing can be done here that makes sense.
        let _ = lock::take(&self.file, STATE);
        Locked { owner: self, _thread: thread }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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
        let now = self.clock.now();
        timeline::advance(&mut locked, index, now);
        locked.reap(None);
        Ok(timeline::busy(&locked, index, now))
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
        lock::try_take(&self.file, SLOT_LOCKS + slot as i64)
    }

    /// Gives a slot's byte back.
    pub(crate) fn release_slot(&self, slot: usize) {
        lock::give(&self.file, SLOT_LOCKS + slot as i64);
    }
}

impl Locked<'_> {
    /// Empties the slots of dead processes. `own` is the caller's slot, whose lock cannot be seen by its holder.
    pub fn reap(&mut self, own: Option<usize>) {
        for slot in 0..MAX_PROCESSES {
            let is_own = Some(slot) == own;
            if self.slots[slot].used != 0
                && !is_own
                && !lock::is_held_elsewhere(&self.owner.file, SLOT_LOCKS + slot as i64)
            {
                self.clear_slot(slot);
            }
        }
    }

    /// Gives back all that a slot holds.
    pub(crate) fn clear_slot(&mut self, slot: usize) {
        let now = self.owner.clock.now();
        for index in 0..self.contexts.len() {
            if self.contexts[index].used != 0 && self.contexts[index].slot as usize == slot {
                timeline::end_context(self, index, now);
            }
        }
        self.slots[slot].memory = [0; MAX_GPUS];
        self.slots[slot].busy = [0; MAX_GPUS];
        self.slots[slot].used = 0;
    }

    /// Bytes held on a GPU by all processes.
    pub fn used(&self, gpu: usize) -> u64 {
        self.slots.iter().filter(|s| s.used != 0).map(|s| s.memory[gpu]).sum()
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
        let fits = |l: &Self| l.used(gpu).checked_add(bytes).is_some_and(|sum| sum <= l.usable(gpu));
        if !fits(self) {
            self.reap(Some(slot));
        }
        if !fits(self) {
            return Err(FakeGpuError::OutOfMemory);
        }
        self.slots[slot].memory[gpu] += bytes;
        Ok(())
    }
}

impl Deref for Locked<'_> {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        // SAFETY: the map is as long as a Layout (checked when it was made), page aligned, of plain integers for which
        // every bit pattern is a value, and nobody else changes it while the lock is held.
        unsafe { &*self.owner.map.as_ptr().cast::<Layout>() }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Layout {
        // SAFETY: as above; `&mut self` makes it the only reference in this process.
        unsafe { &mut *self.owner.map.as_mut_ptr().cast::<Layout>() }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        lock::give(&self.owner.file, STATE);
    }
}
