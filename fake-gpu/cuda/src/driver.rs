//! The process's state: its GPUs, contexts, streams, events and modules.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use fake_gpu::place::Place;
use fake_gpu::{Context, Gpus, Process};
use memmap2::MmapMut;

use crate::{
    CONTEXT_IS_DESTROYED, Code, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, NO_DEVICE, NOT_INITIALIZED,
    SUCCESS, give,
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
    pub(crate) modules: HashMap<usize, ModuleObject>,
    pub(crate) functions: HashMap<usize, FunctionObject>,
    /// Page-locked host memory, by address.
    pub(crate) host: HashMap<usize, MmapMut>,
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

pub(crate) struct ModuleObject {
    /// Handle of its context.
    pub(crate) context: usize,
    /// Name -> handle.
    pub(crate) functions: HashMap<String, usize>,
}

pub(crate) struct FunctionObject {
    pub(crate) module: usize,
    pub(crate) context: Context,
    pub(crate) name: CString,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

thread_local! {
    /// Handles of contexts of this thread, current last.
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
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
        let process = Process::attach(gpus).map_err(|_| NO_DEVICE)?;
        Ok(Self { process, devices, objects: Mutex::default() })
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context of this thread, with its handle.
    pub(crate) fn current(&self) -> Result<(usize, ContextObject), Code> {
        let handle = stack(|s| s.last().copied()).flatten().ok_or(INVALID_CONTEXT)?;
        self.objects().contexts.get(&handle).map(|c| (handle, *c)).ok_or(CONTEXT_IS_DESTROYED)
    }

    /// The context of a stream; null and the two special handles are the current context's.
    pub(crate) fn of_stream(&self, stream: usize) -> Result<(usize, ContextObject), Code> {
        if stream <= 2 {
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
