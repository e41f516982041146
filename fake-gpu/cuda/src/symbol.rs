//! cuGetProcAddress: which function a (name, version, flags) means.
//!
//! A name has an entry per ABI with the CUDA version it came with; the newest that is not newer than the version asked
//! for is the answer. Flag 2 asks for per-thread default streams: those functions have entries of their own.

use std::ffi::{CStr, c_char, c_void};

use crate::{
    Code, INVALID_VALUE, NOT_FOUND, SUCCESS, context, device, driver, event, launch, memory, put, stream,
};

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

struct Entry {
    name: &'static str,
    version: i32,
    per_thread: bool,
    function: *const c_void,
}
// SAFETY: the pointers are addresses of functions, which never change.
unsafe impl Sync for Entry {}

macro_rules! table {
    ($($name:literal $version:literal $(per_thread $flag:literal)? => $module:ident::$function:ident;)*) => {
        &[$(Entry {
            name: $name,
            version: $version,
            per_thread: false $(|| $flag)?,
            function: $module::$function as *const c_void,
        }),*]
    };
}

static TABLE: &[Entry] = table! {
    "cuInit" 2000 => driver::cuInit;
    "cuDriverGetVersion" 2020 => driver::cuDriverGetVersion;
    "cuGetErrorName" 6000 => driver::cuGetErrorName;
    "cuGetErrorString" 6000 => driver::cuGetErrorString;
    "cuGetProcAddress" 11030 => self_::cuGetProcAddress;
    "cuGetProcAddress" 12000 => self_::cuGetProcAddress_v2;
    "cuGetExportTable" 3000 => self_::cuGetExportTable;
    "cuDeviceGetCount" 2000 => device::cuDeviceGetCount;
    "cuDeviceGet" 2000 => device::cuDeviceGet;
    "cuDeviceGetName" 2000 => device::cuDeviceGetName;
    "cuDeviceGetUuid" 9020 => device::cuDeviceGetUuid;
    "cuDeviceGetUuid" 11040 => device::cuDeviceGetUuid_v2;
    "cuDeviceTotalMem" 2000 => device::cuDeviceTotalMem;
    "cuDeviceTotalMem" 3020 => device::cuDeviceTotalMem_v2;
    "cuDeviceGetAttribute" 2000 => device::cuDeviceGetAttribute;
    "cuDeviceComputeCapability" 2000 => device::cuDeviceComputeCapability;
    "cuDeviceGetPCIBusId" 4010 => device::cuDeviceGetPCIBusId;
    "cuDeviceGetByPCIBusId" 4010 => device::cuDeviceGetByPCIBusId;
    "cuCtxCreate" 3020 => context::cuCtxCreate_v2;
    "cuCtxDestroy" 4000 => context::cuCtxDestroy_v2;
    "cuCtxSetCurrent" 4000 => context::cuCtxSetCurrent;
    "cuCtxGetCurrent" 4000 => context::cuCtxGetCurrent;
    "cuCtxPushCurrent" 4000 => context::cuCtxPushCurrent_v2;
    "cuCtxPopCurrent" 4000 => context::cuCtxPopCurrent_v2;
    "cuCtxGetDevice" 2000 => context::cuCtxGetDevice;
    "cuCtxSynchronize" 2000 => context::cuCtxSynchronize;
    "cuDevicePrimaryCtxRetain" 7000 => context::cuDevicePrimaryCtxRetain;
    "cuDevicePrimaryCtxRelease" 11000 => context::cuDevicePrimaryCtxRelease_v2;
    "cuDevicePrimaryCtxReset" 11000 => context::cuDevicePrimaryCtxReset_v2;
    "cuDevicePrimaryCtxGetState" 7000 => context::cuDevicePrimaryCtxGetState;
    "cuDevicePrimaryCtxSetFlags" 11000 => context::cuDevicePrimaryCtxSetFlags_v2;
    "cuMemAlloc" 2000 => memory::cuMemAlloc;
    "cuMemAlloc" 3020 => memory::cuMemAlloc_v2;
    "cuMemAllocPitch" 3020 => memory::cuMemAllocPitch_v2;
    "cuMemAllocManaged" 6000 => memory::cuMemAllocManaged;
    "cuMemAllocAsync" 11020 => memory::cuMemAllocAsync;
    "cuMemFreeAsync" 11020 => memory::cuMemFreeAsync;
    "cuMemFree" 2000 => memory::cuMemFree;
    "cuMemFree" 3020 => memory::cuMemFree_v2;
    "cuMemGetInfo" 3020 => memory::cuMemGetInfo_v2;
    "cuMemcpyHtoD" 3020 => memory::cuMemcpyHtoD_v2;
    "cuMemcpyDtoH" 3020 => memory::cuMemcpyDtoH_v2;
    "cuMemsetD8" 3020 => memory::cuMemsetD8_v2;
    "cuModuleLoadData" 2000 => launch::cuModuleLoadData;
    "cuModuleLoadDataEx" 2010 => launch::cuModuleLoadDataEx;
    "cuModuleUnload" 2000 => launch::cuModuleUnload;
    "cuModuleGetFunction" 2000 => launch::cuModuleGetFunction;
    "cuFuncGetName" 12030 => launch::cuFuncGetName;
    "cuLaunchKernel" 4000 => launch::cuLaunchKernel;
    "cuLaunchKernel" 7000 per_thread true => launch::cuLaunchKernel_ptsz;
    "cuLaunchKernelEx" 11060 => launch::cuLaunchKernelEx;
    "cuLaunchKernelEx" 11060 per_thread true => launch::cuLaunchKernelEx_ptsz;
    "cuLaunchCooperativeKernel" 9000 => launch::cuLaunchCooperativeKernel;
    "cuStreamCreate" 2000 => stream::cuStreamCreate;
    "cuStreamCreateWithPriority" 5050 => stream::cuStreamCreateWithPriority;
    "cuStreamDestroy" 4000 => stream::cuStreamDestroy_v2;
    "cuStreamSynchronize" 2000 => stream::cuStreamSynchronize;
    "cuStreamSynchronize" 7000 per_thread true => stream::cuStreamSynchronize_ptsz;
    "cuStreamQuery" 2000 => stream::cuStreamQuery;
    "cuStreamQuery" 7000 per_thread true => stream::cuStreamQuery_ptsz;
    "cuStreamWaitEvent" 3020 => stream::cuStreamWaitEvent;
    "cuStreamWaitEvent" 7000 per_thread true => stream::cuStreamWaitEvent_ptsz;
    "cuStreamIsCapturing" 10000 => stream::cuStreamIsCapturing;
    "cuStreamIsCapturing" 10000 per_thread true => stream::cuStreamIsCapturing_ptsz;
    "cuEventCreate" 2000 => event::cuEventCreate;
    "cuEventDestroy" 4000 => event::cuEventDestroy_v2;
    "cuEventRecord" 2000 => event::cuEventRecord;
    "cuEventRecord" 7000 per_thread true => event::cuEventRecord_ptsz;
    "cuEventQuery" 2000 => event::cuEventQuery;
    "cuEventSynchronize" 2000 => event::cuEventSynchronize;
    "cuEventElapsedTime" 2000 => event::cuEventElapsedTime;
};
use crate::symbol as self_;

