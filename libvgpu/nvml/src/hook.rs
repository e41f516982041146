//! The exported functions.

use std::ffi::c_void;

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
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessInfoV1 {
    pid: u32,
    memory: u64,
}

/// `nvmlProcessInfo_v2_t`, which the third version shares.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
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

/// Most processes of a GPU that are looked at.
const MOST: usize = 4096;

/// Of a list of NVML's, the entries of the share's processes.
///
/// # Safety
/// `count` is null or valid, `infos` null or valid for `*count` entries; `ask` is NVML's function for such entries.
unsafe fn own<T: Copy + Default>(
    device: usize,
    count: *mut u32,
    infos: *mut T,
    ask: unsafe fn(usize, *mut u32, *mut c_void) -> Return,
    pid: impl Fn(&T) -> u32,
) -> Return {
    let view = match view(device) {
        Ok(Some(view)) => view,
        // SAFETY: the caller's arguments, unchanged.
        Ok(None) => return unsafe { ask(device, count, infos.cast()) },
        Err(code) => return code,
    };
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let mut all = vec![T::default(); 64];
    loop {
        let mut found = u32::try_from(all.len()).unwrap_or(u32::MAX);
        // SAFETY: room for so many entries.
        match unsafe { ask(device, &raw mut found, all.as_mut_ptr().cast()) } {
            SUCCESS => {
                all.truncate(found as usize);
                break;
            }
            INSUFFICIENT_SIZE if all.len() < MOST => all.resize(MOST, T::default()),
            code => return code,
        }
    }
    all.retain(|info| view.processes.iter().any(|process| process.pid == pid(info)));
    let found = u32::try_from(all.len()).unwrap_or(u32::MAX);
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(found) };
    if found == 0 {
        return SUCCESS;
    }
    if room < found || infos.is_null() {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the caller gives `room` entries, and there are not more than that.
    unsafe { infos.copy_from_nonoverlapping(all.as_ptr(), all.len()) };
    SUCCESS
}

/// Which of the share's processes draw, or are clients of an MPS server, only NVML knows.
macro_rules! own_lists {
    ($($name:ident $real:ident $info:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: usize, count: *mut u32, infos: *mut $info) -> Return {
            // SAFETY: the caller's pointers, passed on.
            unsafe { own(device, count, infos, real::$real, |info: &$info| info.pid) }
        }
    )*};
}

own_lists! {
    nvmlDeviceGetGraphicsRunningProcesses graphics ProcessInfoV1;
    nvmlDeviceGetGraphicsRunningProcesses_v2 graphics_v2 ProcessInfo;
    nvmlDeviceGetGraphicsRunningProcesses_v3 graphics_v3 ProcessInfo;
    nvmlDeviceGetMPSComputeRunningProcesses mps ProcessInfoV1;
    nvmlDeviceGetMPSComputeRunningProcesses_v2 mps_v2 ProcessInfo;
    nvmlDeviceGetMPSComputeRunningProcesses_v3 mps_v3 ProcessInfo;
}
