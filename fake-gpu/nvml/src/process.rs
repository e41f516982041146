//! Processes on a GPU.

use crate::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, Return, SUCCESS, gpu, with};

/// `nvmlProcessInfo_v2_t`, which the third version shares.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ProcessInfo {
    pid: u32,
    memory: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

/// `nvmlProcessInfo_v1_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ProcessInfoV1 {
    pid: u32,
    memory: u64,
}

fn running(device: usize) -> Result<Vec<(u32, u64)>, Return> {
    with(|nvml| {
        let index = gpu(nvml, device)?;
        let mut locked = nvml.gpus.lock();
        locked.reap(None);
        let contexts = |slot: usize| {
            locked.contexts.iter().any(|c| c.used != 0 && c.slot as usize == slot && c.gpu as usize == index)
        };
        let slots = locked.slots.iter().enumerate().filter(|(slot, s)| s.used != 0 && contexts(*slot));
        Ok(slots.map(|(_, s)| (s.pid, s.memory[index])).collect())
    })
}

/// # Safety
/// `count` is null or valid, `infos` null or valid for `*count` entries.
unsafe fn list<T>(device: usize, count: *mut u32, infos: *mut T, make: impl Fn(u32, u64) -> T) -> Return {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let found = match running(device) {
        Ok(found) => found,
        Err(code) => return code,
    };
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(found.len() as u32) } as usize;
    if found.is_empty() {
        return SUCCESS;
    }
    if room < found.len() || infos.is_null() {
        return INSUFFICIENT_SIZE;
    }
    for (i, (pid, memory)) in found.into_iter().enumerate() {
        // SAFETY: the caller gives `room` entries, and there are not more than that.
        unsafe { infos.add(i).write(make(pid, memory)) };
    }
    SUCCESS
}

const NO_INSTANCE: u32 = u32::MAX;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    let make =
        |pid, memory| ProcessInfo { pid, memory, gpu_instance: NO_INSTANCE, compute_instance: NO_INSTANCE };
    // SAFETY: the caller's pointers, passed on.
    unsafe { list(device, count, infos, make) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v2(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { nvmlDeviceGetComputeRunningProcesses_v3(device, count, infos) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfoV1,
) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { list(device, count, infos, |pid, memory| ProcessInfoV1 { pid, memory }) }
}

/// Nothing here draws.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    _device: usize,
    count: *mut u32,
    _infos: *mut ProcessInfo,
) -> Return {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, so valid.
    unsafe { count.write(0) };
    SUCCESS
}
