//! The process's state: its GPUs, contexts, streams, events and modules.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use fake_gpu::{CONTAINER_FILE, Context, Gpus, Process};

use crate::{Code, INVALID_CONTEXT, INVALID_HANDLE, NO_DEVICE, NOT_INITIALIZED, SUCCESS, put};

/// What cuInit set up.
pub(crate) struct Driver {
    pub(crate) process: Process,
    /// CUDA ordinal -> GPU index of the file.
    pub(crate) devices: Vec<usize>,
    objects: Mutex<Objects>,
}

#[derive(Default)]
pub(crate) struct Objects {
    next: usize,
    pub(crate) contexts: HashMap<usize, ContextObject>,
    /// Ordinal -> handle and retain count.
    pub(crate) primary: HashMap<usize, (usize, u32)>,
    pub(crate) streams: HashMap<usize, usize>,
    pub(crate) events: HashMap<usize, EventObject>,
    pub(crate) modules: HashMap<usize, Vec<String>>,
    pub(crate) functions: HashMap<usize, String>,
}

#[derive(Clone, Copy)]
pub(crate) struct ContextObject {
    pub(crate) ordinal: usize,
    pub(crate) context: Context,
}

#[derive(Clone, Copy)]
pub(crate) struct EventObject {
    pub(crate) context: Context,
    pub(crate) stamp: u32,
    pub(crate) sequence: Option<u64>,
}

static DRIVER: OnceLock<Result<Driver, Code>> = OnceLock::new();

thread_local! {
    /// Contexts of this thread, current last.
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The driver after cuInit.
pub(crate) fn driver() -> Result<&'static Driver, Code> {
    match DRIVER.get() {
        Some(Ok(driver)) => Ok(driver),
        Some(Err(code)) => Err(*code),
        None => Err(NOT_INITIALIZED),
    }
}

impl Driver {
    fn start() -> Result<Self, Code> {
        let (file, devices) = gpu_file();
        let gpus = Gpus::open(&file).map_err(|_| NO_DEVICE)?;
        let visible = |minor: &usize| devices.join(format!("nvidia{minor}")).exists();
        let devices: Vec<usize> = (0..gpus.count()).filter(visible).collect();
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
        let handle = STACK.with_borrow(|s| s.last().copied()).ok_or(INVALID_CONTEXT)?;
        self.objects().contexts.get(&handle).map(|c| (handle, *c)).ok_or(INVALID_CONTEXT)
    }

    /// The context of a stream; null and the two special handles are the current context's.
    pub(crate) fn of_stream(&self, stream: usize) -> Result<Context, Code> {
        if stream <= 2 {
            return self.current().map(|(_, c)| c.context);
        }
        let objects = self.objects();
        let context = objects.streams.get(&stream).and_then(|c| objects.contexts.get(c));
        context.map(|c| c.context).ok_or(INVALID_HANDLE)
    }
}

impl Objects {
    /// A fresh handle; never null, never one of the special stream handles.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 1;
        0x1000 + self.next * 16
    }
}

/// The current context of this thread.
pub(crate) fn stack<T>(change: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    STACK.with_borrow_mut(change)
}

/// The GPU file and the folder whose device nodes say which GPUs may be used: beside this library in a driver root, at
/// their fixed places in a container.
fn gpu_file() -> (PathBuf, PathBuf) {
    // SAFETY: Dl_info is plain pointers, for which null is a value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is of this library's code; the result's string lives as long as the library.
    let found = unsafe { libc::dladdr(cuInit as *const c_void, &raw mut info) };
    if found != 0 && !info.dli_fname.is_null() {
        // SAFETY: dladdr gave a C string.
        let own = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned();
        let root = Path::new(&own).parent().and_then(Path::parent);
        if let Some(root) = root.filter(|r| r.join("gpus").is_file()) {
            return (root.join("gpus"), root.join("dev"));
        }
    }
    (CONTAINER_FILE.into(), "/dev".into())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: u32) -> Code {
    DRIVER.get_or_init(Driver::start).as_ref().err().copied().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { put(version, 12_040) }
}

const ERRORS: [(Code, &CStr, &CStr); 11] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: Code, name: *mut *const c_char) -> Code {
    let found = ERRORS.iter().find(|e| e.0 == error).map(|e| e.1.as_ptr());
    // SAFETY: the caller's pointer.
    found.map_or(crate::INVALID_VALUE, |text| unsafe { put(name, text) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: Code, text: *mut *const c_char) -> Code {
    let found = ERRORS.iter().find(|e| e.0 == error).map(|e| e.2.as_ptr());
    // SAFETY: the caller's pointer.
    found.map_or(crate::INVALID_VALUE, |found| unsafe { put(text, found) })
}
