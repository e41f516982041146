//! What shows the whole GPU and nothing of a share: in a share it is not supported, as on older drivers.

use std::ffi::c_void;

use crate::share::view;
use crate::{NOT_SUPPORTED, Return, real};

/// `NVML_GPU_UTILIZATION_SAMPLES` and `NVML_MEMORY_UTILIZATION_SAMPLES`.
const UTILIZATION: [i32; 2] = [1, 2];

fn in_a_share(device: usize, call: impl FnOnce() -> Return) -> Return {
    match view(device) {
        Ok(None) => call(),
        Ok(Some(_)) => NOT_SUPPORTED,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSamples(
    device: usize,
    kind: i32,
    since: u64,
    value: *mut i32,
    count: *mut u32,
    samples: *mut c_void,
) -> Return {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { real::samples(device, kind, since, value, count, samples) };
    // Power and clocks are the GPU's whoever uses it.
    if UTILIZATION.contains(&kind) { in_a_share(device, call) } else { call() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessesUtilizationInfo(device: usize, info: *mut c_void) -> Return {
    // SAFETY: the caller's arguments, unchanged.
    in_a_share(device, || unsafe { real::processes_utilization(device, info) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRunningProcessDetailList(device: usize, list: *mut c_void) -> Return {
    // SAFETY: the caller's arguments, unchanged.
    in_a_share(device, || unsafe { real::process_details(device, list) })
}
