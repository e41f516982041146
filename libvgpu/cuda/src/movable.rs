//! Memory the driver may move between the GPU and the host, for shares that may have more than is on the GPU.
//!
//! Where `limits` has a resident part, linear memory of 2 MiB and more is made as managed memory: as much of it as the
//! resident part has room for is told to be on the GPU, the rest to be in the host's memory and read from there. So the
//! share never has more on the GPU than its resident part, and two of them never push each other out. What is placed on
//! the host stays there until it is freed. Everything else (smaller pieces, pools, arrays, memory by handle, the program's own
//! managed memory) is on the GPU and limited by the resident part.
//!
//! Managed memory cannot be exported to other processes. A program that tries gets the driver's error once; from then on
//! its allocations are plain ones.

use std::sync::atomic::{AtomicBool, Ordering};

use vgpu_core::pointers::{Allocation, Parts};
use vgpu_share::host;

use crate::state::{Device, state};
use crate::{Code, NOT_SUPPORTED, OUT_OF_MEMORY, SUCCESS, check, memory, real};

/// In the parts of an allocation, a share's number and this is what lies in the host's memory.
pub(crate) const ON_HOST: usize = 128;
/// Smaller pieces are not worth moving: the driver moves whole blocks of this size.
const LEAST: u64 = 2 << 20;

/// `CU_MEM_ATTACH_GLOBAL`.
const GLOBAL: u32 = 1;
/// `CU_MEM_ADVISE_SET_PREFERRED_LOCATION` and `CU_MEM_ADVISE_SET_ACCESSED_BY`.
const PREFER: i32 = 3;
const ACCESSED_BY: i32 = 5;
/// `CU_DEVICE_CPU`.
const CPU: i32 = -1;
/// `CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS`: without it managed memory cannot be larger than the GPU's.
const CONCURRENT: i32 = 89;

/// Whether this process has made any such memory, and whether it has been told not to.
static ANY: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicBool = AtomicBool::new(false);

impl Device {
    fn is_movable(&self) -> bool {
        self.shares.iter().any(|share| share.limits.read().is_movable())
    }

    /// Charges what fits to what is on the GPU, the rest to the host's memory.
    fn reserve_somewhere(&self, bytes: u64) -> Option<Parts> {
        let (mut parts, mut left) = (Parts::default(), bytes);
        for (index, share) in self.shares.iter().enumerate() {
            let limits = share.limits.read();
            let mut part = share.ledger.reserve_up_to(left, limits.on_gpu());
            if part < left {
                // The driver moves whole blocks: none may lie in both places.
                let surplus = part % LEAST;
                share.ledger.release(surplus);
                part = part.saturating_sub(surplus);
            }
            parts.add(index, part);
            left = left.saturating_sub(part);
        }
        if left > 0 && host::available().is_none_or(|room| left <= room) {
            for (index, share) in self.shares.iter().enumerate().filter(|(i, _)| *i < ON_HOST) {
                let part = share.on_host.reserve_up_to(left, share.limits.read().on_host());
                parts.add(index.saturating_add(ON_HOST), part);
                left = left.saturating_sub(part);
            }
        }
        if left == 0 {
            return Some(parts);
        }
        self.give_back(&parts);
        None
    }

    /// Bytes of its shares that lie in the host's memory.
    pub(crate) fn used_on_host(&self) -> u64 {
        self.shares.iter().map(|share| share.on_host.used()).fold(0, u64::saturating_add)
    }
}

/// Allocates so many bytes so, on the current GPU. `None`: they are to be had in the plain way.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY`, else the driver's.
#[inline]
pub(crate) fn alloc(bytes: u64) -> Option<Result<u64, Code>> {
    if bytes < LEAST {
        return None;
    }
    let (device, ordinal, context) = state().current().ok()?;
    if !device.is_movable() {
        return None;
    }
    alloc_on(device, ordinal, context, bytes)
}

#[cold]
fn alloc_on(device: &Device, ordinal: i32, context: usize, bytes: u64) -> Option<Result<u64, Code>> {
    if STOPPED.load(Ordering::Relaxed) || !is_concurrent(ordinal) {
        return None;
    }
    device.settle_overhead();
    let make = || {
        let charge = device.charge_by(ordinal, || device.reserve_somewhere(bytes))?;
        let mut address = 0;
        // SAFETY: a pointer to a local.
        check(unsafe {
            real::cuMemAllocManaged(
                &raw mut address,
                usize::try_from(bytes).map_err(|_| OUT_OF_MEMORY)?,
                GLOBAL,
            )
        })?;
        let parts = charge.keep();
        let on_gpu = parts
            .iter()
            .filter(|(place, _)| *place < ON_HOST)
            .map(|(_, part)| part)
            .fold(0, u64::saturating_add);
        if let Err(code) = place(address, bytes, on_gpu.min(bytes), ordinal) {
            // SAFETY: an address nobody has seen.
            unsafe { real::cuMemFree_v2(address) };
            device.give_back(&parts);
            return Err(code);
        }
        memory::pointers().insert(address, Allocation { device: ordinal, context, pool: 0, parts });
        ANY.store(true, Ordering::Relaxed);
        Ok(address)
    };
    Some(make())
}

/// Says where the memory is to be: its first bytes on the GPU, the others on the host, all in reach of the GPU.
fn place(address: u64, bytes: u64, on_gpu: u64, ordinal: i32) -> Result<(), Code> {
    let advise = |from: u64, length: u64, advice, device| {
        let length = usize::try_from(length).map_err(|_| NOT_SUPPORTED)?;
        if length == 0 {
            return Ok(());
        }
        // SAFETY: inside of an allocation just made.
        check(unsafe { real::advise(address.saturating_add(from), length, advice, device) })
    };
    advise(0, on_gpu, PREFER, ordinal)?;
    advise(on_gpu, bytes.saturating_sub(on_gpu), PREFER, CPU)?;
    advise(0, bytes, ACCESSED_BY, ordinal)
}

fn is_concurrent(ordinal: i32) -> bool {
    let mut answer = 0;
    // SAFETY: a pointer to a local.
    let asked = unsafe { real::device_attribute(&raw mut answer, CONCURRENT, ordinal) };
    asked == SUCCESS && answer != 0
}

/// The driver refused to export memory.
#[cold]
pub(crate) fn not_exported() {
    if ANY.load(Ordering::Relaxed) {
        STOPPED.store(true, Ordering::Relaxed);
    }
}
