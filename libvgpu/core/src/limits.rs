//! The `limits` file: what a share may use. Written by the node's plugin alone, mapped read-only by tenants.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `vgpulim1` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | size of the file, 4096 |
//! | 16 | 4 | sequence: odd while being rewritten |
//! | 20 | 4 | cores: percent of GPU time, 1 to 99; 0: no cap |
//! | 24 | 8 | memory in bytes |
//! | 32 | 8 | overhead in bytes: what the driver keeps for a process with a context (context, code, local memory) |
//!
//! Little endian. The rest is zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// `vgpulim1`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpulim1");
/// Of this layout.
pub const VERSION: u32 = 1;
/// Bytes of the file.
pub const SIZE: usize = 4096;

/// What a share may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of GPU memory.
    pub memory: u64,
    /// Percent of GPU time; 0 or 100: no cap.
    pub cores: u32,
    /// Bytes charged to each process with a context, for what the driver keeps for it and no call asks for.
    pub overhead: u64,
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
            Self::Version(found) => write!(f, "a limits file of version {found}, not {VERSION}"),
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
}

/// The whole file.
pub fn encode(limits: &Limits) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let fields: [(usize, &[u8]); 6] = [
        (0, &MAGIC.to_le_bytes()),
        (8, &VERSION.to_le_bytes()),
        (12, &(SIZE as u32).to_le_bytes()),
        (20, &cap(limits.cores).to_le_bytes()),
        (24, &limits.memory.to_le_bytes()),
        (32, &limits.overhead.to_le_bytes()),
    ];
    for (offset, field) in fields {
        if let Some(to) = bytes.get_mut(offset..offset + field.len()) {
            to.copy_from_slice(field);
        }
    }
    bytes
}

/// A cap of 100 percent is none.
const fn cap(cores: u32) -> u32 {
    if cores >= 100 { 0 } else { cores }
}

/// Rewrites a file in place, so that those who have mapped it see the change whole.
///
/// # Errors
/// Of the writes; a reader then waits a moment for the sequence and goes on with what it had.
pub fn rewrite(file: &File, limits: &Limits) -> io::Result<()> {
    let mut word = [0; 4];
    file.read_exact_at(&mut word, 16)?;
    let odd = u32::from_le_bytes(word) | 1;
    file.write_all_at(&odd.to_le_bytes(), 16)?;
    file.write_all_at(&cap(limits.cores).to_le_bytes(), 20)?;
    file.write_all_at(&limits.memory.to_le_bytes(), 24)?;
    file.write_all_at(&limits.overhead.to_le_bytes(), 32)?;
    file.write_all_at(&odd.wrapping_add(1).to_le_bytes(), 16)
}

/// Reads a whole file.
///
/// # Errors
/// [`LimitsError`].
pub fn decode(bytes: &[u8]) -> Result<Limits, LimitsError> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (long(0), word(8), word(20), long(24), long(32)) {
        (Some(MAGIC), Some(VERSION), Some(cores), Some(memory), Some(overhead)) if bytes.len() >= SIZE => {
            Ok(Limits { memory, cores, overhead })
        }
        (Some(MAGIC), Some(version), ..) if version != VERSION => Err(LimitsError::Version(version)),
        _ => Err(LimitsError::NotLimits),
    }
}

impl Region {
    /// Whether it is a limits file of this version.
    ///
    /// # Errors
    /// [`LimitsError`].
    pub fn check(&self) -> Result<(), LimitsError> {
        match (self.magic.load(Ordering::Relaxed), self.version.load(Ordering::Relaxed)) {
            (MAGIC, VERSION) => Ok(()),
            (MAGIC, other) => Err(LimitsError::Version(other)),
            _ => Err(LimitsError::NotLimits),
        }
    }

    /// Both limits as of one moment. A rewrite takes microseconds; one that never ends (its writer died) is not waited
    /// for: the fields are then read as they are, each of which is whole by itself.
    #[inline]
    pub fn read(&self) -> Limits {
        for _ in 0..1000 {
            let before = self.sequence.load(Ordering::Acquire);
            let found = self.fields();
            std::sync::atomic::fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return found;
            }
            std::hint::spin_loop();
        }
        self.fields()
    }

    #[inline]
    fn fields(&self) -> Limits {
        Limits {
            memory: self.memory.load(Ordering::Relaxed),
            cores: self.cores.load(Ordering::Relaxed),
            overhead: self.overhead.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_region_is_the_table_above() {
        assert_eq!(offset_of!(Region, sequence), 16);
        assert_eq!(offset_of!(Region, cores), 20);
        assert_eq!(offset_of!(Region, memory), 24);
        assert_eq!(offset_of!(Region, overhead), 32);
        assert_eq!(size_of::<Region>(), 40);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let limits = Limits { memory: 3 << 30, cores: 30, overhead: 300 << 20 };
        assert_eq!(decode(&encode(&limits)), Ok(limits));
    }

    #[test]
    fn a_cap_of_all_is_none() {
        assert_eq!(decode(&encode(&Limits { memory: 1, cores: 100, overhead: 0 })).unwrap().cores, 0);
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(decode(&[0; SIZE]), Err(LimitsError::NotLimits));
        assert_eq!(decode(b"vgpulim1"), Err(LimitsError::NotLimits));
        let mut newer = encode(&Limits::default());
        newer[8] = 2;
        assert_eq!(decode(&newer), Err(LimitsError::Version(2)));
    }
}
