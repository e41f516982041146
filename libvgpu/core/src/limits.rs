//! The `limits` file: what a share may use, and whose turn it is. Written by the node's plugin alone, mapped read-only by
//! tenants.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `vgpulim1` |
//! | 8 | 4 | version, 2 |
//! | 12 | 4 | size of the file, 4096 |
//! | 16 | 4 | sequence: odd while the fields from here to 48 are being rewritten |
//! | 20 | 4 | cores: percent of GPU time, 0 to 100; 0: nothing booked |
//! | 24 | 8 | memory in bytes |
//! | 32 | 8 | overhead in bytes: what the driver keeps for a process with a context (context, code, local memory) |
//! | 40 | 4 | enforcement: 0 Hard, 1 Elastic, 2 None |
//! | 44 | 4 | priority: 0 Normal, 1 High, 2 Low |
//! | 48 | 8 | resident in bytes: how much of the memory is on the GPU at once; 0: all of it |
//! | 56 | 8 | zero |
//! | 64 | 280 | turns: see [`crate::compute::words::Lease`] |
//!
//! Little endian. The rest is zero. Enforcement and priority of any other value mean 0.
//!
//! Version 1 ends at 40, with zeroes behind it, and its cores are a cap of 1 to 99 percent or 0 for none. It is read as
//! version 2, which makes of it a hard cap of normal priority that nobody arbitrates. A file keeps the version it was
//! made with as long as it is there: programs that know no other may have it mapped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::compute::words::Lease;
use crate::compute::{Enforcement, Priority, Terms};
use crate::sync::{self, AtomicU32, AtomicU64, Ordering};

/// `vgpulim1`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpulim1");
/// Of this layout.
pub const VERSION: u32 = 2;
/// Oldest version that is understood: without enforcement, priority and turns.
pub const OLDEST: u32 = 1;
/// Bytes of the file.
pub const SIZE: usize = 4096;

/// What a share may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of GPU memory.
    pub memory: u64,
    /// Percent of GPU time, 0 to 100; 0: nothing booked.
    pub cores: u32,
    /// Bytes charged to each process with a context, for what the driver keeps for it and no call asks for.
    pub overhead: u64,
    /// What `cores` means.
    pub enforcement: Enforcement,
    /// Who goes first.
    pub priority: Priority,
    /// Bytes of `memory` that are on the GPU at once. The rest may lie in the host's memory, as far as it can. 0: none may.
    pub resident: u64,
}

impl Limits {
    /// Bytes the share may have on the GPU.
    #[inline]
    pub fn on_gpu(&self) -> u64 {
        if self.resident == 0 { self.memory } else { self.resident.min(self.memory) }
    }

    /// Bytes it may have in the host's memory beside them.
    #[inline]
    pub fn on_host(&self) -> u64 {
        self.memory.saturating_sub(self.on_gpu())
    }

    /// Whether what can be is allocated so that the driver may move it to the host and back.
    #[inline]
    pub fn is_movable(&self) -> bool {
        self.resident != 0
    }

    /// What the compute controller goes by.
    pub fn terms(&self) -> Terms {
        Terms { cores: self.cores.min(100), enforcement: self.enforcement, priority: self.priority }
    }

    /// As a file of that version can say it.
    fn in_version(self, version: u32) -> Self {
        if version >= VERSION {
            return self;
        }
        let cores = if self.terms().is_capped() { self.cores } else { 0 };
        // Programs that know no more would take the whole of it from the GPU.
        let memory = self.on_gpu();
        let (enforcement, priority) = (Enforcement::Hard, Priority::Normal);
        Self { memory, cores, enforcement, priority, resident: 0, ..self }
    }

    /// Offset and bytes of each field.
    fn fields(&self) -> [(usize, [u8; 8], usize); 6] {
        let word = |value: u32| u64::from(value).to_le_bytes();
        [
            (20, word(self.cores), 4),
            (24, self.memory.to_le_bytes(), 8),
            (32, self.overhead.to_le_bytes(), 8),
            (40, word(enforcement_code(self.enforcement)), 4),
            (44, word(priority_code(self.priority)), 4),
            (48, self.resident.to_le_bytes(), 8),
        ]
    }
}

const fn enforcement_code(enforcement: Enforcement) -> u32 {
    match enforcement {
        Enforcement::Hard => 0,
        Enforcement::Elastic => 1,
        Enforcement::None => 2,
    }
}

const fn enforcement(code: u32) -> Enforcement {
    match code {
        1 => Enforcement::Elastic,
        2 => Enforcement::None,
        _ => Enforcement::Hard,
    }
}

const fn priority_code(priority: Priority) -> u32 {
    match priority {
        Priority::Normal => 0,
        Priority::High => 1,
        Priority::Low => 2,
    }
}

const fn priority(code: u32) -> Priority {
    match code {
        1 => Priority::High,
        2 => Priority::Low,
        _ => Priority::Normal,
    }
}

/// Why bytes are no limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitsError {
    /// Shorter than [`SIZE`], or another file.
    NotLimits,
    /// Written by another version.
    Version(u32),
}

impl std::fmt::Display for LimitsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLimits => f.write_str("not a limits file"),
            Self::Version(found) => {
                write!(f, "a limits file of version {found}, not {OLDEST} to {VERSION}")
            }
        }
    }
}
impl std::error::Error for LimitsError {}

