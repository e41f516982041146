//! One share as the arbiter sees it: what its processes say, what they are told.
//!
//! `usage` is the tenants' to write and to cut, so it is read and never mapped. `limits` is the node's alone and mapped:
//! its pages are those the containers have mapped, and their processes wait on a word of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use vgpu_core::compute::arbiter::Notice;
use vgpu_core::compute::tuning;
use vgpu_core::compute::view::{View, present};
use vgpu_core::compute::words::{Lease, SEEN, SLOTS, Turn};
use vgpu_core::limits::{self, LimitsError};
use vgpu_core::usage;
use vgpu_share::bell::Bell;
use vgpu_share::is_held;

/// Where a share's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Its limits.
    pub limits: PathBuf,
    /// Its usage.
    pub usage: PathBuf,
    /// Its bell.
    pub bell: PathBuf,
}

/// A share that cannot take part.
#[derive(Debug)]
pub enum SeatError {
    /// A file of it.
    Io(PathBuf, io::Error),
    /// Its limits.
    Limits(PathBuf, LimitsError),
}

impl std::fmt::Display for SeatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Limits(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}
impl std::error::Error for SeatError {}

/// A share that takes part.
#[derive(Debug)]
pub struct Seat {
    limits: Limits,
    usage: File,
    /// Device and inode number of both, which no other files have as long as these are open.
    identity: [(u64, u64); 2],
    /// None: its files are of the oldest version, which knows no turns.
    bell: Option<Bell>,
    /// Slots of processes that have ended without saying so.
    dead: [u64; SLOTS / 64],
    /// When their locks were looked at.
    looked: u64,
}

impl Seat {
    /// Opens a share's files.
    ///
    /// # Errors
    /// [`SeatError`].
    pub fn open(files: &Files) -> Result<Self, SeatError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| SeatError::Io(path, error)
        };
        let limits = Limits::map(&files.limits).map_err(io(&files.limits))?;
        limits.region().check().map_err(|error| SeatError::Limits(files.limits.clone(), error))?;
        let usage = File::open(&files.usage).map_err(io(&files.usage))?;
        let bell = match limits.region().has_turns() {
            true => Some(Bell::open(&files.bell).map_err(io(&files.bell))?),
            false => None,
        };
        let identity = identity(files).map_err(io(&files.limits))?;
        Ok(Self { limits, usage, identity, bell, dead: [0; SLOTS / 64], looked: 0 })
    }

    /// Whether its files are still those. A share that was ended and made again has others of the same names.
    pub fn is_of(&self, files: &Files) -> bool {
        identity(files).is_ok_and(|found| found == self.identity)
    }

    /// To wait on; `None`: it cannot be told whose turn it is.
    pub fn fd(&self) -> Option<RawFd> {
        self.bell.as_ref().map(Bell::fd)
    }

    /// Takes in that it has rung.
    pub fn silence(&self) {
        if let Some(bell) = &self.bell {
            bell.silence();
        }
    }

    /// What the share says now. A file that cannot be read says nothing.
    pub fn view(&mut self, now: u64) -> View {
        let terms = self.limits.region().read().terms();
        let mut bytes = [0; SEEN];
        let at = offset_of!(usage::Region, compute) as u64;
        if self.usage.read_exact_at(&mut bytes, at).is_err() {
            return View { terms, ..View::default() };
        }
        if now.saturating_sub(self.looked) >= tuning::RECHECK {
            self.looked = now;
            self.dead = [0; SLOTS / 64];
            for slot in present(&bytes) {
                // Not knowing counts as alive.
                if !is_held(&self.usage, slot).unwrap_or(true)
                    && let Some(word) = self.dead.get_mut(slot as usize / 64)
                {
                    *word |= 1 << (slot % 64);
                }
            }
        }
        let dead = self.dead;
        View::read(&bytes, terms, now, |slot| {
            dead.get(slot as usize / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
        })
    }

    /// Tells the share. True if its turn has come or gone.
    pub fn tell(&self, now: u64, notice: &Notice) -> bool {
        let lease = self.limits.lease();
        let changed = lease.publish(now, notice.turn, notice.outranked, notice.neighbours);
        if changed && notice.turn != Turn::Denied {
            wake(lease);
        }
        changed
    }

    /// Lets it do as if nobody arbitrated.
    pub fn release(&self, now: u64) {
        let notice = Notice { id: 0, turn: Turn::Open, outranked: false, neighbours: 0 };
        if self.bell.is_some() {
            self.tell(now, &notice);
        }
    }
}

fn identity(files: &Files) -> io::Result<[(u64, u64); 2]> {
    let of = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    Ok([of(&files.limits)?, of(&files.usage)?])
}

/// Wakes everybody who waits for a share's turn, in whatever process.
fn wake(lease: &Lease) {
    let (word, all) = (lease.word().as_ptr(), libc::c_int::MAX);
    // SAFETY: an aligned word of a mapping that outlives the call. Waiters have other mappings of the same page, so that
    // the futex is a shared one.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, all, 0usize, 0usize, 0usize) };
}

/// A mapped `limits` file.
#[derive(Debug)]
struct Limits(*mut libc::c_void);

// SAFETY: the mapping is the process's, not a thread's, and what is in it are atomics.
unsafe impl Send for Limits {}

impl Limits {
    fn map(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < limits::SIZE as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "shorter than limits are"));
        }
        let (protection, none) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        // SAFETY: a fresh mapping of an open file at an address the kernel chooses.
        let at = unsafe { libc::mmap(none, limits::SIZE, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at)) }
    }

    fn region(&self) -> &limits::Region {
        const { assert!(size_of::<limits::Region>() <= limits::SIZE) };
        // SAFETY: the map is longer than the region and page aligned, lives as long as `self`, and every bit pattern is a
        // value of atomics. Nobody but the node can cut the file.
        unsafe { &*self.0.cast::<limits::Region>() }
    }

    fn lease(&self) -> &Lease {
        &self.region().lease
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, of which no borrow is left.
        unsafe { libc::munmap(self.0, limits::SIZE) };
    }
}
