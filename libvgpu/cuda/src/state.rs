//! What this process knows: the shares of each GPU it uses, its slot in each, and what it allocated.
//!
//! Made on the first call that needs it. A forked child starts anew: its parent's slots stay the parent's, and the
//! child takes its own when it first calls CUDA.

use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock};

use vgpu_core::ledger::Ledger;
use vgpu_core::pointers::Pointers;
use vgpu_share::{ROOT, Share, folders};

use crate::launch::Metering;
use crate::{Code, OPERATING_SYSTEM, check, real};

/// Most GPUs of a container.
const DEVICES: usize = 64;

/// A share and this process's place in it.
pub(crate) struct Held {
    pub(crate) share: &'static Share,
    pub(crate) ledger: Ledger<'static>,
}

/// One GPU.
pub(crate) struct Device {
    /// None: no limits here.
    pub(crate) shares: Vec<Held>,
    pub(crate) metering: Mutex<Metering>,
}

/// This process.
pub(crate) struct State {
    devices: [OnceLock<Result<Device, Code>>; DEVICES],
    /// Primary contexts seen, by device.
    pub(crate) primaries: Mutex<Vec<(i32, usize)>>,
    pub(crate) pointers: Pointers,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(std::ptr::null_mut());

/// In a forked child: nothing here belongs to it. The old state is left as it is, locks and all.
extern "C" fn forget_in_child() {
    STATE.store(std::ptr::null_mut(), Ordering::Relaxed);
}

/// The state of this process.
pub(crate) fn state() -> &'static State {
    static AT_FORK: OnceLock<()> = OnceLock::new();
    let known = STATE.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: made by `Box::leak` below and never freed.
        return unsafe { &*known };
    }
    AT_FORK.get_or_init(|| {
        // SAFETY: the handler only stores to an atomic. Failing (no memory) leaves a child with its parent's slots.
        unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
    });
    let fresh = Box::into_raw(Box::new(State {
        devices: std::array::from_fn(|_| OnceLock::new()),
        primaries: Mutex::default(),
        pointers: Pointers::default(),
    }));
    let swapped = STATE.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire);
    let chosen = match swapped {
        Ok(_) => fresh,
        Err(other) => {
            // SAFETY: `fresh` lost the race and nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            other
        }
    };
    // SAFETY: as above.
    unsafe { &*chosen }
}

impl State {
    /// A GPU by its CUDA ordinal.
    ///
    /// # Errors
    /// The driver's code if the GPU is unknown; `CUDA_ERROR_OPERATING_SYSTEM` if its share is there and broken.
    pub(crate) fn device(&self, ordinal: i32) -> Result<&Device, Code> {
        let cell =
            usize::try_from(ordinal).ok().and_then(|o| self.devices.get(o)).ok_or(crate::INVALID_VALUE)?;
        if let Some(Ok(device)) = cell.get() {
            return Ok(device);
        }
        let uuid = uuid(ordinal)?;
        cell.get_or_init(|| Device::open(&uuid)).as_ref().map_err(|code| *code)
    }

    /// The GPU of the thread's current context, with its ordinal and the context.
    pub(crate) fn current(&self) -> Result<(&Device, i32, usize), Code> {
        let (mut ordinal, mut context) = (0, 0);
        // SAFETY: pointers to locals.
        unsafe {
            check(real::ctx_get_device(&raw mut ordinal))?;
            check(real::ctx_get_current(&raw mut context))?;
        }
        Ok((self.device(ordinal)?, ordinal, context))
    }
}

impl Device {
    fn open(uuid: &str) -> Result<Self, Code> {
        let folders = folders(Path::new(ROOT), uuid).map_err(|_| OPERATING_SYSTEM)?;
        let mut shares = Vec::with_capacity(folders.len());
        for folder in folders {
            let share: &'static Share =
                Box::leak(Box::new(Share::open(&folder).map_err(|_| OPERATING_SYSTEM)?));
            let ledger =
                Ledger::attach(share.usage, &share.locks, std::process::id()).ok_or(OPERATING_SYSTEM)?;
            shares.push(Held { share, ledger });
        }
        Ok(Self { shares, metering: Mutex::default() })
    }

    /// Memory limit of all its shares; `None` without shares.
    pub(crate) fn limit(&self) -> Option<u64> {
        let sum = self.shares.iter().map(|h| h.share.limits.read().memory).fold(0, u64::saturating_add);
        (!self.shares.is_empty()).then_some(sum)
    }

    /// Bytes charged to all its shares, after giving back what dead processes left.
    pub(crate) fn used(&self) -> u64 {
        self.reap();
        self.shares.iter().map(|h| h.ledger.used()).fold(0, u64::saturating_add)
    }

    /// Gives back what dead processes left.
    pub(crate) fn reap(&self) {
        for held in &self.shares {
            held.ledger.reap(&held.share.locks);
        }
    }
}

/// `GPU-` and the driver's 16 bytes as NVML prints them.
fn uuid(ordinal: i32) -> Result<String, Code> {
    let mut bytes = [0u8; 16];
    // SAFETY: a pointer to a local.
    check(unsafe { real::device_uuid(&raw mut bytes, ordinal) })?;
    let mut text = String::from("GPU");
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}