/// The file as tenants map it.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Region {
    magic: AtomicU64,
    version: AtomicU32,
    size: AtomicU32,
    sequence: AtomicU32,
    cores: AtomicU32,
    memory: AtomicU64,
    overhead: AtomicU64,
    enforcement: AtomicU32,
    priority: AtomicU32,
    resident: AtomicU64,
    reserved: AtomicU64,
    /// Whose turn it is. All zero in files of version 1, which makes every turn open.
    pub lease: Lease,
}

/// The whole file.
pub fn encode(limits: &Limits) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut put = |offset: usize, field: &[u8]| {
        if let Some(to) = bytes.get_mut(offset..offset + field.len()) {
            to.copy_from_slice(field);
        }
    };
    put(0, &MAGIC.to_le_bytes());
    put(8, &VERSION.to_le_bytes());
    put(12, &(SIZE as u32).to_le_bytes());
    for (offset, field, size) in limits.fields() {
        put(offset, field.get(..size).unwrap_or_default());
    }
    bytes
}

/// Rewrites a file in place, so that those who have mapped it see the change whole. It keeps its version; what that cannot
/// say is left out.
///
/// # Errors
/// Of the writes; a reader then waits a moment for the sequence and goes on with what it had.
pub fn rewrite(file: &File, limits: &Limits) -> io::Result<()> {
    let (mut version, mut word) = ([0; 4], [0; 4]);
    file.read_exact_at(&mut version, 8)?;
    file.read_exact_at(&mut word, 16)?;
    let odd = u32::from_le_bytes(word) | 1;
    file.write_all_at(&odd.to_le_bytes(), 16)?;
    for (offset, field, size) in limits.in_version(u32::from_le_bytes(version)).fields() {
        file.write_all_at(field.get(..size).unwrap_or_default(), offset as u64)?;
    }
    file.write_all_at(&odd.wrapping_add(1).to_le_bytes(), 16)
}

/// Reads a whole file.
///
/// # Errors
/// [`LimitsError`].
pub fn decode(bytes: &[u8]) -> Result<Limits, LimitsError> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (long(0), word(8)) {
        (Some(MAGIC), Some(OLDEST..=VERSION)) if bytes.len() >= SIZE => {}
        (Some(MAGIC), Some(version)) if !(OLDEST..=VERSION).contains(&version) => {
            return Err(LimitsError::Version(version));
        }
        _ => return Err(LimitsError::NotLimits),
    }
    let (Some(memory), Some(cores), Some(overhead)) = (long(24), word(20), long(32)) else {
        return Err(LimitsError::NotLimits);
    };
    Ok(Limits {
        memory,
        cores,
        overhead,
        enforcement: enforcement(word(40).unwrap_or(0)),
        priority: priority(word(44).unwrap_or(0)),
        resident: long(48).unwrap_or(0),
    })
}

/// Whether a file says these limits as well as its version can.
pub fn says(bytes: &[u8], limits: &Limits) -> bool {
    let version = bytes.get(8..12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    decode(bytes).is_ok_and(|found| found == limits.in_version(version))
}

impl Region {
    /// Whether it is a limits file of a version that is understood.
    ///
    /// # Errors
    /// [`LimitsError`].
    pub fn check(&self) -> Result<(), LimitsError> {
        match (self.magic.load(Ordering::Relaxed), self.version.load(Ordering::Relaxed)) {
            (MAGIC, OLDEST..=VERSION) => Ok(()),
            (MAGIC, other) => Err(LimitsError::Version(other)),
            _ => Err(LimitsError::NotLimits),
        }
    }

    /// Whether it has room for turns.
    pub fn has_turns(&self) -> bool {
        self.version.load(Ordering::Relaxed) > OLDEST
    }

    /// All limits as of one moment. A rewrite takes microseconds; one that never ends (its writer died) is not waited
    /// for: the fields are then read as they are, each of which is whole by itself.
    #[inline]
    pub fn read(&self) -> Limits {
        for _ in 0..1000 {
            let before = self.sequence.load(Ordering::Acquire);
            let found = self.fields();
            sync::fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return found;
            }
            sync::spin_loop();
        }
        self.fields()
    }

    /// Of one moment what an allocation asks: [`Limits::on_gpu`] and [`Limits::overhead`].
    #[inline]
    pub fn read_memory(&self) -> (u64, u64) {
        let before = self.sequence.load(Ordering::Acquire);
        let limits = Limits {
            memory: self.memory.load(Ordering::Relaxed),
            overhead: self.overhead.load(Ordering::Relaxed),
            resident: self.resident.load(Ordering::Relaxed),
            ..Limits::default()
        };
        sync::fence(Ordering::Acquire);
        if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
            return (limits.on_gpu(), limits.overhead);
        }
        let limits = self.read();
        (limits.on_gpu(), limits.overhead)
    }

    #[inline]
    fn fields(&self) -> Limits {
        Limits {
            memory: self.memory.load(Ordering::Relaxed),
            cores: self.cores.load(Ordering::Relaxed),
            overhead: self.overhead.load(Ordering::Relaxed),
            enforcement: enforcement(self.enforcement.load(Ordering::Relaxed)),
            priority: priority(self.priority.load(Ordering::Relaxed)),
            resident: self.resident.load(Ordering::Relaxed),
        }
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests;
