//! Page-locked host memory: ordinary pages here. It is no memory of the GPU.

use memmap2::MmapMut;

use crate::driver::driver;
use crate::{Code, INVALID_VALUE, OUT_OF_MEMORY, code, give, twins};

fn alloc(bytes: usize) -> Result<usize, Code> {
    let driver = driver()?;
    driver.current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let pages = MmapMut::map_anon(bytes).map_err(|_| OUT_OF_MEMORY)?;
    let address = pages.as_ptr() as usize;
    driver.objects().host.insert(address, pages);
    Ok(address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(address: *mut usize, bytes: usize, _flags: u32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(address: *mut usize, bytes: usize) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(address: usize) -> Code {
    code(driver().and_then(|d| d.objects().host.remove(&address).map(drop).ok_or(INVALID_VALUE)))
}

twins! {
    cuMemAllocHost = cuMemAllocHost_v2(address: *mut usize, bytes: usize);
}
