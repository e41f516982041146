//! What this process knows: the shares of each GPU it uses, its slot in each, and what it allocated.
//!
//! Made on the first call that needs it. A forked child starts anew: its parent's slots stay the parent's, and the
//! child takes its own when it first calls CUDA.

use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock};

use vgpu_share::{ROOT, Share, folders};

use crate::capture::Captures;
use crate::context::Overhead;
use crate::metering::Metering;
use crate::pointers::Known;
use crate::poller::Poller;
use crate::{Code, OPERATING_SYSTEM, capture, check, credit, current, graph, pool, real, virtual_memory};

/// Most GPUs of a container.
const DEVICES: usize = 64;

/// One GPU.
pub(crate) struct Device {
    /// None: no limits here.
    pub(crate) shares: Vec<Share>,
    pub(crate) metering: Mutex<Metering>,
    pub(crate) overhead: Overhead,
}

/// This process.
pub(crate) struct State {
    devices: Box<[OnceLock<Result<Device, Code>>]>,
    /// Primary contexts seen, by device.
    pub(crate) primaries: Mutex<Vec<(i32, usize)>>,
    pub(crate) pointers: Known,
    pub(crate) arrays: Known,
    pub(crate) blocks: virtual_memory::Blocks,
    pub(crate) pools: pool::Pools,
    pub(crate) graphs: graph::Shared,
    pub(crate) captures: Captures,
    pub(crate) poller: Poller,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(std::ptr::null_mut());

/// In a forked child: nothing here belongs to it. The old state is left as it is, locks and all.
extern "C" fn forget_in_child() {
    STATE.store(std::ptr::null_mut(), Ordering::Relaxed);
    current::forget();
    credit::forget_all();
    capture::forget_all();
}

/// The state of this process.
#[inline]
pub(crate) fn state() -> &'static State {
    let known = STATE.load(Ordering::Acquire);
    if known.is_null() {
        return make();
    }
    // SAFETY: made below and never freed.
    unsafe { &*known }
}

#[cold]
#[inline(never)]
fn make() -> &'static State {
    static AT_FORK: OnceLock<()> = OnceLock::new();
    AT_FORK.get_or_init(|| {
        // SAFETY: the handler only stores to atomics. Failing (no memory) leaves a child with its parent's slots.
        unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
    });
    let fresh = Box::into_raw(Box::new(State {
        devices: (0..DEVICES).map(|_| OnceLock::new()).collect(),
        primaries: Mutex::default(),
        pointers: Known::default(),
        arrays: Known::default(),
        blocks: Mutex::default(),
        pools: Mutex::default(),
        graphs: Mutex::default(),
        captures: Captures::default(),
        poller: Poller::default(),
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

    /// GPUs this process has used.
    pub(crate) fn opened(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter_map(|cell| cell.get()?.as_ref().ok())
    }

    /// The GPU of the thread's current context, with its ordinal and the context.
    ///
    /// # Errors
    /// The driver's code without a context, else those of [`State::device`].
    #[inline]
    pub(crate) fn current(&'static self) -> Result<(&'static Device, i32, usize), Code> {
        let mut context = 0;
        // SAFETY: a pointer to a local.
        check(unsafe { real::ctx_get_current(&raw mut context) })?;
        match current::known(context) {
            Some((device, ordinal)) => Ok((device, ordinal, context)),
            None => self.look(context),
        }
    }

    #[cold]
    fn look(&'static self, context: usize) -> Result<(&'static Device, i32, usize), Code> {
        let (epoch, mut ordinal) = (current::epoch(), 0);
        // SAFETY: a pointer to a local.
        check(unsafe { real::ctx_get_device(&raw mut ordinal) })?;
        let device = self.device(ordinal)?;
        current::know(context, device, ordinal, epoch);
        Ok((device, ordinal, context))
    }
}

impl Device {
    /// Tells devices apart; never 0.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn open(uuid: &str) -> Result<Self, Code> {
        let folders = folders(Path::new(ROOT), uuid).map_err(|_| OPERATING_SYSTEM)?;
        let mut shares = Vec::with_capacity(folders.len());
        for folder in folders {
            shares.push(Share::open(&folder).map_err(|_| OPERATING_SYSTEM)?);
        }
        let metering = Mutex::new(Metering::new(&shares));
        Ok(Self { shares, metering, overhead: Overhead::default() })
    }

    /// Memory limit of all its shares; `None` without shares.
    pub(crate) fn limit(&self) -> Option<u64> {
        let sum = self.shares.iter().map(|share| share.limits.read().memory).fold(0, u64::saturating_add);
        (!self.shares.is_empty()).then_some(sum)
    }

    /// Bytes all its shares may have on the GPU.
    pub(crate) fn resident(&self) -> u64 {
        self.shares.iter().map(|share| share.limits.read().on_gpu()).fold(0, u64::saturating_add)
    }

    /// Bytes of the GPU charged to all its shares, after giving back what dead processes left.
    pub(crate) fn used(&self) -> u64 {
        let of = |share: &Share| {
            if share.ledger.others_hold() || share.on_host.others_hold() {
                share.reap();
            }
            share.ledger.used()
        };
        self.shares.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Gives back what dead processes left.
    pub(crate) fn reap(&self) {
        self.shares.iter().for_each(Share::reap);
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
