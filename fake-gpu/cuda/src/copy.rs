//! Copies between host and device memory. They take their context's time, not the GPU's.
//!
//! Those without a stream wait until they have ended, but for those from device to device; the others go on at once, and
//! their bytes have moved already, which no program can tell: kernels change no memory.

use std::ffi::c_void;

use crate::capture::{Target, target};
use crate::driver::{Driver, driver};
use crate::node::Kind;
use crate::{Code, INVALID_VALUE, NOT_SUPPORTED, OPERATING_SYSTEM, code, of_gpu, per_thread};

/// One side of a copy: an address of the device, or of the host, or either.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Side {
    Device(u64),
    Host(usize),
    Either(u64),
}

/// So many bytes from one side to the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    to: Side,
    from: Side,
    bytes: usize,
}

/// Bytes moved from device to device at a time.
const CHUNK: usize = 1 << 20;

/// Runs a change of device memory; false means that it lies outside of every allocation.
pub(crate) fn changed(result: std::io::Result<bool>) -> Result<(), Code> {
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(INVALID_VALUE),
        Err(_) => Err(OPERATING_SYSTEM),
    }
}

impl Transfer {
    /// Bytes it moves.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Which side of an address of unified addressing is meant: device memory if it lies in any, else the host's.
    fn resolve(&self, driver: &Driver) -> Self {
        let side = |side: Side| match side {
            Side::Either(address) if driver.process.allocation_at(address).is_some() => Side::Device(address),
            Side::Either(address) => Side::Host(address as usize),
            other => other,
        };
        Self { to: side(self.to), from: side(self.from), bytes: self.bytes }
    }

    fn check(&self, driver: &Driver) -> Result<(), Code> {
        let is_there = |side: Side| match side {
            Side::Device(address) => driver.process.holds(address, self.bytes as u64),
            Side::Host(address) => address != 0,
            Side::Either(_) => false,
        };
        if is_there(self.to) && is_there(self.from) { Ok(()) } else { Err(INVALID_VALUE) }
    }

    /// Moves the bytes.
    ///
    /// # Safety
    /// A host side is valid for so many bytes.
    pub(crate) unsafe fn apply(&self, driver: &Driver) -> Result<(), Code> {
        let this = self.resolve(driver);
        this.check(driver)?;
        let Self { to, from, bytes } = this;
        match (to, from) {
            (Side::Host(to), Side::Host(from)) => {
                // SAFETY: both are valid for so many bytes.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
                Ok(())
            }
            (Side::Device(to), Side::Host(from)) => {
                let mut at = from as *const u8;
                let put = |there: &mut [u8]| {
                    // SAFETY: valid for so many bytes, and nobody else's while the caller copies from it.
                    unsafe { there.as_mut_ptr().copy_from(at, there.len()) };
                    at = at.wrapping_add(there.len());
                };
                changed(driver.process.write(to, bytes as u64, put))
            }
            (Side::Host(to), Side::Device(from)) => {
                // SAFETY: valid for so many bytes, and nobody else's while the caller copies into it.
                let there = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
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
}

/// # Safety
/// A host side is valid for so many bytes.
unsafe fn copy(copy: Transfer, stream: usize, waits: bool) -> Result<(), Code> {
    let driver = driver()?;
    driver.of_stream(stream)?;
    let copy = copy.resolve(driver);
    if copy.bytes == 0 {
        return Ok(());
    }
    match target(driver, stream)? {
        Target::Graph(id) if !waits => crate::capture::add(driver, id, stream, Kind::Copy(copy)).map(drop),
        Target::Graph(_) => crate::capture::refuse_stream(driver, stream),
        Target::Queue(object) => {
            copy.check(driver)?;
            let is_inside = matches!((copy.to, copy.from), (Side::Device(_), Side::Device(_)));
            let queued = match is_inside {
                true => driver.process.queue_set(object.context, copy.bytes()),
                false => driver.process.queue_copy(object.context, copy.bytes()),
            };
            queued.map_err(|e| of_gpu(&e))?;
            if waits && !is_inside {
                crate::capture::refuse_unsafe(driver)?;
                driver.process.synchronize(object.context);
            }
            // SAFETY: the caller's sides.
            unsafe { copy.apply(driver) }
        }
    }
}

macro_rules! copies {
    ($($name:ident $asynchronous:ident $flavour:ident $asynchronous_flavour:ident
       ($to:ident: $to_type:ty => $to_side:expr, $from:ident: $from_type:ty => $from_side:expr);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($to: $to_type, $from: $from_type, bytes: usize) -> Code {
            // SAFETY: the caller's pointers.
            code(unsafe { copy(Transfer { to: $to_side, from: $from_side, bytes }, 0, true) })
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $asynchronous($to: $to_type, $from: $from_type, bytes: usize, stream: usize) -> Code {
            // SAFETY: the caller's pointers.
            code(unsafe { copy(Transfer { to: $to_side, from: $from_side, bytes }, stream, false) })
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $flavour($to: $to_type, $from: $from_type, bytes: usize) -> Code {
            // SAFETY: the caller's pointers.
            code(unsafe { copy(Transfer { to: $to_side, from: $from_side, bytes }, crate::stream::PER_THREAD, true) })
        }

        per_thread! {
            $asynchronous_flavour = $asynchronous($to: $to_type, $from: $from_type, bytes: usize; stream; );
        }
    )*};
}

copies! {
    cuMemcpy cuMemcpyAsync cuMemcpy_ptds cuMemcpyAsync_ptsz(
        to: u64 => Side::Either(to), from: u64 => Side::Either(from));
    cuMemcpyHtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2_ptds cuMemcpyHtoDAsync_v2_ptsz(
        to: u64 => Side::Device(to), from: *const c_void => Side::Host(from as usize));
    cuMemcpyDtoH_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2_ptds cuMemcpyDtoHAsync_v2_ptsz(
        to: *mut c_void => Side::Host(to as usize), from: u64 => Side::Device(from));
    cuMemcpyDtoD_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2_ptds cuMemcpyDtoDAsync_v2_ptsz(
        to: u64 => Side::Device(to), from: u64 => Side::Device(from));
}

/// One side of `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Side3d {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: usize,
    reserved: usize,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`, as graphs take it.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Copy3d {
    from: Side3d,
    to: Side3d,
    width: usize,
    height: usize,
    depth: usize,
}

impl Copy3d {
    /// A copy of one row. Arrays have no contents here, and several rows no single end.
    pub(crate) fn copy(&self) -> Result<Transfer, Code> {
        let side = |side: &Side3d| match side.kind {
            // `CU_MEMORYTYPE_HOST`, `_DEVICE` and `_UNIFIED`.
            1 => Ok(Side::Host(side.host + side.x)),
            2 => Ok(Side::Device(side.device + side.x as u64)),
            4 => Ok(Side::Either(side.device + side.x as u64)),
            _ => Err(NOT_SUPPORTED),
        };
        if self.height > 1 || self.depth > 1 || self.from.y + self.from.z + self.to.y + self.to.z > 0 {
            return Err(NOT_SUPPORTED);
        }
        if self.width == 0 {
            return Err(INVALID_VALUE);
        }
        Ok(Transfer { to: side(&self.to)?, from: side(&self.from)?, bytes: self.width })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn structures_are_those_of_cuda_h() {
        assert_eq!(size_of::<super::Copy3d>(), 200);
    }
}
