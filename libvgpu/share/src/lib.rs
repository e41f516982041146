//! Share files as a tenant's process finds, maps and locks them: the system calls under `vgpu-core`.
//!
//! A GPU's shares are the folders below `/run/vgpu-dra/<GPU UUID>`; a GPU without such a folder has no limits here. A
//! folder that is there and cannot be used is an error, never "no limits".
//!
//! A slot's lock is on the open file description that the mapping of `usage` keeps alive, and the mapping is not passed
//! to forked children. So the lock ends exactly with the process: a program that closes all its descriptors does not
//! lose it, and a child that outlives the process does not keep it. No descriptor stays open.
//!
//! Beside the two files lies the share's [`bell`], by which its processes tell the node's arbiter that something changed.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bell::Rope;
use vgpu_core::ledger::{Ledger, SlotLocks};
use vgpu_core::limits::{self, LimitsError};
use vgpu_core::usage::{self, LOCKS, UsageError};

pub mod bell;
pub mod host;

/// Where a container finds its shares.
pub const ROOT: &str = "/run/vgpu-dra";

/// Why a share that is there cannot be used.
#[derive(Debug)]
pub enum ShareError {
    /// A file of it.
    Io(PathBuf, io::Error),
    /// Its limits.
    Limits(PathBuf, LimitsError),
    /// Its usage.
    Usage(PathBuf, UsageError),
    /// Its slots are all taken by living processes.
    Full(PathBuf),
}

impl std::fmt::Display for ShareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Limits(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Usage(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Full(path) => write!(f, "{}: {} processes use the share", path.display(), usage::SLOTS),
        }
    }
}
impl std::error::Error for ShareError {}

/// One share of one GPU, mapped. It stays mapped as long as the process lives.
#[derive(Debug)]
pub struct Share {
    /// What it may use.
    pub limits: &'static limits::Region,
    /// What it uses.
    pub usage: &'static usage::Region,
    /// This process's slot in it: of what is on the GPU.
    pub ledger: Ledger<'static>,
    /// The same slot's of what lies in the host's memory.
    pub on_host: Ledger<'static, true>,
    bell: Rope,
    path: PathBuf,
}

impl Share {
    /// Maps the two files of a share's folder and takes a slot.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn open(folder: &Path) -> Result<Self, ShareError> {
        let (limits_path, usage_path) = (folder.join("limits"), folder.join("usage"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| ShareError::Io(path, error)
        };
        let limits_file = File::open(&limits_path).map_err(io(&limits_path))?;
        let usage_file = open_usage(&usage_path).map_err(io(&usage_path))?;
        let limits_at = map(&limits_file, limits::SIZE, libc::PROT_READ).map_err(io(&limits_path))?;
        let usage_at =
            map(&usage_file, usage::SIZE, libc::PROT_READ | libc::PROT_WRITE).map_err(io(&usage_path))?;
        // SAFETY: the maps are at least as long as the regions, page aligned, shared, never unmapped, and the regions
        // are atomics, for which every bit pattern is a value.
        let (limits, usage) =
            unsafe { (&*limits_at.cast::<limits::Region>(), &*usage_at.cast::<usage::Region>()) };
        limits.check().map_err(|e| ShareError::Limits(limits_path, e))?;
        usage.check().map_err(|e| ShareError::Usage(usage_path.clone(), e))?;
        let attached = Ledger::attach(usage, &FileLocks(usage_file), std::process::id());
        let ledger = attached.ok_or_else(|| ShareError::Full(usage_path.clone()))?;
        let on_host = ledger.on_host();
        Ok(Self {
            limits,
            usage,
            ledger,
            on_host,
            bell: Rope::to(&folder.join(bell::NAME)),
            path: usage_path,
        })
    }

    /// Tells the arbiter that something has changed.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Gives back what dead processes left. The file is opened for it: a descriptor kept for later could be closed by
    /// the program and its number be another file's by then.
    pub fn reap(&self) {
        if let Ok(file) = open_usage(&self.path) {
            self.ledger.reap(&FileLocks(file));
        }
    }
}

