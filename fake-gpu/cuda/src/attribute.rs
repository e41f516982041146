//! `CUdevice_attribute`: numbers of a device.

use fake_gpu::layout::GpuRecord;

use crate::device::gpu;
use crate::driver::driver;
use crate::{Code, INVALID_VALUE, SUCCESS, give};

/// First number past those of CUDA 12.4.
const MAX: i32 = 135;

/// Values by number. What is not listed is 0, "no", which is true of everything the fakes cannot do.
fn value(attribute: i32, gpu: &GpuRecord) -> i32 {
    let shared_per_multiprocessor = match gpu.compute {
        [7, 5] => 65_536,
        [7, _] => 98_304,
        [8, 0] => 167_936,
        [8, _] => 102_400,
        _ => 233_472,
    };
    match attribute {
        // Largest block: threads, x, y, z. Largest grid: x, y, z.
        1..=3 => 1024,
        4 => 64,
        5 | 11 => i32::MAX,
        6 | 7 => 65_535,
        // Shared memory of a block, constant memory, threads of a warp, registers of a block and a multiprocessor.
        8 => 49_152,
        9 => 65_536,
        10 => 32,
        12 | 82 => 65_536,
        // Alignments: texture, surface, texture pitch.
        14 | 30 => 512,
        51 => 32,
        16 => gpu.multiprocessors as i32,
        // Overlap of copies, mapped host memory, concurrent kernels, ECC, unified addressing, priorities, L1 caches.
        15 | 19 | 31 | 32 | 41 | 78 | 79 | 80 => 1,
        33 => gpu.bus as i32,
        38 => 4 << 20,
        39 => gpu.threads as i32,
        40 => 3,
        75 => gpu.compute[0] as i32,
        76 => gpu.compute[1] as i32,
        81 => shared_per_multiprocessor,
        97 => shared_per_multiprocessor - 1024,
        // Managed memory, also concurrently; compute preemption; cooperative launches; virtual memory management and
        // its file descriptors; stream-ordered allocations.
        83 | 89 | 90 | 95 | 102 | 103 | 115 => 1,
        87 => 32,
        106 => 16,
        _ => 0,
    }
}

fn read(attribute: i32, device: i32) -> Result<i32, Code> {
    let gpu = gpu(device)?;
    if !(1..MAX).contains(&attribute) {
        return Err(INVALID_VALUE);
    }
    Ok(value(attribute, &driver()?.process.gpus().lock().gpus[gpu]))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(answer: *mut i32, attribute: i32, device: i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(answer, || read(attribute, device)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, device: i32) -> Code {
    // SAFETY: the caller's pointers, passed on.
    match unsafe { cuDeviceGetAttribute(major, 75, device) } {
        // SAFETY: as above.
        SUCCESS => unsafe { cuDeviceGetAttribute(minor, 76, device) },
        code => code,
    }
}
