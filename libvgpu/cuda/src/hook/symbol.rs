//! Looking up symbols.

use std::ffi::{c_char, c_void};

use crate::dispatch::put_hook;
use crate::{Code, SUCCESS, real};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    name: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let ask = |to: *mut *mut c_void, version| unsafe { real::cuGetProcAddress(name, to, version, flags) };
    let answered = ask(function, version);
    if answered == SUCCESS {
        // SAFETY: the driver has just accepted them.
        unsafe { put_hook(name, function, version, flags, |to, version| ask(to, version)) };
    }
    answered
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> Code {
    let ask = |to: *mut *mut c_void, version, status| {
        // SAFETY: the caller's arguments, unchanged.
        unsafe { real::cuGetProcAddress_v2(name, to, version, flags, status) }
    };
    let answered = ask(function, version, status);
    if answered == SUCCESS {
        // SAFETY: the driver has just accepted them.
        unsafe { put_hook(name, function, version, flags, |to, version| ask(to, version, &mut 0)) };
    }
    answered
}
