//! Reports.

use crate::{Code, INVALID_VALUE, SUCCESS, report};

/// Writes where the caller wants it.
///
/// # Safety
/// `to` is valid or null.
unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, so valid.
        unsafe { to.write(value) };
    }
}

/// The first ABIs have 32 bits.
fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Either pointer may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    match report::memory() {
        Ok((f, t)) => {
            // SAFETY: the caller's pointers.
            unsafe { (put(free, f), put(total, t)) };
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo(free: *mut u32, total: *mut u32) -> Code {
    match report::memory() {
        Ok((f, t)) => {
            // SAFETY: the caller's pointers.
            unsafe { (put(free, narrow(f)), put(total, narrow(t))) };
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> Code {
    match report::total(device) {
        Ok(_) if bytes.is_null() => INVALID_VALUE,
        Ok(total) => {
            // SAFETY: the caller's pointer.
            unsafe { put(bytes, total) };
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(bytes: *mut u32, device: i32) -> Code {
    match report::total(device) {
        Ok(_) if bytes.is_null() => INVALID_VALUE,
        Ok(total) => {
            // SAFETY: the caller's pointer.
            unsafe { put(bytes, narrow(total)) };
            SUCCESS
        }
        Err(code) => code,
    }
}
