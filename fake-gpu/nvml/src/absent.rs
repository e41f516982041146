//! What no fake can measure, and what boards like these do not have: `NVML_ERROR_NOT_SUPPORTED` on a good handle.

use std::ffi::c_void;

use crate::{NOT_SUPPORTED, Return, gpu, with};

fn absent(device: usize) -> Return {
    with(|nvml| gpu(nvml, device)).map_or_else(|code| code, |_| NOT_SUPPORTED)
}

macro_rules! absent {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: usize, $($argument: $type),*) -> Return {
            $(let _ = $argument;)*
            absent(device)
        }
    )*};
}

absent! {
    nvmlDeviceGetMigMode(current: *mut u32, pending: *mut u32);
    nvmlDeviceGetMigDeviceHandleByIndex(index: u32, mig: *mut usize);
    nvmlDeviceGetNvLinkState(link: u32, state: *mut u32);
    nvmlDeviceGetNvLinkRemotePciInfo_v2(link: u32, pci: *mut c_void);
    nvmlDeviceGetTemperature(sensor: u32, degrees: *mut u32);
    nvmlDeviceGetPowerUsage(milliwatts: *mut u32);
    nvmlDeviceGetEnforcedPowerLimit(milliwatts: *mut u32);
    nvmlDeviceGetPowerManagementLimit(milliwatts: *mut u32);
    nvmlDeviceGetFanSpeed(percent: *mut u32);
    nvmlDeviceGetPerformanceState(state: *mut u32);
    nvmlDeviceGetClockInfo(clock: u32, megahertz: *mut u32);
    nvmlDeviceGetMaxClockInfo(clock: u32, megahertz: *mut u32);
    nvmlDeviceGetEccMode(current: *mut u32, pending: *mut u32);
    nvmlDeviceGetTotalEccErrors(error: u32, counter: u32, count: *mut u64);
    nvmlDeviceGetSerial(serial: *mut c_void, room: u32);
    nvmlDeviceGetVbiosVersion(version: *mut c_void, room: u32);
    nvmlDeviceGetBAR1MemoryInfo(memory: *mut c_void);
    nvmlDeviceGetEncoderUtilization(percent: *mut u32, period: *mut u32);
    nvmlDeviceGetDecoderUtilization(percent: *mut u32, period: *mut u32);
}
