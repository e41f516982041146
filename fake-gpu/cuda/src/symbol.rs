//! cuGetProcAddress: which function a (name, version, flags) means.
//!
//! A name has an entry per ABI with the CUDA version it came with; the newest that is not newer than the version asked
//! for is the answer. Flag 2 asks for per-thread default streams: those functions have entries of their own, and a name
//! without one means the same function in both flavours.

use std::ffi::{CStr, c_char, c_void};

use crate::{
    Code, INVALID_VALUE, NOT_FOUND, SUCCESS, attribute, code, context, copy, device, driver, event, host,
    launch, memory, module, set, stream, symbol,
};

/// `CU_GET_PROC_ADDRESS_LEGACY_STREAM` and `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// `CUdriverProcAddressQueryResult`.
const FOUND: i32 = 0;
const UNKNOWN: i32 = 1;
const TOO_NEW: i32 = 2;

struct Entry {
    name: &'static str,
    version: i32,
    per_thread: bool,
    function: *const c_void,
}
// SAFETY: the pointers are addresses of functions, which never change.
unsafe impl Sync for Entry {}

macro_rules! table {
    ($($module:ident: $($name:literal $version:literal $([per_thread = $flag:literal])? $function:ident;)*)*) => {
        &[$($(Entry {
            name: $name,
            version: $version,
            per_thread: false $(|| $flag)?,
            function: $module::$function as *const c_void,
        }),*),*]
    };
}

