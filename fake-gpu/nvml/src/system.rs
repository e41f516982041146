//! The driver as a whole.

use std::ffi::c_char;

use crate::{Return, give_text};

/// A release of the 550 branch, which brings CUDA 12.4.
const DRIVER_VERSION: &str = "550.163.01";
const CUDA_VERSION: i32 = 12_040;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    unsafe { give_text(version, room, |_| Ok(DRIVER_VERSION.into())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    unsafe { give_text(version, room, |_| Ok(format!("12.{DRIVER_VERSION}"))) }
}

/// Works before nvmlInit too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut i32) -> Return {
    if version.is_null() {
        return crate::INVALID_ARGUMENT;
    }
    // SAFETY: the caller's pointer, not null.
    unsafe { version.write(CUDA_VERSION) };
    crate::SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut i32) -> Return {
    // SAFETY: the caller's pointer, passed on.
    unsafe { nvmlSystemGetCudaDriverVersion_v2(version) }
}

/// Name of a process, as its command line begins.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetProcessName(pid: u32, name: *mut c_char, room: u32) -> Return {
    let read = |_: &crate::Nvml| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| crate::NOT_FOUND)?;
        let first = line.split(|b| *b == 0).next().unwrap_or_default();
        let mut text = String::from_utf8_lossy(first).into_owned();
        while text.len() >= room.max(1) as usize {
            text.pop();
        }
        Ok(text)
    };
    // SAFETY: the caller's buffer.
    unsafe { give_text(name, room, read) }
}

/// The first version of `nvmlDeviceGetCount`, `...HandleByIndex` and others is the same function under another name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount(count: *mut u32) -> Return {
    // SAFETY: the caller's pointer, passed on.
    unsafe { crate::handle::nvmlDeviceGetCount_v2(count) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex(index: u32, device: *mut usize) -> Return {
    // SAFETY: the caller's pointer, passed on.
    unsafe { crate::handle::nvmlDeviceGetHandleByIndex_v2(index, device) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId(id: *const c_char, device: *mut usize) -> Return {
    // SAFETY: the caller's pointers, passed on.
    unsafe { crate::handle::nvmlDeviceGetHandleByPciBusId_v2(id, device) }
}
