//! What a GPU is.

use std::ffi::c_char;

use fake_gpu::layout::{GpuRecord, text};

use crate::{Nvml, Return, give, give_text, gpu};

/// Reads something of a GPU.
pub(crate) fn record<T>(
    device: usize,
    read: impl FnOnce(&GpuRecord) -> T,
) -> impl FnOnce(&Nvml) -> Result<T, Return> {
    move |nvml| {
        let index = gpu(nvml, device)?;
        Ok(read(&nvml.gpus.lock().gpus[index]))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: usize, name: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    unsafe { give_text(name, room, record(device, |gpu| text(&gpu.product))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: usize, uuid: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    unsafe { give_text(uuid, room, record(device, |gpu| text(&gpu.uuid))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: usize, minor: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(minor, |nvml| gpu(nvml, device).map(|index| index as u32)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: usize,
    major: *mut i32,
    minor: *mut i32,
) -> Return {
    if minor.is_null() {
        return crate::INVALID_ARGUMENT;
    }
    let mut found = 0;
    let read = record(device, |gpu| {
        found = gpu.compute[1] as i32;
        gpu.compute[0] as i32
    });
    // SAFETY: the caller's pointer.
    let code = unsafe { give(major, read) };
    if code == crate::SUCCESS {
        // SAFETY: the caller's pointer, not null.
        unsafe { minor.write(found) };
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetBrand(device: usize, brand: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(brand, record(device, |gpu| gpu.brand)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetArchitecture(device: usize, architecture: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(architecture, record(device, |gpu| gpu.architecture)) }
}

/// FP32 cores of all multiprocessors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNumGpuCores(device: usize, cores: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(cores, record(device, |gpu| gpu.multiprocessors * gpu.cores)) }
}

/// NUMA node of the host the GPU is near.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNumaNodeId(device: usize, node: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(node, record(device, |gpu| gpu.numa)) }
}

/// `nvmlDeviceAttributes_t`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Attributes {
    multiprocessors: u32,
    engines: [u32; 7],
    memory_mib: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(device: usize, attributes: *mut Attributes) -> Return {
    let read = record(device, |gpu| Attributes {
        multiprocessors: gpu.multiprocessors,
        engines: [0; 7],
        memory_mib: gpu.total >> 20,
    });
    // SAFETY: the caller's pointer.
    unsafe { give(attributes, read) }
}

/// `NVML_COMPUTEMODE_DEFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeMode(device: usize, mode: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(mode, record(device, |_| 0)) }
}

/// `NVML_FEATURE_ENABLED`, as on nodes with the persistence daemon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPersistenceMode(device: usize, mode: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(mode, record(device, |_| 1)) }
}

/// `NVML_FEATURE_DISABLED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDisplayActive(device: usize, active: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(active, record(device, |_| 0)) }
}
