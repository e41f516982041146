//! The `usage` file: what a share's processes use. Tenants map and change it; the node's plugin only reads it.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `vgpuuse1` |
//! | 8 | 4 | version, 2 |
//! | 12 | 4 | size of the file |
//! | 64 | 8 | memory ledger, see [`crate::ledger`]: units charged (bits 63..32), slot (31..22), sequence (21..0) |
//! | 72 | 8 | allocations refused because the limit was reached |
//! | 80 | 8 | ledger of what lies in the host's memory, laid out as the one at 64 |
//! | 128 | 4416 | compute: see [`crate::compute::words::Tenant`] |
//! | 4544 | 64 each | [`SLOTS`] process slots: intent (8), charge (8), process id (4), 4 of zero, intent and charge of the host's ledger (8 each), bytes of the charge that are the driver's own (8), 16 of zero |
//!
//! Intent and charge are a signed count of units (bits 63..22) and a sequence number (21..0). A unit is [`UNIT`] bytes.
//! Little endian; bytes not named are zero. Memory in use past the limit (it was lowered) is the sum being larger than
//! the limit; what a share wanted and did not get is the count of refusals. A slot belongs to the process that keeps byte [`LOCKS`] + n of the file locked by an open file
//! description: the kernel gives the lock back however the process ends. A slot whose lock is free counts nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::compute::words::{CHARGED, Tenant};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// `vgpuuse1`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpuuse1");
/// Of this layout.
pub const VERSION: u32 = 2;
/// Processes of a share at once.
pub const SLOTS: usize = if cfg!(feature = "interleavings") { 4 } else { crate::compute::words::SLOTS };
/// Bytes of the file.
pub const SIZE: usize = std::mem::size_of::<Region>();
/// Lock bytes lie past the data, where nothing is stored.
pub const LOCKS: u64 = 1 << 32;
/// Memory is charged in units of this many bytes, the alignment of CUDA's allocations.
pub const UNIT: u64 = 512;

/// A word on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Line<T>(pub T);

/// One process.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Slot {
    /// What the process is about to do.
    pub intent: AtomicU64,
    /// What is charged to it.
    pub charge: AtomicU64,
    /// Its id in its own pid namespace.
    pub pid: AtomicU32,
    pad: AtomicU32,
    /// As `intent`, of what lies in the host's memory.
    pub host_intent: AtomicU64,
    /// As `charge`, of what lies in the host's memory.
    pub host_charge: AtomicU64,
    /// Bytes of `charge` for what the driver keeps for the process, as `limits` told it.
    pub overhead: AtomicU64,
}

/// Memory words of a share.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Memory {
    /// See [`crate::ledger`].
    pub ledger: AtomicU64,
    /// Allocations refused.
    pub refused: AtomicU64,
    /// As `ledger`, of what lies in the host's memory.
    pub host: AtomicU64,
}

/// Head of the file.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Head {
    magic: AtomicU64,
    version: AtomicU32,
    size: AtomicU32,
}

/// The file as tenants map it.
#[repr(C)]
#[derive(Debug)]
pub struct Region {
    head: Line<Head>,
    /// Memory.
    pub memory: Line<Memory>,
    /// Compute.
    pub compute: Tenant,
    /// Processes.
    pub slots: [Slot; SLOTS],
}

impl Default for Region {
    /// A fresh region, as [`empty`] writes it.
    fn default() -> Self {
        let head = Head {
            magic: AtomicU64::new(MAGIC),
            version: AtomicU32::new(VERSION),
            size: AtomicU32::new(SIZE as u32),
        };
        Self {
            head: Line(head),
            memory: Line::default(),
            compute: Tenant::default(),
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }
}

impl Region {
    /// Whether it is a usage file of this version.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn check(&self) -> Result<(), UsageError> {
        let head = &self.head.0;
        match (head.magic.load(Ordering::Relaxed), head.version.load(Ordering::Relaxed)) {
            (MAGIC, VERSION) => Ok(()),
            (MAGIC, other) => Err(UsageError::Version(other)),
            _ => Err(UsageError::NotUsage),
        }
    }
}

/// What a fresh file holds.
pub fn empty() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let fields: [(usize, &[u8]); 3] =
        [(0, &MAGIC.to_le_bytes()), (8, &VERSION.to_le_bytes()), (12, &(SIZE as u32).to_le_bytes())];
    for (offset, field) in fields {
        if let Some(to) = bytes.get_mut(offset..offset + field.len()) {
            to.copy_from_slice(field);
        }
    }
    bytes
}

