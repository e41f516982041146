//! The exported functions.

use crate::share::{View, view};
use crate::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, Return, SUCCESS, real};

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Debug)]
pub struct MemoryV2 {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
#[derive(Debug)]
pub struct ProcessInfoV1 {
    pid: u32,
    memory: u64,
}

/// `nvmlProcessInfo_v2_t`, which the third version shares.
#[repr(C)]
#[derive(Debug)]
pub struct ProcessInfo {
    pid: u32,
    memory: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

/// `NVML_VALUE_NOT_AVAILABLE` of an instance id.
const NO_INSTANCE: u32 = u32::MAX;

/// Whole bytes of the share: total, free, used.
fn memory(view: &View) -> Memory {
    Memory { total: view.limit, free: view.limit.saturating_sub(view.used), used: view.used.min(view.limit) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: usize, info: *mut Memory) -> Return {
    match view(device) {
        // SAFETY: the caller's arguments, unchanged.
        Ok(None) => unsafe { real::memory_info(device, info) },
        Ok(Some(_)) if info.is_null() => INVALID_ARGUMENT,
        Ok(Some(view)) => {
            // SAFETY: the caller's pointer, not null.
            unsafe { info.write(memory(&view)) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// The real function checks the version the caller put in; only then its numbers are replaced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, info: *mut MemoryV2) -> Return {
    let view = match view(device) {
        Ok(view) => view,
        Err(code) => return code,
    };
    // SAFETY: the caller's arguments, unchanged.
    let asked = unsafe { real::memory_info_v2(device, info) };
    if let (SUCCESS, Some(view)) = (asked, view) {
        let Memory { total, free, used } = memory(&view);
        // SAFETY: the real function has just written there.
        unsafe { info.write(MemoryV2 { version: (*info).version, total, reserved: 0, free, used }) };
    }
    asked
}

/// # Safety
/// `count` is null or valid, `infos` null or valid for `*count` entries.
unsafe fn list<T>(view: &View, count: *mut u32, infos: *mut T, make: impl Fn(u32, u64) -> T) -> Return {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let found = u32::try_from(view.processes.len()).unwrap_or(u32::MAX);
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(found) };
    if found == 0 {
        return SUCCESS;
    }
    if room < found || infos.is_null() {
        return INSUFFICIENT_SIZE;
    }
    for (index, process) in view.processes.iter().enumerate() {
        // SAFETY: the caller gives `room` entries, and there are not more than that.
        unsafe { infos.add(index).write(make(process.pid, process.memory)) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    match view(device) {
        // SAFETY: the caller's arguments, unchanged.
        Ok(None) => unsafe { real::processes_v3(device, count, infos.cast()) },
        // SAFETY: as above.
        Ok(Some(view)) => unsafe { list(&view, count, infos, with_instances) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v2(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    match view(device) {
        // SAFETY: the caller's arguments, unchanged.
        Ok(None) => unsafe { real::processes_v2(device, count, infos.cast()) },
        // SAFETY: as above.
        Ok(Some(view)) => unsafe { list(&view, count, infos, with_instances) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfoV1,
) -> Return {
    match view(device) {
        // SAFETY: the caller's arguments, unchanged.
        Ok(None) => unsafe { real::processes(device, count, infos.cast()) },
        // SAFETY: as above.
        Ok(Some(view)) => unsafe { list(&view, count, infos, |pid, memory| ProcessInfoV1 { pid, memory }) },
        Err(code) => code,
    }
}

fn with_instances(pid: u32, memory: u64) -> ProcessInfo {
    ProcessInfo { pid, memory, gpu_instance: NO_INSTANCE, compute_instance: NO_INSTANCE }
}
