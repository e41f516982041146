//! The driver's own functions, looked up in the real library when first called.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::{Code, SHARED_OBJECT_INIT_FAILED};

/// The real library. It is a dependency of this one, so it is loaded; a program that removed it gets a plain load.
fn library() -> *mut c_void {
    static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let known = LIBRARY.load(Ordering::Acquire);
    if !known.is_null() {
        return known;
    }
    let name: &CStr = c"libcuda-real.so";
    // SAFETY: a C string; loading the driver library is what this program asked for when it loaded this one.
    let found = unsafe {
        let loaded = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if loaded.is_null() { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) } else { loaded }
    };
    LIBRARY.store(found, Ordering::Release);
    found
}

/// Address of an exported function of the real library; null if it has none of that name.
pub(crate) fn symbol(name: &CStr) -> *mut c_void {
    let library = library();
    if library.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: an open handle and a C string.
    unsafe { libc::dlsym(library, name.as_ptr()) }
}

macro_rules! real {
    ($($symbol:literal $name:ident($($argument:ident: $type:ty),*);)*) => {$(
        /// The driver's function; `CUDA_ERROR_SHARED_OBJECT_INIT_FAILED` if the library or the function is missing.
        ///
        /// # Safety
        /// The contract of the CUDA driver API for the function of this name.
        pub(crate) unsafe fn $name($($argument: $type),*) -> Code {
            static ADDRESS: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let mut address = ADDRESS.load(Ordering::Relaxed);
            if address.is_null() {
                address = symbol($symbol);
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

real! {
    c"cuMemAlloc" mem_alloc_v1(address: *mut u32, bytes: u32);
    c"cuMemAlloc_v2" mem_alloc(address: *mut u64, bytes: usize);
    c"cuMemAllocPitch_v2" mem_alloc_pitch(address: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32);
    c"cuMemAllocManaged" mem_alloc_managed(address: *mut u64, bytes: usize, flags: u32);
    c"cuMemAllocAsync" mem_alloc_async(address: *mut u64, bytes: usize, stream: usize);
    c"cuMemFree" mem_free_v1(address: u32);
    c"cuMemFree_v2" mem_free(address: u64);
    c"cuMemFreeAsync" mem_free_async(address: u64, stream: usize);
    c"cuMemGetInfo_v2" mem_get_info(free: *mut usize, total: *mut usize);
    c"cuDeviceTotalMem_v2" device_total_mem(bytes: *mut usize, device: i32);
    c"cuDeviceGetUuid" device_uuid(uuid: *mut [u8; 16], device: i32);
    c"cuCtxGetCurrent" ctx_get_current(context: *mut usize);
    c"cuCtxGetDevice" ctx_get_device(device: *mut i32);
    c"cuCtxDestroy_v2" ctx_destroy(context: usize);
    c"cuDevicePrimaryCtxRetain" primary_retain(context: *mut usize, device: i32);
    c"cuDevicePrimaryCtxRelease_v2" primary_release(device: i32);
    c"cuDevicePrimaryCtxReset_v2" primary_reset(device: i32);
    c"cuDevicePrimaryCtxGetState" primary_state(device: i32, flags: *mut u32, active: *mut i32);
    c"cuEventCreate" event_create(event: *mut usize, flags: u32);
    c"cuEventDestroy_v2" event_destroy(event: usize);
    c"cuEventRecord" event_record(event: usize, stream: usize);
    c"cuEventQuery" event_query(event: usize);
    c"cuEventElapsedTime" event_elapsed(millis: *mut f32, start: usize, end: usize);
    c"cuStreamQuery" stream_query(stream: usize);
    c"cuStreamIsCapturing" stream_is_capturing(stream: usize, status: *mut i32);
    c"cuGetProcAddress" get_proc_address(name: *const c_char, function: *mut *mut c_void, version: i32, flags: u64);
    c"cuGetProcAddress_v2" get_proc_address_v2(name: *const c_char, function: *mut *mut c_void, version: i32, flags: u64, status: *mut i32);
    c"cuLaunchKernel" launch_kernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    c"cuLaunchKernel_ptsz" launch_kernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    c"cuLaunchCooperativeKernel" launch_cooperative(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void);
    c"cuLaunchCooperativeKernel_ptsz" launch_cooperative_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void);
    c"cuLaunchKernelEx" launch_kernel_ex(
        config: *const crate::hook::LaunchConfig, function: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    c"cuLaunchKernelEx_ptsz" launch_kernel_ex_ptsz(
        config: *const crate::hook::LaunchConfig, function: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void);
}