/// Opens a usage file so that it does not pass to programs this one starts.
///
/// # Errors
/// Of open(2).
pub fn open_usage(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)
}

/// Folders of a GPU's shares, by name.
///
/// # Errors
/// The GPU's folder is there and cannot be read.
pub fn folders(root: &Path, uuid: &str) -> Result<Vec<PathBuf>, ShareError> {
    let folder = root.join(uuid);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| ShareError::Io(folder.clone(), error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.map_err(|error| ShareError::Io(folder.clone(), error))?.path());
    }
    found.sort();
    Ok(found)
}

fn map(file: &File, size: usize, protection: libc::c_int) -> io::Result<*mut libc::c_void> {
    if file.metadata()?.len() < size as u64 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("shorter than {size} bytes")));
    }
    // SAFETY: a fresh mapping of an open file at an address the kernel chooses.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping just made. A child must not keep the file description, and the locks on it, alive.
    let alone = unsafe { libc::madvise(at, size, libc::MADV_DONTFORK) };
    if alone == 0 { Ok(at) } else { Err(io::Error::last_os_error()) }
}

/// Slot locks of one open file description: they end with its last descriptor and mapping.
#[derive(Debug)]
pub struct FileLocks(File);

fn lock(file: &File, command: libc::c_int, kind: libc::c_int, slot: u32) -> io::Result<libc::flock> {
    // SAFETY: flock is plain data, for which all zeroes is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = i64::try_from(LOCKS).unwrap_or(i64::MAX).saturating_add(slot.into());
    range.l_len = 1;
    // SAFETY: the descriptor is open and the pointer is to a live flock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) };
    if result == 0 { Ok(range) } else { Err(io::Error::last_os_error()) }
}

impl SlotLocks for FileLocks {
    fn try_hold(&self, slot: u32) -> bool {
        lock(&self.0, libc::F_OFD_SETLK, libc::F_WRLCK, slot).is_ok()
    }

    fn release(&self, slot: u32) {
        // Failing leaves the lock with this process, which is what it already was.
        let _ = lock(&self.0, libc::F_OFD_SETLK, libc::F_UNLCK, slot);
    }
}

/// Whether anybody but this open file keeps a slot's lock.
///
/// # Errors
/// Of fcntl(2).
pub fn is_held(file: &File, slot: u32) -> io::Result<bool> {
    lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, slot).map(|range| i32::from(range.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use vgpu_core::compute::words::Turn;

    use super::*;

    #[test]
    fn a_gpu_without_a_folder_has_no_shares() {
        let root = tempfile::tempdir().unwrap();
        assert!(folders(root.path(), "GPU-1").unwrap().is_empty());
    }

    #[test]
    fn a_share_that_is_there_and_broken_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("limits"), "no").unwrap();
        fs::write(root.path().join("usage"), usage::empty()).unwrap();
        let error = Share::open(root.path()).unwrap_err().to_string();
        assert!(error.ends_with("limits: shorter than 4096 bytes"), "{error}");
    }

    #[test]
    fn a_share_of_the_oldest_version_is_used_without_turns_and_without_a_bell() {
        let root = tempfile::tempdir().unwrap();
        let mut bytes = limits::encode(&limits::Limits { cores: 30, ..limits::Limits::default() });
        bytes[8] = 1;
        fs::write(root.path().join("limits"), bytes).unwrap();
        fs::write(root.path().join("usage"), usage::empty()).unwrap();
        let share = Share::open(root.path()).unwrap();
        assert!(!share.limits.has_turns() && !share.limits.lease.is_served());
        assert_eq!((share.limits.lease.turn(u64::MAX), share.limits.read().cores), (Turn::Open, 30));
        share.ring();
    }

    #[test]
    fn a_slot_is_held_until_its_file_is_closed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("usage");
        fs::write(&path, usage::empty()).unwrap();
        let holder = FileLocks(open_usage(&path).unwrap());
        let other = File::open(&path).unwrap();
        assert!(holder.try_hold(3));
        assert!(is_held(&other, 3).unwrap());
        drop(holder);
        assert!(!is_held(&other, 3).unwrap());
    }
}
