//! The process's state: its GPUs, and everything that has a handle.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use fake_gpu::layout::NONE;
use fake_gpu::place::Place;
use fake_gpu::{Context, Gpus, Process};

use crate::{
    CONTEXT_IS_DESTROYED, Code, INVALID_CONTEXT, INVALID_DEVICE, INVALID_HANDLE, INVALID_VALUE, NO_DEVICE,
    NOT_INITIALIZED, SUCCESS, give,
};

/// CUDA 12.4, of the 550 branch.
pub(crate) const CUDA_VERSION: i32 = 12_040;

/// What cuInit set up.
pub(crate) struct Driver {
    pub(crate) process: Process,
    /// CUDA ordinal -> GPU index of the file.
    pub(crate) devices: Vec<usize>,
    objects: Mutex<Objects>,
}

/// Everything that has a handle.
#[derive(Default)]
pub(crate) struct Objects {
    next: usize,
    pub(crate) contexts: HashMap<usize, ContextObject>,
    /// By device ordinal.
    pub(crate) primary: HashMap<usize, Primary>,
    pub(crate) streams: HashMap<usize, StreamObject>,
    pub(crate) events: HashMap<usize, EventObject>,
    pub(crate) code: crate::function::Loaded,
    pub(crate) host: crate::host::Host,
    pub(crate) arrays: crate::array::Arrays,
    pub(crate) physical: crate::vmm::Physical,
    pub(crate) pools: crate::pool::Pools,
    pub(crate) ipc: crate::ipc::Ipc,
    pub(crate) graphs: crate::graph::Graphs,
    pub(crate) captures: crate::capture::Captures,
    pub(crate) limits: crate::limit::Limits,
    /// Managed allocations, by address.
    pub(crate) managed: std::collections::HashSet<u64>,
}

#[derive(Clone, Copy)]
pub(crate) struct ContextObject {
    pub(crate) ordinal: usize,
    pub(crate) context: Context,
    pub(crate) flags: u32,
}

/// A device's primary context. Its handle stays the same; it is in `contexts` while it is active.
#[derive(Clone, Copy, Default)]
pub(crate) struct Primary {
    pub(crate) handle: usize,
    pub(crate) retained: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy)]
pub(crate) struct StreamObject {
    /// Handle of its context.
    pub(crate) context: usize,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
}

#[derive(Clone, Copy)]
pub(crate) struct EventObject {
    pub(crate) context: Context,
    pub(crate) stamp: u32,
    /// Of the latest record.
    pub(crate) sequence: Option<u64>,
    pub(crate) is_timed: bool,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Whether calls take no time and are not accounted; known once the driver has started.
static TIMELESS: AtomicBool = AtomicBool::new(false);
/// Addresses without time.
static NEXT_ADDRESS: AtomicU64 = AtomicU64::new(0x0302_0000_0000);

thread_local! {
    /// Handles of contexts of this thread, current last.
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Whether calls take no time and are not accounted.
#[inline]
pub(crate) fn is_timeless() -> bool {
    TIMELESS.load(Ordering::Relaxed)
}

/// An address that was not given before.
pub(crate) fn timeless_address(bytes: usize) -> u64 {
    let step = (bytes as u64).checked_next_multiple_of(512).unwrap_or(512);
    NEXT_ADDRESS.fetch_add(step, Ordering::Relaxed)
}

/// The driver after cuInit.
pub(crate) fn driver() -> Result<&'static Driver, Code> {
    DRIVER.get().filter(|driver| !driver.process.gpus().is_inherited()).ok_or(NOT_INITIALIZED)
}

impl Driver {
    fn start() -> Result<Self, Code> {
        let place = Place::of_library(cuInit as *const () as usize);
        let gpus = Gpus::open(&place.gpus).map_err(|_| NO_DEVICE)?;
        let devices: Vec<usize> = (0..gpus.count()).filter(|minor| place.has(*minor)).collect();
        if devices.is_empty() {
            return Err(NO_DEVICE);
        }
        TIMELESS.store(gpus.timing().mode == NONE, Ordering::Relaxed);
        let process = Process::attach(gpus).map_err(|_| NO_DEVICE)?;
        Ok(Self { process, devices, objects: Mutex::default() })
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// GPU of a device ordinal.
    pub(crate) fn gpu(&self, ordinal: i32) -> Result<usize, Code> {
        usize::try_from(ordinal).ok().and_then(|o| self.devices.get(o)).copied().ok_or(INVALID_DEVICE)
    }

    /// Device ordinal of a GPU.
    pub(crate) fn ordinal(&self, gpu: usize) -> i32 {
        self.devices.iter().position(|device| *device == gpu).map_or(-1, |ordinal| ordinal as i32)
    }

    /// The context of this thread, with its handle.
    pub(crate) fn current(&self) -> Result<(usize, ContextObject), Code> {
        let handle = stack(|s| s.last().copied()).flatten().ok_or(INVALID_CONTEXT)?;
        self.objects().contexts.get(&handle).map(|c| (handle, *c)).ok_or(CONTEXT_IS_DESTROYED)
    }

    /// The context of a stream; null and the two special handles are the current context's.
    pub(crate) fn of_stream(&self, stream: usize) -> Result<(usize, ContextObject), Code> {
        if stream <= crate::stream::PER_THREAD {
            return self.current();
        }
        let objects = self.objects();
        let handle = objects.streams.get(&stream).map(|s| s.context).ok_or(INVALID_HANDLE)?;
        objects.contexts.get(&handle).map(|c| (handle, *c)).ok_or(CONTEXT_IS_DESTROYED)
    }
}

impl Objects {
    /// A fresh handle; never null, never one of the special stream handles.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 1;
        0x1000 + self.next * 16
    }
}

/// The contexts of this thread; `None` when the thread is about to end.
pub(crate) fn stack<T>(change: impl FnOnce(&mut Vec<usize>) -> T) -> Option<T> {
    STACK.try_with(|stack| stack.try_borrow_mut().ok().map(|mut s| change(&mut s))).ok().flatten()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: u32) -> Code {
    if flags != 0 {
        return INVALID_VALUE;
    }
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if DRIVER.get().is_some() {
        return crate::code(driver().map(drop));
    }
    match Driver::start() {
        Ok(started) => {
            let _ = DRIVER.set(started);
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Works before cuInit too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(version, || Ok(CUDA_VERSION)) }
}
