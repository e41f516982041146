//! Devices: handles, identity, memory, utilisation.

use std::ffi::{CStr, c_char};

use fake_gpu::layout::{GpuRecord, text};
use fake_gpu::timeline;

use crate::{
    GPU_IS_LOST, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Return, code, gpu, put, put_text, with,
};

/// Xid of a GPU that has fallen off the bus.
const OFF_THE_BUS: u32 = 79;

fn with_record<T>(device: usize, read: impl FnOnce(&GpuRecord) -> Result<T, Return>) -> Result<T, Return> {
    with(|nvml| {
        let index = gpu(nvml, device)?;
        let locked = nvml.gpus.lock();
        let record = &locked.gpus[index];
        if record.xid == OFF_THE_BUS { Err(GPU_IS_LOST) } else { read(record) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with(|nvml| unsafe { put(count, nvml.devices.len() as u32) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, device: *mut usize) -> Return {
    code(with(|nvml| match (index as usize) < nvml.devices.len() {
        // SAFETY: the caller's pointer.
        true => unsafe { put(device, index as usize + 1) },
        false => Err(INVALID_ARGUMENT),
    }))
}

/// # Safety
/// `wanted` is null or a C string, `device` null or valid.
unsafe fn by(wanted: *const c_char, device: *mut usize, is: impl Fn(&GpuRecord, &str) -> bool) -> Return {
    if wanted.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, so a C string.
    let wanted = unsafe { CStr::from_ptr(wanted) }.to_string_lossy().to_lowercase();
    code(with(|nvml| {
        let locked = nvml.gpus.lock();
        let found = nvml.devices.iter().position(|i| is(&locked.gpus[*i], &wanted)).ok_or(NOT_FOUND)?;
        drop(locked);
        // SAFETY: the caller's pointer.
        unsafe { put(device, found + 1) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut usize) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { by(uuid, device, |gpu, wanted| text(&gpu.uuid).to_lowercase() == wanted) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, device: *mut usize) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { by(id, device, |gpu, wanted| wanted.contains(&format!(":{:02x}:00", gpu.bus))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: usize, index: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with(|nvml| gpu(nvml, device).and_then(|_| unsafe { put(index, device as u32 - 1) })))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: usize, name: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    code(with_record(device, |r| unsafe { put_text(name, room, &text(&r.product)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: usize, uuid: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    code(with_record(device, |r| unsafe { put_text(uuid, room, &text(&r.uuid)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: usize, minor: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with(|nvml| gpu(nvml, device).and_then(|i| unsafe { put(minor, i as u32) })))
}

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

/// Total, reserved, used by processes.
fn memory(device: usize) -> Result<(u64, u64, u64), Return> {
    with(|nvml| {
        let index = gpu(nvml, device)?;
        let mut locked = nvml.gpus.lock();
        locked.reap(None);
        let record = &locked.gpus[index];
        if record.xid == OFF_THE_BUS {
            return Err(GPU_IS_LOST);
        }
        Ok((record.total, record.reserved, locked.used(index)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: usize, info: *mut Memory) -> Return {
    // The first version counts the reserved part as used.
    code(memory(device).and_then(|(total, reserved, used)| {
        let used = used + reserved;
        // SAFETY: the caller's pointer.
        unsafe { put(info, Memory { total, free: total.saturating_sub(used), used }) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, info: *mut MemoryV2) -> Return {
    code(memory(device).and_then(|(total, reserved, used)| {
        let free = total.saturating_sub(reserved + used);
        let version = size_of::<MemoryV2>() as u32 | 2 << 24;
        // SAFETY: the caller's pointer.
        unsafe { put(info, MemoryV2 { version, total, reserved, free, used }) }
    }))
}

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Utilization {
    gpu: u32,
    memory: u32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: usize, rates: *mut Utilization) -> Return {
    code(with(|nvml| {
        let index = gpu(nvml, device)?;
        let mut locked = nvml.gpus.lock();
        timeline::advance(&mut locked, index, timeline::now());
        let percent = locked.gpus[index].utilization;
        drop(locked);
        // SAFETY: the caller's pointer.
        unsafe { put(rates, Utilization { gpu: percent, memory: 0 }) }
    }))
}

/// `nvmlPciInfo_t`.
#[repr(C)]
#[derive(Debug)]
pub struct PciInfo {
    legacy: [u8; 16],
    domain: u32,
    bus: u32,
    device: u32,
    id: u32,
    subsystem: u32,
    bus_id: [u8; 32],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: usize, info: *mut PciInfo) -> Return {
    code(with_record(device, |record| {
        let mut pci = PciInfo {
            legacy: [0; 16],
            domain: 0,
            bus: record.bus,
            device: 0,
            id: 0x1eb8_10de,
            subsystem: 0,
            bus_id: [0; 32],
        };
        let (short, long) =
            (format!("0000:{:02X}:00.0", record.bus), format!("00000000:{:02X}:00.0", record.bus));
        pci.legacy[..short.len()].copy_from_slice(short.as_bytes());
        pci.bus_id[..long.len()].copy_from_slice(long.as_bytes());
        // SAFETY: the caller's pointer.
        unsafe { put(info, pci) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: usize,
    major: *mut i32,
    minor: *mut i32,
) -> Return {
    code(with_record(device, |r| {
        // SAFETY: the caller's pointers.
        unsafe { put(major, r.compute[0] as i32).and_then(|()| put(minor, r.compute[1] as i32)) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetBrand(device: usize, brand: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with_record(device, |r| unsafe { put(brand, r.brand) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetArchitecture(device: usize, architecture: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with_record(device, |r| unsafe { put(architecture, r.architecture) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNumaNodeId(device: usize, node: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with_record(device, |r| unsafe { put(node, r.numa) }))
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
    code(with_record(device, |r| {
        let found =
            Attributes { multiprocessors: r.multiprocessors, engines: [0; 7], memory_mib: r.total >> 20 };
        // SAFETY: the caller's pointer.
        unsafe { put(attributes, found) }
    }))
}

/// `NVML_COMPUTEMODE_DEFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeMode(device: usize, mode: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with_record(device, |_| unsafe { put(mode, 0) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(_device: usize, _current: *mut u32, _pending: *mut u32) -> Return {
    NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPersistenceMode(device: usize, mode: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    code(with_record(device, |_| unsafe { put(mode, 1) }))
}
