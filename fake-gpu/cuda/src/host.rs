//! Page-locked host memory: ordinary pages here. It is no memory of the GPU.

use std::collections::{BTreeMap, HashMap};

use memmap2::MmapMut;

use crate::capture::refuse_unsafe;
use crate::driver::{Driver, driver};
use crate::{
    Code, HOST_MEMORY_ALREADY_REGISTERED, HOST_MEMORY_NOT_REGISTERED, INVALID_VALUE, OUT_OF_MEMORY, code,
    give, twins,
};

/// What is page-locked, by address.
#[derive(Default)]
pub(crate) struct Host {
    /// Made here, with its flags.
    made: HashMap<usize, (MmapMut, u32)>,
    /// The program's own: bytes and flags.
    registered: BTreeMap<usize, (usize, u32)>,
}

impl Host {
    /// Whether an address is of page-locked memory.
    pub(crate) fn holds(&self, address: usize) -> bool {
        let below = self.registered.range(..=address).next_back();
        self.made.iter().any(|(begin, (pages, _))| (*begin..begin + pages.len()).contains(&address))
            || below.is_some_and(|(begin, (bytes, _))| address - begin < *bytes)
    }
}

fn alloc(bytes: usize, flags: u32) -> Result<usize, Code> {
    let driver = driver()?;
    driver.current()?;
    if bytes == 0 || flags > 7 {
        return Err(INVALID_VALUE);
    }
    refuse_unsafe(driver)?;
    let pages = MmapMut::map_anon(bytes).map_err(|_| OUT_OF_MEMORY)?;
    let address = pages.as_ptr() as usize;
    driver.objects().host.made.insert(address, (pages, flags));
    Ok(address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(address: *mut usize, bytes: usize, flags: u32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes, flags)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(address: *mut usize, bytes: usize) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes, 0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(address: usize) -> Code {
    code(driver().and_then(|d| d.objects().host.made.remove(&address).map(drop).ok_or(INVALID_VALUE)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32) -> Code {
    let register = |driver: &Driver| {
        driver.current()?;
        let end = address.checked_add(bytes).filter(|_| address != 0 && bytes > 0).ok_or(INVALID_VALUE)?;
        let mut objects = driver.objects();
        let before = objects.host.registered.range(..end).next_back();
        if before.is_some_and(|(begin, (length, _))| begin + length > address) {
            return Err(HOST_MEMORY_ALREADY_REGISTERED);
        }
        objects.host.registered.insert(address, (bytes, flags));
        Ok(())
    };
    code(driver().and_then(register))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostUnregister(address: usize) -> Code {
    let end = |driver: &Driver| {
        driver.objects().host.registered.remove(&address).map(drop).ok_or(HOST_MEMORY_NOT_REGISTERED)
    };
    code(driver().and_then(end))
}

/// The GPU uses it under the same address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(device: *mut u64, address: usize, flags: u32) -> Code {
    let find = || {
        let is_known = flags == 0 && driver()?.objects().host.holds(address);
        is_known.then_some(address as u64).ok_or(INVALID_VALUE)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(device, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetFlags(flags: *mut u32, address: usize) -> Code {
    let find = || driver()?.objects().host.made.get(&address).map(|m| m.1).ok_or(INVALID_VALUE);
    // SAFETY: the caller's pointer.
    unsafe { give(flags, find) }
}

twins! {
    cuMemAllocHost = cuMemAllocHost_v2(address: *mut usize, bytes: usize);
    cuMemHostRegister = cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32);
}
