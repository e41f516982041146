//! Device memory: allocated, freed, reported.

use fake_gpu::Kind;

use crate::capture::refuse_unsafe;
use crate::driver::{driver, is_timeless, timeless_address};
use crate::{Code, INVALID_VALUE, SUCCESS, code, give, give_if_wanted, of_gpu};

/// Rows of pitched memory begin at multiples of this, the widest alignment the real driver uses.
const PITCH: usize = 512;

fn alloc(bytes: usize, kind: Kind) -> Result<u64, Code> {
    if is_timeless() && kind == Kind::Device {
        return Ok(timeless_address(bytes));
    }
    let driver = driver()?;
    let (_, object) = driver.current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    refuse_unsafe(driver)?;
    let address = driver.process.alloc(object.context, bytes as u64, kind).map_err(|e| of_gpu(&e))?;
    if kind == Kind::Managed {
        driver.objects().managed.insert(address);
    }
    Ok(address)
}

/// Frees linear memory, what a pool handed out, and what a graph allocated.
pub(crate) fn free(address: u64, waits: bool) -> Result<(), Code> {
    if is_timeless() {
        return Ok(());
    }
    let driver = driver()?;
    let (_, current) = driver.current()?;
    if address == 0 {
        return Ok(());
    }
    if waits {
        refuse_unsafe(driver)?;
        let context = driver.process.context_of(address).unwrap_or(current.context);
        // A free waits for what may still use the memory, as the real one does.
        driver.process.synchronize(context);
    }
    if crate::pool::free(driver, address) || driver.objects().graphs.memory.free(&driver.process, address) {
        if waits {
            crate::pool::settle(driver);
        }
        return Ok(());
    }
    if crate::ipc::is_opened(driver, address) || driver.objects().physical.mapped.contains_key(&address) {
        return Err(INVALID_VALUE);
    }
    crate::ipc::forget(driver, address);
    driver.objects().managed.remove(&address);
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
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> Code {
    code(free(address, true))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree(address: u32) -> Code {
    code(free(address.into(), true))
}

fn info() -> Result<(u64, u64), Code> {
    static TIMELESS: std::sync::OnceLock<(u64, u64)> = std::sync::OnceLock::new();
    let driver = driver()?;
    if is_timeless() {
        return Ok(*TIMELESS.get_or_init(|| driver.process.memory(driver.devices[0])));
    }
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

/// Whether all of it is managed memory.
fn managed(address: u64, bytes: usize) -> Result<(), Code> {
    let driver = driver()?;
    let begin = driver.process.allocation_at(address).map(|(begin, _)| begin).ok_or(INVALID_VALUE)?;
    let is_managed = driver.objects().managed.contains(&begin);
    (is_managed && driver.process.holds(address, bytes as u64)).then_some(()).ok_or(INVALID_VALUE)
}

/// `CU_MEM_ADVISE_SET_PREFERRED_LOCATION`.
const PREFER: i32 = 3;
/// `CU_DEVICE_CPU`.
const CPU: i32 = -1;

/// Of `CUmemLocation`: kind in the lower half (1: a device, 2 and above: the host), id in the upper.
fn device_of(location: u64) -> i32 {
    if location as u32 == 1 { (location >> 32) as i32 } else { CPU }
}

/// What is preferred somewhere lies there from now on, as far as there is room: nobody here faults pages in.
fn settle(address: u64, bytes: usize, device: i32) -> Result<(), Code> {
    managed(address, bytes)?;
    driver()?.process.settle_at(address, bytes as u64, device == CPU).then_some(()).ok_or(INVALID_VALUE)
}

fn advise(address: u64, bytes: usize, advice: i32, device: i32) -> Result<(), Code> {
    if advice == PREFER { settle(address, bytes, device) } else { managed(address, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAdvise(address: u64, bytes: usize, advice: i32, device: i32) -> Code {
    code(advise(address, bytes, advice, device))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAdvise_v2(address: u64, bytes: usize, advice: i32, location: u64) -> Code {
    code(advise(address, bytes, advice, device_of(location)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPrefetchAsync(address: u64, bytes: usize, device: i32, stream: usize) -> Code {
    code(driver().and_then(|d| d.of_stream(stream)).and_then(|_| settle(address, bytes, device)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPrefetchAsync_v2(
    address: u64,
    bytes: usize,
    location: u64,
    _flags: u32,
    stream: usize,
) -> Code {
    code(driver().and_then(|d| d.of_stream(stream)).and_then(|_| settle(address, bytes, device_of(location))))
}

crate::per_thread! {
    cuMemPrefetchAsync_ptsz = cuMemPrefetchAsync(address: u64, bytes: usize, device: i32; stream; );
    cuMemPrefetchAsync_v2_ptsz = cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: u64, flags: u32; stream; );
}
