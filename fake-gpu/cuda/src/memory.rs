//! Device memory: allocated, freed, reported.

use fake_gpu::Kind;

use crate::driver::driver;
use crate::{Code, INVALID_VALUE, SUCCESS, code, give, give_if_wanted, of_gpu, twins};

/// Rows of pitched memory begin at multiples of this, the widest alignment the real driver uses.
const PITCH: usize = 512;

fn alloc(bytes: usize, kind: Kind) -> Result<u64, Code> {
    let driver = driver()?;
    let (_, object) = driver.current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    driver.process.alloc(object.context, bytes as u64, kind).map_err(|e| of_gpu(&e))
}

fn free(address: u64, waits: bool) -> Result<(), Code> {
    let driver = driver()?;
    driver.current()?;
    if address == 0 {
        return Ok(());
    }
    let context = driver.process.context_of(address).ok_or(INVALID_VALUE)?;
    if waits {
        // A free waits for what may still use the memory, as the real one does.
        driver.process.synchronize(context);
    }
    driver.process.free(address).then_some(()).ok_or(INVALID_VALUE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes, Kind::Device)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(address: *mut u32, bytes: u32) -> Code {
    let make = || Ok(alloc(bytes as usize, Kind::Narrow)? as u32);
    // SAFETY: the caller's pointer.
    unsafe { give(address, make) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> Code {
    let row = width.checked_next_multiple_of(PITCH);
    let (Some(row), true) = (row, matches!(element, 4 | 8 | 16) && !pitch.is_null()) else {
        return INVALID_VALUE;
    };
    // More than there are numbers for is more than there is memory.
    let bytes = row.saturating_mul(height);
    // SAFETY: the caller's pointer.
    let made = unsafe { give(address, || alloc(bytes, Kind::Device)) };
    if made == SUCCESS {
        // SAFETY: the caller's pointer, not null.
        unsafe { pitch.write(row) };
    }
    made
}

/// The first ABI has 32 bits for addresses and sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch(
    address: *mut u32,
    pitch: *mut u32,
    width: u32,
    height: u32,
    element: u32,
) -> Code {
    let row = width.checked_next_multiple_of(PITCH as u32);
    let (Some(row), true) = (row, matches!(element, 4 | 8 | 16) && !pitch.is_null()) else {
        return INVALID_VALUE;
    };
    let make = || Ok(alloc(row as usize * height as usize, Kind::Narrow)? as u32);
    // SAFETY: the caller's pointer.
    let made = unsafe { give(address, make) };
    if made == SUCCESS {
        // SAFETY: the caller's pointer, not null.
        unsafe { pitch.write(row) };
    }
    made
}

/// `CU_MEM_ATTACH_GLOBAL` and `CU_MEM_ATTACH_HOST`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32) -> Code {
    if !matches!(flags, 1 | 2) {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes, Kind::Managed)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) -> Code {
    let make = || {
        driver()?.of_stream(stream)?;
        alloc(bytes, Kind::Device)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(address, make) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Code {
    code(driver().and_then(|d| d.of_stream(stream)).and_then(|_| free(address, false)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> Code {
    code(free(address, true))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree(address: u32) -> Code {
    code(free(address.into(), true))
}

fn info() -> Result<(u64, u64), Code> {
    let driver = driver()?;
    let (_, object) = driver.current()?;
    Ok(driver.process.memory(object.context.gpu()))
}

/// Either pointer may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    match info() {
        Ok((f, t)) => {
            // SAFETY: the caller's pointers.
            unsafe {
                give_if_wanted(free, f as usize);
                give_if_wanted(total, t as usize);
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

/// The first ABI has 32 bits for the sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo(free: *mut u32, total: *mut u32) -> Code {
    match info() {
        Ok((f, t)) => {
            // SAFETY: the caller's pointers.
            unsafe {
                give_if_wanted(free, u32::try_from(f).unwrap_or(u32::MAX));
                give_if_wanted(total, u32::try_from(t).unwrap_or(u32::MAX));
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(begin: *mut u64, bytes: *mut usize, address: u64) -> Code {
    match driver().and_then(|d| d.process.allocation_at(address).ok_or(crate::NOT_FOUND)) {
        Ok((b, size)) => {
            // SAFETY: the caller's pointers.
            unsafe {
                give_if_wanted(begin, b);
                give_if_wanted(bytes, size as usize);
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

twins! {
    cuMemAllocAsync_ptsz = cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize);
    cuMemFreeAsync_ptsz = cuMemFreeAsync(address: u64, stream: usize);
}
