//! Device memory: accounted, not backed.

use crate::driver::driver;
use crate::{Code, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, code, put};

fn alloc(bytes: u64) -> Result<u64, Code> {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let driver = driver()?;
    let (_, object) = driver.current()?;
    driver.process.alloc(object.context, bytes).map_err(|_| OUT_OF_MEMORY)
}

fn free(address: u64) -> Result<(), Code> {
    let driver = driver()?;
    // A free waits for what may still use the memory, as the real one does.
    if let Ok((_, object)) = driver.current() {
        driver.process.synchronize(object.context);
    }
    if address == 0 || driver.process.free(address) { Ok(()) } else { Err(INVALID_VALUE) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    if address.is_null() {
        return INVALID_VALUE;
    }
    match alloc(bytes as u64) {
        // SAFETY: the caller's pointer.
        Ok(found) => unsafe { put(address, found) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(address: *mut u32, bytes: u32) -> Code {
    let mut wide = 0u64;
    // SAFETY: a local.
    match unsafe { cuMemAlloc_v2(&raw mut wide, bytes as usize) } {
        // SAFETY: the caller's pointer. 32-bit addresses are all the first ABI has.
        SUCCESS => unsafe { put(address, wide as u32) },
        code => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    _element: u32,
) -> Code {
    let row = width.next_multiple_of(512);
    let Some(bytes) = row.checked_mul(height) else { return INVALID_VALUE };
    // SAFETY: the caller's pointers, passed on.
    match unsafe { cuMemAlloc_v2(address, bytes) } {
        // SAFETY: as above.
        SUCCESS => unsafe { put(pitch, row) },
        code => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(address: *mut u64, bytes: usize, _flags: u32) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuMemAlloc_v2(address, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: usize) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuMemAlloc_v2(address, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, _stream: usize) -> Code {
    code(free(address))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    code(free(address))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree(address: u32) -> Code {
    code(free(u64::from(address)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    let asked = driver().and_then(|d| d.current().map(|(_, object)| d.process.memory(object.context.gpu())));
    match asked {
        // SAFETY: the caller's pointers.
        Ok((f, t)) => unsafe { put(free, f as usize) | put(total, t as usize) },
        Err(code) => code,
    }
}

fn known(address: u64) -> Result<(), Code> {
    driver()?.process.size(address).map(drop).ok_or(INVALID_VALUE)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, _from: *const u8, _bytes: usize) -> Code {
    code(known(to))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(_to: *mut u8, from: u64, _bytes: usize) -> Code {
    code(known(from))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, _value: u8, _count: usize) -> Code {
    code(known(to))
}
