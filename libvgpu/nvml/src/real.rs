//! NVML's own functions, looked up in the real library when first called.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use vgpu_loader::{Library, LinkMap};

use crate::{LIBRARY_NOT_FOUND, Return};

/// The real library: a dependency of the shim, so it is loaded; before a preload object the program has loaded it.
fn library() -> Option<Library> {
    static LIBRARY: AtomicPtr<LinkMap> = AtomicPtr::new(std::ptr::null_mut());
    // SAFETY: of a library that was found before, and stays loaded since.
    if let Some(known) = unsafe { Library::from_ptr(LIBRARY.load(Ordering::Acquire)) } {
        return Some(known);
    }
    let found =
        vgpu_loader::behind(library as *const () as usize, c"libnvidia-ml-real.so", c"libnvidia-ml.so.1")?;
    LIBRARY.store(found.as_ptr().cast_mut(), Ordering::Release);
    Some(found)
}

fn symbol(name: &CStr) -> *mut c_void {
    library().map_or(std::ptr::null_mut(), |library| library.symbol(name))
}

macro_rules! real {
    ($($symbol:literal $name:ident($($argument:ident: $type:ty),*);)*) => {$(
        /// NVML's function; `NVML_ERROR_LIBRARY_NOT_FOUND` if the library or the function is missing.
        ///
        /// # Safety
        /// NVML's contract for the function of this name.
        pub(crate) unsafe fn $name($($argument: $type),*) -> Return {
            static ADDRESS: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let mut address = ADDRESS.load(Ordering::Relaxed);
            if address.is_null() {
                address = symbol($symbol);
                ADDRESS.store(address, Ordering::Relaxed);
            }
            if address.is_null() {
                return LIBRARY_NOT_FOUND;
            }
            type Function = unsafe extern "C" fn($($type),*) -> Return;
            // SAFETY: the address is of NVML's function of this name, whose signature this is.
            let function: Function = unsafe { std::mem::transmute::<*mut c_void, Function>(address) };
            // SAFETY: the caller's contract, passed on.
            unsafe { function($($argument),*) }
        }
    )*};
}

real! {
    c"nvmlDeviceGetUUID" device_uuid(device: usize, uuid: *mut c_char, room: u32);
    c"nvmlDeviceGetMemoryInfo" memory_info(device: usize, info: *mut crate::hook::Memory);
    c"nvmlDeviceGetMemoryInfo_v2" memory_info_v2(device: usize, info: *mut crate::hook::MemoryV2);
    c"nvmlDeviceGetComputeRunningProcesses" processes(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetComputeRunningProcesses_v2" processes_v2(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetComputeRunningProcesses_v3" processes_v3(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetGraphicsRunningProcesses" graphics(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetGraphicsRunningProcesses_v2" graphics_v2(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetGraphicsRunningProcesses_v3" graphics_v3(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetMPSComputeRunningProcesses" mps(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetMPSComputeRunningProcesses_v2" mps_v2(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetMPSComputeRunningProcesses_v3" mps_v3(device: usize, count: *mut u32, infos: *mut c_void);
    c"nvmlDeviceGetSamples" samples(device: usize, kind: i32, since: u64, value: *mut i32, count: *mut u32, samples: *mut c_void);
    c"nvmlDeviceGetProcessesUtilizationInfo" processes_utilization(device: usize, info: *mut c_void);
    c"nvmlDeviceGetRunningProcessDetailList" process_details(device: usize, list: *mut c_void);
    c"nvmlDeviceGetUtilizationRates" utilization_rates(device: usize, rates: *mut c_void);
    c"nvmlDeviceGetProcessUtilization" process_utilization(device: usize, samples: *mut c_void, count: *mut u32, since: u64);
}