static TABLE: &[Entry] = table! {
    driver:
    "cuInit" 2000 cuInit;
    "cuDriverGetVersion" 2020 cuDriverGetVersion;
    code:
    "cuGetErrorName" 6000 cuGetErrorName;
    "cuGetErrorString" 6000 cuGetErrorString;
    symbol:
    "cuGetProcAddress" 11030 cuGetProcAddress;
    "cuGetProcAddress" 12000 cuGetProcAddress_v2;
    "cuGetExportTable" 3000 cuGetExportTable;
    device:
    "cuDeviceGetCount" 2000 cuDeviceGetCount;
    "cuDeviceGet" 2000 cuDeviceGet;
    "cuDeviceGetName" 2000 cuDeviceGetName;
    "cuDeviceGetUuid" 9020 cuDeviceGetUuid;
    "cuDeviceGetUuid" 11040 cuDeviceGetUuid_v2;
    "cuDeviceTotalMem" 2000 cuDeviceTotalMem;
    "cuDeviceTotalMem" 3020 cuDeviceTotalMem_v2;
    "cuDeviceGetPCIBusId" 4010 cuDeviceGetPCIBusId;
    "cuDeviceGetByPCIBusId" 4010 cuDeviceGetByPCIBusId;
    attribute:
    "cuDeviceGetAttribute" 2000 cuDeviceGetAttribute;
    "cuDeviceComputeCapability" 2000 cuDeviceComputeCapability;
    context:
    "cuCtxCreate" 2000 cuCtxCreate;
    "cuCtxCreate" 3020 cuCtxCreate_v2;
    "cuCtxCreate" 11040 cuCtxCreate_v3;
    "cuCtxDestroy" 2000 cuCtxDestroy;
    "cuCtxDestroy" 4000 cuCtxDestroy_v2;
    "cuCtxSetCurrent" 4000 cuCtxSetCurrent;
    "cuCtxGetCurrent" 4000 cuCtxGetCurrent;
    "cuCtxPushCurrent" 2000 cuCtxPushCurrent;
    "cuCtxPushCurrent" 4000 cuCtxPushCurrent_v2;
    "cuCtxPopCurrent" 2000 cuCtxPopCurrent;
    "cuCtxPopCurrent" 4000 cuCtxPopCurrent_v2;
    "cuCtxGetDevice" 2000 cuCtxGetDevice;
    "cuCtxGetFlags" 7000 cuCtxGetFlags;
    "cuCtxGetApiVersion" 3020 cuCtxGetApiVersion;
    "cuCtxGetStreamPriorityRange" 5050 cuCtxGetStreamPriorityRange;
    "cuCtxSynchronize" 2000 cuCtxSynchronize;
    "cuDevicePrimaryCtxRetain" 7000 cuDevicePrimaryCtxRetain;
    "cuDevicePrimaryCtxRelease" 7000 cuDevicePrimaryCtxRelease;
    "cuDevicePrimaryCtxRelease" 11000 cuDevicePrimaryCtxRelease_v2;
    "cuDevicePrimaryCtxReset" 7000 cuDevicePrimaryCtxReset;
    "cuDevicePrimaryCtxReset" 11000 cuDevicePrimaryCtxReset_v2;
    "cuDevicePrimaryCtxGetState" 7000 cuDevicePrimaryCtxGetState;
    "cuDevicePrimaryCtxSetFlags" 7000 cuDevicePrimaryCtxSetFlags;
    "cuDevicePrimaryCtxSetFlags" 11000 cuDevicePrimaryCtxSetFlags_v2;
    memory:
    "cuMemAlloc" 2000 cuMemAlloc;
    "cuMemAlloc" 3020 cuMemAlloc_v2;
    "cuMemAllocPitch" 2000 cuMemAllocPitch;
    "cuMemAllocPitch" 3020 cuMemAllocPitch_v2;
    "cuMemAllocManaged" 6000 cuMemAllocManaged;
    "cuMemAllocAsync" 11020 cuMemAllocAsync;
    "cuMemAllocAsync" 11020 [per_thread = true] cuMemAllocAsync_ptsz;
    "cuMemFreeAsync" 11020 cuMemFreeAsync;
    "cuMemFreeAsync" 11020 [per_thread = true] cuMemFreeAsync_ptsz;
    "cuMemFree" 2000 cuMemFree;
    "cuMemFree" 3020 cuMemFree_v2;
    "cuMemGetInfo" 2000 cuMemGetInfo;
    "cuMemGetInfo" 3020 cuMemGetInfo_v2;
    "cuMemGetAddressRange" 3020 cuMemGetAddressRange_v2;
    host:
    "cuMemHostAlloc" 2020 cuMemHostAlloc;
    "cuMemAllocHost" 2000 cuMemAllocHost;
    "cuMemAllocHost" 3020 cuMemAllocHost_v2;
    "cuMemFreeHost" 2000 cuMemFreeHost;
    copy:
    "cuMemcpy" 4000 cuMemcpy;
    "cuMemcpy" 7000 [per_thread = true] cuMemcpy_ptds;
    "cuMemcpyAsync" 4000 cuMemcpyAsync;
    "cuMemcpyAsync" 7000 [per_thread = true] cuMemcpyAsync_ptsz;
    "cuMemcpyHtoD" 3020 cuMemcpyHtoD_v2;
    "cuMemcpyHtoD" 7000 [per_thread = true] cuMemcpyHtoD_v2_ptds;
    "cuMemcpyHtoDAsync" 3020 cuMemcpyHtoDAsync_v2;
    "cuMemcpyHtoDAsync" 7000 [per_thread = true] cuMemcpyHtoDAsync_v2_ptsz;
    "cuMemcpyDtoH" 3020 cuMemcpyDtoH_v2;
    "cuMemcpyDtoH" 7000 [per_thread = true] cuMemcpyDtoH_v2_ptds;
    "cuMemcpyDtoHAsync" 3020 cuMemcpyDtoHAsync_v2;
    "cuMemcpyDtoHAsync" 7000 [per_thread = true] cuMemcpyDtoHAsync_v2_ptsz;
    "cuMemcpyDtoD" 3020 cuMemcpyDtoD_v2;
    "cuMemcpyDtoD" 7000 [per_thread = true] cuMemcpyDtoD_v2_ptds;
    "cuMemcpyDtoDAsync" 3020 cuMemcpyDtoDAsync_v2;
    "cuMemcpyDtoDAsync" 7000 [per_thread = true] cuMemcpyDtoDAsync_v2_ptsz;
    set:
    "cuMemsetD8" 3020 cuMemsetD8_v2;
    "cuMemsetD8" 7000 [per_thread = true] cuMemsetD8_v2_ptds;
    "cuMemsetD16" 3020 cuMemsetD16_v2;
    "cuMemsetD16" 7000 [per_thread = true] cuMemsetD16_v2_ptds;
    "cuMemsetD32" 3020 cuMemsetD32_v2;
    "cuMemsetD32" 7000 [per_thread = true] cuMemsetD32_v2_ptds;
    "cuMemsetD8Async" 3020 cuMemsetD8Async;
    "cuMemsetD8Async" 7000 [per_thread = true] cuMemsetD8Async_ptsz;
    "cuMemsetD16Async" 3020 cuMemsetD16Async;
    "cuMemsetD16Async" 7000 [per_thread = true] cuMemsetD16Async_ptsz;
    "cuMemsetD32Async" 3020 cuMemsetD32Async;
    "cuMemsetD32Async" 7000 [per_thread = true] cuMemsetD32Async_ptsz;
    module:
    "cuModuleLoad" 2000 cuModuleLoad;
    "cuModuleLoadData" 2000 cuModuleLoadData;
    "cuModuleLoadDataEx" 2010 cuModuleLoadDataEx;
    "cuModuleUnload" 2000 cuModuleUnload;
    "cuModuleGetFunction" 2000 cuModuleGetFunction;
    "cuFuncGetModule" 11000 cuFuncGetModule;
    "cuFuncGetName" 12030 cuFuncGetName;
    launch:
    "cuLaunchKernel" 4000 cuLaunchKernel;
    "cuLaunchKernel" 7000 [per_thread = true] cuLaunchKernel_ptsz;
    "cuLaunchKernelEx" 11060 cuLaunchKernelEx;
    "cuLaunchKernelEx" 11060 [per_thread = true] cuLaunchKernelEx_ptsz;
    "cuLaunchCooperativeKernel" 9000 cuLaunchCooperativeKernel;
    "cuLaunchCooperativeKernel" 9000 [per_thread = true] cuLaunchCooperativeKernel_ptsz;
    stream:
    "cuStreamCreate" 2000 cuStreamCreate;
    "cuStreamCreateWithPriority" 5050 cuStreamCreateWithPriority;
    "cuStreamDestroy" 2000 cuStreamDestroy;
    "cuStreamDestroy" 4000 cuStreamDestroy_v2;
    "cuStreamSynchronize" 2000 cuStreamSynchronize;
    "cuStreamSynchronize" 7000 [per_thread = true] cuStreamSynchronize_ptsz;
    "cuStreamQuery" 2000 cuStreamQuery;
    "cuStreamQuery" 7000 [per_thread = true] cuStreamQuery_ptsz;
    "cuStreamWaitEvent" 3020 cuStreamWaitEvent;
    "cuStreamWaitEvent" 7000 [per_thread = true] cuStreamWaitEvent_ptsz;
    "cuStreamIsCapturing" 10000 cuStreamIsCapturing;
    "cuStreamIsCapturing" 10000 [per_thread = true] cuStreamIsCapturing_ptsz;
    "cuStreamGetCtx" 9020 cuStreamGetCtx;
    "cuStreamGetCtx" 9020 [per_thread = true] cuStreamGetCtx_ptsz;
    "cuStreamGetFlags" 5050 cuStreamGetFlags;
    "cuStreamGetFlags" 7000 [per_thread = true] cuStreamGetFlags_ptsz;
    "cuStreamGetPriority" 5050 cuStreamGetPriority;
    "cuStreamGetPriority" 7000 [per_thread = true] cuStreamGetPriority_ptsz;
    event:
    "cuEventCreate" 2000 cuEventCreate;
    "cuEventDestroy" 2000 cuEventDestroy;
    "cuEventDestroy" 4000 cuEventDestroy_v2;
    "cuEventRecord" 2000 cuEventRecord;
    "cuEventRecord" 7000 [per_thread = true] cuEventRecord_ptsz;
    "cuEventRecordWithFlags" 11010 cuEventRecordWithFlags;
    "cuEventRecordWithFlags" 11010 [per_thread = true] cuEventRecordWithFlags_ptsz;
    "cuEventQuery" 2000 cuEventQuery;
    "cuEventSynchronize" 2000 cuEventSynchronize;
    "cuEventElapsedTime" 2000 cuEventElapsedTime;
};