fn find(name: &str, version: i32, flags: u64) -> Option<*const c_void> {
    let newest = |per_thread: bool| {
        let fits = |e: &&Entry| e.name == name && e.version <= version && e.per_thread == per_thread;
        TABLE.iter().filter(fits).max_by_key(|e| e.version).map(|e| e.function)
    };
    if flags & PER_THREAD != 0 { newest(true).or_else(|| newest(false)) } else { newest(false) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    name: *const c_char,
    function: *mut *const c_void,
    version: i32,
    flags: u64,
) -> Code {
    if name.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    match find(&name, version, flags) {
        // SAFETY: the caller's pointer.
        Some(found) => unsafe { put(function, found) },
        None => {
            // SAFETY: as above.
            let written = unsafe { put(function, std::ptr::null()) };
            if written == SUCCESS { NOT_FOUND } else { written }
        }
    }
}

/// The same with a status: 0 found, 1 unknown, 2 newer than the version asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char,
    function: *mut *const c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> Code {
    // SAFETY: the caller's pointers, passed on.
    let code = unsafe { cuGetProcAddress(name, function, version, flags) };
    if !status.is_null() && !name.is_null() {
        // SAFETY: the caller gives a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let known = TABLE.iter().any(|e| e.name == name);
        // SAFETY: the caller's pointer, not null.
        unsafe { status.write(if code == SUCCESS { 0 } else { 1 + i32::from(known) }) };
    }
    code
}

/// NVIDIA's private tables: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(_table: *mut *const c_void, _id: *const c_void) -> Code {
    NOT_FOUND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_abi_not_newer_than_asked_is_the_answer() {
        assert_eq!(find("cuMemAlloc", 2000, 0), Some(memory::cuMemAlloc as *const c_void));
        assert_eq!(find("cuMemAlloc", 12000, 0), Some(memory::cuMemAlloc_v2 as *const c_void));
        assert_eq!(find("cuLaunchKernelEx", 11000, 0), None);
    }

    #[test]
    fn per_thread_streams_have_their_own_functions() {
        assert_eq!(find("cuLaunchKernel", 12000, 2), Some(launch::cuLaunchKernel_ptsz as *const c_void));
        assert_eq!(find("cuMemAlloc", 12000, 2), Some(memory::cuMemAlloc_v2 as *const c_void));
    }
}
