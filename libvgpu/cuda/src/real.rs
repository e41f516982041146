//! The driver's own functions, looked up in the real library when first called.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use vgpu_loader::{Library, LinkMap};

use crate::{Code, SHARED_OBJECT_INIT_FAILED, abi};

/// The real library: a dependency of the shim, so it is loaded; before a preload object the program has loaded it.
fn library() -> Option<Library> {
    static LIBRARY: AtomicPtr<LinkMap> = AtomicPtr::new(std::ptr::null_mut());
    // SAFETY: of a library that was found before, and stays loaded since.
    if let Some(known) = unsafe { Library::from_ptr(LIBRARY.load(Ordering::Acquire)) } {
        return Some(known);
    }
    let found = vgpu_loader::behind(library as *const () as usize, c"libcuda-real.so", c"libcuda.so.1")?;
    LIBRARY.store(found.as_ptr().cast_mut(), Ordering::Release);
    Some(found)
}

/// Address of an exported function of the real library; null if it has none of that name.
#[cold]
#[inline(never)]
pub(crate) fn symbol(name: &CStr) -> *mut c_void {
    library().map_or(std::ptr::null_mut(), |library| library.symbol(name))
}

/// Defines the driver's functions.
macro_rules! real {
    ($($symbol:expr, $name:ident($($argument:ident: $type:ty),*);)*) => {$(
        /// The driver's function; `CUDA_ERROR_SHARED_OBJECT_INIT_FAILED` if the library or the function is missing.
        ///
        /// # Safety
        /// The contract of the CUDA driver API for the function of this name.
        #[allow(dead_code, reason = "of two ABIs of a report only the newer is asked")]
        pub(crate) unsafe fn $name($($argument: $type),*) -> Code {
            static ADDRESS: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            const SYMBOL: &CStr = match CStr::from_bytes_with_nul(concat!($symbol, "\0").as_bytes()) {
                Ok(symbol) => symbol,
                Err(_) => c"",
            };
            let mut address = ADDRESS.load(Ordering::Relaxed);
            if address.is_null() {
                address = symbol(SYMBOL);
                ADDRESS.store(address, Ordering::Relaxed);
            }
            if address.is_null() {
                return SHARED_OBJECT_INIT_FAILED;
            }
            type Function = unsafe extern "C" fn($($type),*) -> Code;
            // SAFETY: the address is of the driver's function of this name, whose signature this is.
            let function: Function = unsafe { std::mem::transmute::<*mut c_void, Function>(address) };
            // SAFETY: the caller's contract, passed on.
            unsafe { function($($argument),*) }
        }
    )*};
}

/// Those with a hook, under their own names.
macro_rules! hooked {
    ($($class:ident $name:literal $from:literal $until:literal $per_thread:literal
       $symbol:ident($($argument:ident: $type:ty),*);)*) => {
        $(real! { stringify!($symbol), $symbol($($argument: $type),*); })*
    };
}
crate::table::entry_points!(hooked);

real! {
    "cuDriverGetVersion", driver_version(version: *mut i32);
    "cuDeviceGetUuid", device_uuid(uuid: *mut [u8; 16], device: i32);
    "cuDeviceGetAttribute", device_attribute(answer: *mut i32, attribute: i32, device: i32);
    "cuMemAdvise", advise(address: u64, bytes: usize, advice: i32, device: i32);
    "cuCtxGetCurrent", ctx_get_current(context: *mut usize);
    "cuCtxGetDevice", ctx_get_device(device: *mut i32);
    "cuDevicePrimaryCtxGetState", primary_state(device: i32, flags: *mut u32, active: *mut i32);
    "cuDeviceGetMemPool", device_pool(pool: *mut usize, device: i32);
    "cuMemPoolGetAttribute", pool_attribute(pool: usize, attribute: i32, value: *mut c_void);
    "cuDeviceGetGraphMemAttribute", graph_memory(device: i32, attribute: i32, value: *mut c_void);
    "cuEventCreate", event_create(event: *mut usize, flags: u32);
    "cuEventDestroy_v2", event_destroy(event: usize);
    "cuEventRecord", event_record(event: usize, stream: usize);
    "cuEventElapsedTime", event_elapsed(millis: *mut f32, start: usize, end: usize);
    "cuThreadExchangeStreamCaptureMode", exchange_capture_mode(mode: *mut i32);
    "cuStreamIsCapturing", stream_is_capturing(stream: usize, status: *mut i32);
}