fn find(name: &str, version: i32, flags: u64) -> Option<*const c_void> {
    let newest = |per_thread: bool| {
        let fits = |e: &&Entry| e.name == name && e.version <= version && e.per_thread == per_thread;
        TABLE.iter().filter(fits).max_by_key(|e| e.version).map(|e| e.function)
    };
    if flags & PER_THREAD != 0 { newest(true).or_else(|| newest(false)) } else { newest(false) }
}

/// The answer, with a status.
fn lookup(name: &CStr, version: i32, flags: u64) -> (Option<*const c_void>, i32) {
    let name = name.to_str().unwrap_or_default();
    match find(name, version, flags) {
        Some(function) => (Some(function), FOUND),
        None if TABLE.iter().any(|e| e.name == name) => (None, TOO_NEW),
        None => (None, UNKNOWN),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    name: *const c_char,
    function: *mut *const c_void,
    version: i32,
    flags: u64,
) -> Code {
    // SAFETY: the caller's pointers, passed on; the status is not wanted.
    unsafe { cuGetProcAddress_v2(name, function, version, flags, std::ptr::null_mut()) }
}

/// With a status, if wanted. What is not found is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char,
    function: *mut *const c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> Code {
    if name.is_null() || function.is_null() || flags & !(LEGACY | PER_THREAD) != 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let (found, why) = lookup(unsafe { CStr::from_ptr(name) }, version, flags);
    // SAFETY: the caller's pointers; the first was found not to be null.
    unsafe {
        function.write(found.unwrap_or(std::ptr::null()));
        crate::give_if_wanted(status, why);
    }
    if found.is_some() { SUCCESS } else { NOT_FOUND }
}

/// NVIDIA's private tables: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, id: *const c_void) -> Code {
    if table.is_null() || id.is_null() { INVALID_VALUE } else { NOT_FOUND }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_abi_not_newer_than_asked_is_the_answer() {
        assert_eq!(find("cuMemAlloc", 2000, 0), Some(memory::cuMemAlloc as *const c_void));
        assert_eq!(find("cuMemAlloc", 12000, 0), Some(memory::cuMemAlloc_v2 as *const c_void));
        assert_eq!(find("cuCtxCreate", 3020, 0), Some(context::cuCtxCreate_v2 as *const c_void));
        assert_eq!(find("cuCtxCreate", 12050, 0), Some(context::cuCtxCreate_v3 as *const c_void));
        assert_eq!(find("cuLaunchKernelEx", 11000, 0), None);
    }

    #[test]
    fn cuda_11_3_gets_the_four_argument_lookup_and_cuda_12_the_other() {
        assert_eq!(find("cuGetProcAddress", 11030, 0), Some(cuGetProcAddress as *const c_void));
        assert_eq!(find("cuGetProcAddress", 12000, 0), Some(cuGetProcAddress_v2 as *const c_void));
    }

    #[test]
    fn per_thread_streams_have_their_own_functions() {
        assert_eq!(find("cuLaunchKernel", 12000, 2), Some(launch::cuLaunchKernel_ptsz as *const c_void));
        assert_eq!(find("cuLaunchKernel", 12000, 1), Some(launch::cuLaunchKernel as *const c_void));
        assert_eq!(find("cuMemAlloc", 12000, 2), Some(memory::cuMemAlloc_v2 as *const c_void));
    }

    #[test]
    fn unknown_and_too_new_are_told_apart() {
        assert_eq!(lookup(c"", 0, 0), (None, UNKNOWN));
        assert_eq!(lookup(c"cuGraphLaunch", 12000, 0), (None, UNKNOWN));
        assert_eq!(lookup(c"cuLaunchKernelEx", 11050, 0), (None, TOO_NEW));
    }
}
