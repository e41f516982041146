//! Copies between host and device memory. They take no GPU time.
//!
//! Those without a stream wait for what their context queued before, as on the legacy default stream; the others copy
//! at once, which no program can tell: kernels change no memory.

use std::ffi::c_void;

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_VALUE, OPERATING_SYSTEM, code, twins};

/// One side of a copy.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Device(u64),
    Host(*mut u8),
}

/// Bytes moved from device to device at a time.
const CHUNK: usize = 1 << 20;

impl Side {
    /// An address of unified addressing: device memory if it lies in any, else the host's.
    fn of(driver: &Driver, address: u64) -> Self {
        match driver.process.allocation_at(address) {
            Some(_) => Self::Device(address),
            None => Self::Host(address as *mut u8),
        }
    }
}

/// Runs a change of device memory; false means that it lies outside of every allocation.
pub(crate) fn changed(result: std::io::Result<bool>) -> Result<(), Code> {
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(INVALID_VALUE),
        Err(_) => Err(OPERATING_SYSTEM),
    }
}

/// # Safety
/// A host side is valid for `bytes` bytes.
unsafe fn move_bytes(driver: &Driver, to: Side, from: Side, bytes: usize) -> Result<(), Code> {
    match (to, from) {
        (Side::Host(to), Side::Host(from)) if !to.is_null() && !from.is_null() => {
            // SAFETY: both are valid for so many bytes.
            unsafe { std::ptr::copy(from, to, bytes) };
            Ok(())
        }
        (Side::Device(to), Side::Host(from)) if !from.is_null() => {
            let mut done = 0;
            let put = |there: &mut [u8]| {
                // SAFETY: valid for so many bytes, and nobody else's while the caller copies from it.
                unsafe { there.as_mut_ptr().copy_from(from.add(done), there.len()) };
                done += there.len();
            };
            changed(driver.process.write(to, bytes as u64, put))
        }
        (Side::Host(to), Side::Device(from)) if !to.is_null() => {
            // SAFETY: valid for so many bytes, and nobody else's while the caller copies into it.
            let there = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
            driver.process.read(from, there).then_some(()).ok_or(INVALID_VALUE)
        }
        (Side::Device(to), Side::Device(from)) => {
            let mut chunk = vec![0; bytes.min(CHUNK)];
            for offset in (0..bytes).step_by(CHUNK) {
                let part = &mut chunk[..(bytes - offset).min(CHUNK)];
                if !driver.process.read(from + offset as u64, part) {
                    return Err(INVALID_VALUE);
                }
                let mut rest = &part[..];
                let put = |there: &mut [u8]| {
                    let (now, behind) = rest.split_at(there.len());
                    there.copy_from_slice(now);
                    rest = behind;
                };
                changed(driver.process.write(to + offset as u64, part.len() as u64, put))?;
            }
            Ok(())
        }
        _ => Err(INVALID_VALUE),
    }
}

/// # Safety
/// A host side is valid for `bytes` bytes.
unsafe fn copy(
    sides: impl FnOnce(&Driver) -> (Side, Side),
    bytes: usize,
    stream: Option<usize>,
) -> Result<(), Code> {
    let driver = driver()?;
    let (_, object) = driver.of_stream(stream.unwrap_or(0))?;
    if bytes == 0 {
        return Ok(());
    }
    if stream.is_none() {
        driver.process.synchronize(object.context);
    }
    let (to, from) = sides(driver);
    // Nothing is moved if the end of a side is outside.
    for side in [to, from] {
        if let Side::Device(address) = side
            && !driver.process.holds(address, bytes as u64)
        {
            return Err(INVALID_VALUE);
        }
    }
    // SAFETY: the caller's sides.
    unsafe { move_bytes(driver, to, from, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { copy(|_| (Side::Device(to), Side::Host(from.cast_mut().cast())), bytes, None) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: usize,
) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { copy(|_| (Side::Device(to), Side::Host(from.cast_mut().cast())), bytes, Some(stream)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { copy(|_| (Side::Host(to.cast()), Side::Device(from)), bytes, None) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: usize,
) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { copy(|_| (Side::Host(to.cast()), Side::Device(from)), bytes, Some(stream)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    // SAFETY: no host side.
    code(unsafe { copy(|_| (Side::Device(to), Side::Device(from)), bytes, None) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> Code {
    // SAFETY: no host side.
    code(unsafe { copy(|_| (Side::Device(to), Side::Device(from)), bytes, Some(stream)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> Code {
    // SAFETY: what is not the device's is the caller's.
    code(unsafe { copy(|d| (Side::of(d, to), Side::of(d, from)), bytes, None) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize) -> Code {
    // SAFETY: what is not the device's is the caller's.
    code(unsafe { copy(|d| (Side::of(d, to), Side::of(d, from)), bytes, Some(stream)) })
}

twins! {
    cuMemcpy_ptds = cuMemcpy(to: u64, from: u64, bytes: usize);
    cuMemcpyAsync_ptsz = cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize);
    cuMemcpyHtoD_v2_ptds = cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize);
    cuMemcpyHtoDAsync_v2_ptsz = cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize);
    cuMemcpyDtoH_v2_ptds = cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize);
    cuMemcpyDtoHAsync_v2_ptsz = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize);
    cuMemcpyDtoD_v2_ptds = cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize);
    cuMemcpyDtoDAsync_v2_ptsz = cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize);
}