/// Why a file cannot be read as usage.
#[derive(Debug)]
pub enum UsageError {
    /// The file.
    Io(io::Error),
    /// Another file.
    NotUsage,
    /// Written by another version.
    Version(u32),
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::NotUsage => f.write_str("not a usage file"),
            Self::Version(found) => write!(f, "a usage file of version {found}, not {VERSION}"),
        }
    }
}
impl std::error::Error for UsageError {}

/// One process of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its slot.
    pub slot: u32,
    /// Its id in its own pid namespace.
    pub pid: u32,
    /// Bytes charged to it.
    pub memory: u64,
    /// Of them those that lie in the host's memory.
    pub on_host: u64,
    /// Of them those that count for what the driver keeps.
    pub overhead: u64,
}

/// What a share uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes charged to living processes.
    pub memory: u64,
    /// Allocations refused so far because the limit was reached.
    pub refused: u64,
    /// GPU nanoseconds charged so far.
    pub gpu_nanos: u64,
    /// The living processes.
    pub processes: Vec<Process>,
}

/// Reads a file from outside, trusting nothing in it. `is_held` says whether some process keeps a slot's lock.
///
/// # Errors
/// [`UsageError`].
pub fn read(file: &File, is_held: &dyn Fn(&File, u32) -> io::Result<bool>) -> Result<Usage, UsageError> {
    let mut bytes = vec![0; SIZE];
    file.read_exact_at(&mut bytes, 0).map_err(UsageError::Io)?;
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let long =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    match (long(0), word(8)) {
        (MAGIC, VERSION) => {}
        (MAGIC, other) => return Err(UsageError::Version(other)),
        _ => return Err(UsageError::NotUsage),
    }
    let charged = long(std::mem::offset_of!(Region, compute) + CHARGED);
    let mut usage = Usage { refused: long(72), gpu_nanos: charged, ..Usage::default() };
    for slot in 0..SLOTS as u32 {
        let at = std::mem::offset_of!(Region, slots) + slot as usize * size_of::<Slot>();
        let (on_gpu, pid) = (crate::ledger::charge_bytes(long(at + 8)), word(at + 16));
        let on_host = crate::ledger::charge_bytes(long(at + 32));
        let memory = on_gpu.saturating_add(on_host);
        let overhead = long(at + 40);
        if pid != 0 && is_held(file, slot).map_err(UsageError::Io)? {
            usage.memory = usage.memory.saturating_add(memory);
            usage.processes.push(Process { slot, pid, memory, on_host, overhead });
        }
    }
    Ok(usage)
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_region_is_the_table_above() {
        assert_eq!((offset_of!(Region, memory), offset_of!(Region, compute)), (64, 128));
        assert_eq!((offset_of!(Region, slots), size_of::<Slot>()), (4544, 64));
        assert_eq!((offset_of!(Slot, charge), offset_of!(Slot, pid)), (8, 16));
        assert_eq!((offset_of!(Slot, host_intent), offset_of!(Slot, host_charge)), (24, 32));
        assert_eq!(offset_of!(Slot, overhead), 40);
        let memory = (offset_of!(Memory, ledger), offset_of!(Memory, refused), offset_of!(Memory, host));
        assert_eq!(memory, (0, 8, 16));
        assert_eq!(SIZE, 4544 + 64 * SLOTS);
    }

    #[test]
    fn slots_without_a_lock_count_nothing() {
        use std::io::Write;
        let mut bytes = empty();
        for (slot, units) in [(0usize, 4u64), (1, 6)] {
            let at = 4544 + slot * 64;
            bytes[at + 8..at + 16].copy_from_slice(&(units << 22).to_le_bytes());
            bytes[at + 16] = 42;
            bytes[at + 32..at + 40].copy_from_slice(&((units / 2) << 22).to_le_bytes());
            bytes[at + 40..at + 48].copy_from_slice(&UNIT.to_le_bytes());
        }
        bytes[128 + 24..128 + 32].copy_from_slice(&7_000u64.to_le_bytes());
        let path = std::env::temp_dir().join(format!("vgpu-usage-{}", std::process::id()));
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let usage = read(&File::open(&path).unwrap(), &|_, slot| Ok(slot == 1)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((usage.memory, usage.gpu_nanos), (9 * UNIT, 7_000));
        let process = Process { slot: 1, pid: 42, memory: 9 * UNIT, on_host: 3 * UNIT, overhead: UNIT };
        assert_eq!(usage.processes, [process]);
    }
}
