//! The driver as a whole.

use std::ffi::{CStr, c_char};

use crate::{Return, code, put, put_text, with};

/// A release of the 550 branch, which brings CUDA 12.4.
const DRIVER_VERSION: &str = "550.163.01";

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    code(with(|_| unsafe { put_text(version, room, DRIVER_VERSION) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, room: u32) -> Return {
    // SAFETY: the caller's buffer.
    code(with(|_| unsafe { put_text(version, room, "12.550.163.01") }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut i32) -> Return {
    // SAFETY: the caller's pointer.
    code(with(|_| unsafe { put(version, 12_040) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut i32) -> Return {
    // SAFETY: the caller's pointer, passed on.
    unsafe { nvmlSystemGetCudaDriverVersion_v2(version) }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(error: Return) -> *const c_char {
    let text: &CStr = match error {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        15 => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}
