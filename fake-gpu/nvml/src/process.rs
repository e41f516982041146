//! Processes on a GPU.

use std::time::{SystemTime, UNIX_EPOCH};

use fake_gpu::status::ProcessStatus;

use crate::pids::Pids;
use crate::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, Nvml, Return, SUCCESS, gpu, with};

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

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct UtilizationSample {
    pid: u32,
    time: u64,
    sm: u32,
    memory: u32,
    encoder: u32,
    decoder: u32,
}

/// Processes with a context on the GPU, with their ids as seen from here.
fn running(nvml: &Nvml, device: usize) -> Result<Vec<(u32, ProcessStatus)>, Return> {
    let status = nvml.gpus.status_of(gpu(nvml, device)?);
    let mut pids = Pids::new();
    Ok(status.processes.into_iter().map(|process| (pids.here(&process), process)).collect())
}

/// Writes a list: the count holds the caller's room, then how many there are.
///
/// # Safety
/// `count` is null or valid, `infos` null or valid for `*count` entries.
unsafe fn give_list<T>(found: &[T], count: *mut u32, infos: *mut T) -> Return
where
    T: Copy,
{
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(found.len() as u32) } as usize;
    if found.is_empty() {
        return SUCCESS;
    }
    if room < found.len() || infos.is_null() {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the caller gives `room` entries, and there are not more than that.
    unsafe { infos.copy_from_nonoverlapping(found.as_ptr(), found.len()) };
    SUCCESS
}

/// `NVML_VALUE_NOT_AVAILABLE` of an instance id.
const NO_INSTANCE: u32 = u32::MAX;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    let info = |(pid, process): (u32, ProcessStatus)| ProcessInfo {
        pid,
        memory: process.memory,
        gpu_instance: NO_INSTANCE,
        compute_instance: NO_INSTANCE,
    };
    match with(|nvml| running(nvml, device)) {
        // SAFETY: the caller's pointers, passed on.
        Ok(found) => unsafe { give_list(&found.into_iter().map(info).collect::<Vec<_>>(), count, infos) },
        Err(code) => code,
    }
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
    let info = |(pid, process): (u32, ProcessStatus)| ProcessInfoV1 { pid, memory: process.memory };
    match with(|nvml| running(nvml, device)) {
        // SAFETY: the caller's pointers, passed on.
        Ok(found) => unsafe { give_list(&found.into_iter().map(info).collect::<Vec<_>>(), count, infos) },
        Err(code) => code,
    }
}

/// Nothing here draws.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    match with(|nvml| gpu(nvml, device)) {
        // SAFETY: the caller's pointers, passed on.
        Ok(_) => unsafe { give_list(&[], count, infos) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v2(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, infos) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfoV1,
) -> Return {
    // SAFETY: the caller's pointers, passed on; no entry is ever written.
    unsafe { nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, infos.cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v2(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, infos) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfoV1,
) -> Return {
    // SAFETY: the caller's pointers, passed on; no entry is ever written.
    unsafe { nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, infos.cast()) }
}

/// There is no MPS server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
    device: usize,
    count: *mut u32,
    infos: *mut ProcessInfo,
) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, infos) }
}

/// One sample per process that ran a kernel in the last second, stamped with the present; a process that did not has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: usize,
    samples: *mut UtilizationSample,
    count: *mut u32,
    last_seen: u64,
) -> Return {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let sample = |(pid, process): (u32, ProcessStatus)| UtilizationSample {
        pid,
        time,
        sm: process.utilization,
        memory: 0,
        encoder: 0,
        decoder: 0,
    };
    let found = match with(|nvml| running(nvml, device)) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let busy = found.into_iter().filter(|(_, process)| process.utilization > 0 && time > last_seen);
    let busy: Vec<UtilizationSample> = busy.map(sample).collect();
    if busy.is_empty() && !count.is_null() {
        return NOT_FOUND;
    }
    // SAFETY: the caller's pointers, passed on.
    unsafe { give_list(&busy, count, samples) }
}
