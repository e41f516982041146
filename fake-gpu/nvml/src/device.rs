//! What a GPU does, and where it is on the bus.

use crate::handle::bus_ids;
use crate::identity::record;
use crate::{Nvml, Return, give, gpu};

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Utilization {
    gpu: u32,
    memory: u32,
}

/// Time in which memory was read or written is not known and 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: usize, rates: *mut Utilization) -> Return {
    let read = |nvml: &Nvml| {
        let status = nvml.gpus.status_of(gpu(nvml, device)?);
        Ok(Utilization { gpu: status.utilization, memory: 0 })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(rates, read) }
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

/// NVIDIA's vendor number with no device number: models are told apart by their names.
const VENDOR: u32 = 0x10de;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: usize, info: *mut PciInfo) -> Return {
    let read = record(device, |gpu| {
        let (long, short) = bus_ids(gpu);
        let mut pci = PciInfo {
            legacy: [0; 16],
            domain: 0,
            bus: gpu.bus,
            device: 0,
            id: VENDOR,
            subsystem: VENDOR,
            bus_id: [0; 32],
        };
        fake_gpu::layout::put_text(&mut pci.legacy, &short);
        fake_gpu::layout::put_text(&mut pci.bus_id, &long);
        pci
    });
    // SAFETY: the caller's pointer.
    unsafe { give(info, read) }
}

/// Boards without MIG have no MIG devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: usize, count: *mut u32) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(count, record(device, |_| 0)) }
}
