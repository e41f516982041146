//! Handles of GPUs.

use std::ffi::{CStr, c_char};

use fake_gpu::layout::{GpuRecord, text};

use crate::{INVALID_ARGUMENT, NOT_FOUND, Return, give, gpu};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(count, |nvml| Ok(nvml.devices.len() as u32)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, device: *mut usize) -> Return {
    let handle = index as usize + 1;
    // SAFETY: the caller's pointer.
    unsafe { give(device, |nvml| gpu(nvml, handle).map(|_| handle)) }
}

/// # Safety
/// `wanted` is null or a C string, `device` null or valid.
unsafe fn by(wanted: *const c_char, device: *mut usize, is: impl Fn(&GpuRecord, &str) -> bool) -> Return {
    if wanted.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, so a C string.
    let wanted = unsafe { CStr::from_ptr(wanted) }.to_string_lossy();
    let find = |nvml: &crate::Nvml| {
        let locked = nvml.gpus.lock();
        let index = nvml.devices.iter().position(|i| is(&locked.gpus[*i], &wanted)).ok_or(NOT_FOUND)?;
        drop(locked);
        gpu(nvml, index + 1).map(|_| index + 1)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(device, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut usize) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { by(uuid, device, |gpu, wanted| text(&gpu.uuid) == wanted) }
}

/// Bus ids of a GPU, in NVML's long form and the kernel's short one.
pub(crate) fn bus_ids(gpu: &GpuRecord) -> (String, String) {
    (format!("00000000:{:02X}:00.0", gpu.bus), format!("0000:{:02X}:00.0", gpu.bus))
}

/// In either form, or without the domain; in any case.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, device: *mut usize) -> Return {
    let is_it = |gpu: &GpuRecord, wanted: &str| {
        let (long, short) = bus_ids(gpu);
        let bare = short.trim_start_matches("0000:");
        [&long[..], &short, bare].iter().any(|form| form.eq_ignore_ascii_case(wanted))
    };
    // SAFETY: the caller's pointers, passed on.
    unsafe { by(id, device, is_it) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: usize, index: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(index, |nvml| gpu(nvml, device).map(|_| device as u32 - 1)) }
}
