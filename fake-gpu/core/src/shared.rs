//! The mapped file and its lock.
//!
//! The lock is an open-file-description lock on byte 0 together with a mutex in the process: the kernel drops it with
//! its last descriptor, however the holder ended, and threads of one process exclude each other by the mutex. A holder
//! that dies in the middle leaves a queue entry that is not counted yet, or a count that its slot's end corrects.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::layout::{Layout, MAGIC, MAX_PROCESSES, SLOT_LOCKS, VERSION, text};
use crate::profile::Spec;
use crate::{FakeGpuError, timeline};

/// The GPUs of a node.
#[derive(Debug)]
pub struct Gpus {
    path: PathBuf,
    file: File,
    /// Absent where the file can only be read, as in a read-only mount of the driver root.
    map: Option<MmapRaw>,
    threads: Mutex<()>,
}

/// The file while this thread may change it.
///
/// Of a file that can only be read it holds a copy: what is changed there nobody else sees, which is right for bringing
/// the timeline up to date and for leaving out dead processes.
pub struct Locked<'a> {
    owner: &'a Gpus,
    copy: Option<MmapMut>,
    _thread: MutexGuard<'a, ()>,
}

fn lock_range(fd: RawFd, command: libc::c_int, kind: libc::c_int, start: i64) -> io::Result<libc::flock> {
    // SAFETY: flock is plain data, for which all zeroes is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = start;
    range.l_len = 1;
    loop {
        // SAFETY: fcntl gets a descriptor that is open for the caller's lifetime and a pointer to a live flock.
        let result = unsafe { libc::fcntl(fd, command, &raw mut range) };
        let error = io::Error::last_os_error();
        match result {
            0 => return Ok(range),
            _ if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

impl Gpus {
    /// Writes a fresh file; one that is there already with the same GPUs is left as it is.
    ///
    /// # Errors
    /// [`FakeGpuError::Io`].
    pub fn create(path: &Path, specs: &[Spec]) -> Result<(), FakeGpuError> {
        let io = |action| move |source| FakeGpuError::Io { action, path: path.to_owned(), source };
        let there = Self::open(path).is_ok_and(|g| {
            g.count() == specs.len() && specs.iter().enumerate().all(|(i, s)| g.uuid(i) == s.uuid)
        });
        if there {
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
        locked.header.gpus = specs.len() as u32;
        for (record, spec) in locked.gpus.iter_mut().zip(specs) {
            record.uuid[..spec.uuid.len()].copy_from_slice(spec.uuid.as_bytes());
            record.product[..spec.profile.product.len()].copy_from_slice(spec.profile.product.as_bytes());
            record.total = spec.profile.total_mib << 20;
            record.reserved = spec.profile.reserved_mib << 20;
            record.compute = [spec.profile.compute.0, spec.profile.compute.1];
            record.multiprocessors = spec.profile.multiprocessors;
            record.brand = spec.profile.brand;
            record.architecture = spec.profile.architecture;
            record.bus = spec.bus;
            record.numa = spec.numa;
        }
        drop(locked);
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
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
        let gpus = Self::map(file, path, writable)?;
        let (magic, version) = {
            let locked = gpus.lock();
            (locked.header.magic, locked.header.version)
        };
        if magic != MAGIC || version != VERSION {
            return Err(wrong(format!("magic {magic:x}, version {version}")));
        }
        Ok(gpus)
    }

    fn map(file: File, path: &Path, writable: bool) -> Result<Self, FakeGpuError> {
        let map = writable.then(|| MmapRaw::map_raw(&file)).transpose();
        let map = map.map_err(|source| FakeGpuError::Io { action: "map", path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, map, threads: Mutex::new(()) })
    }

    /// Takes the lock.
    pub fn lock(&self) -> Locked<'_> {
        let thread = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // It can only fail for a descriptor that is not open; then nothing can be done here that makes sense.
        let kind = if self.map.is_some() { libc::F_WRLCK } else { libc::F_RDLCK };
        let _ = lock_range(self.file.as_raw_fd(), libc::F_OFD_SETLKW, kind, 0);
        let copy = self.map.is_none().then(|| {
            // SAFETY: the mapping is private, and the file keeps its size for as long as it exists.
            let private = unsafe { MmapOptions::new().map_copy(&self.file) };
            private.expect("a file that could be opened and has its size can be mapped")
        });
        Locked { owner: self, copy, _thread: thread }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of GPUs.
    pub fn count(&self) -> usize {
        (self.lock().header.gpus as usize).min(crate::layout::MAX_GPUS)
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
        let now = timeline::now();
        let mut locked = self.lock();
        timeline::advance(&mut locked, index, now);
        Ok(timeline::busy(&locked, index, now))
    }

    /// Breaks a GPU with an Xid, or mends it with 0.
    ///
    /// # Errors
    /// [`FakeGpuError::UnknownGpu`].
    pub fn set_xid(&self, uuid: &str, xid: u32) -> Result<(), FakeGpuError> {
        let index = self.index(uuid)?;
        self.lock().gpus[index].xid = xid;
        Ok(())
    }

    /// Keeps a slot's byte locked for this process; false if another does.
    pub(crate) fn hold_slot(&self, slot: usize) -> bool {
        lock_range(self.file.as_raw_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, SLOT_LOCKS + slot as i64).is_ok()
    }

    /// Gives a slot's byte back.
    pub(crate) fn release_slot(&self, slot: usize) {
        let _ = lock_range(self.file.as_raw_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, SLOT_LOCKS + slot as i64);
    }

    fn is_held_elsewhere(&self, slot: usize) -> bool {
        let asked =
            lock_range(self.file.as_raw_fd(), libc::F_OFD_GETLK, libc::F_WRLCK, SLOT_LOCKS + slot as i64);
        asked.is_ok_and(|range| i32::from(range.l_type) != libc::F_UNLCK)
    }
}

impl Locked<'_> {
    /// Empties the slots of dead processes. `own` is the caller's slot, whose lock cannot be seen by its holder.
    pub fn reap(&mut self, own: Option<usize>) {
        for slot in 0..MAX_PROCESSES {
            if self.slots[slot].used != 0 && Some(slot) != own && !self.owner.is_held_elsewhere(slot) {
                self.clear_slot(slot);
            }
        }
    }

    /// Gives back all that a slot holds.
    pub(crate) fn clear_slot(&mut self, slot: usize) {
        for context in self.contexts.iter_mut().filter(|c| c.used != 0 && c.slot as usize == slot) {
            context.used = 0;
        }
        self.slots[slot].memory = [0; crate::layout::MAX_GPUS];
        self.slots[slot].used = 0;
    }

    /// Bytes allocated on a GPU by all processes.
    pub fn used(&self, gpu: usize) -> u64 {
        self.slots.iter().filter(|s| s.used != 0).map(|s| s.memory[gpu]).sum()
    }
}

impl Locked<'_> {
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
        let _ = lock_range(self.owner.file.as_raw_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, 0);
    }
}
