//! Memory by handle.

use std::ffi::c_void;

use super::given;
use crate::abi::AllocationProperties;
use crate::{Code, SUCCESS, code, real, virtual_memory};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    wanted: *const AllocationProperties,
    flags: u64,
) -> Code {
    // SAFETY: the caller's pointer, valid or null.
    let device = unsafe { wanted.as_ref() }.and_then(|w| w.location.device());
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { given(real::cuMemCreate(handle, bytes, wanted, flags), handle) };
    code(virtual_memory::create(device, bytes as u64, call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRelease(handle: u64) -> Code {
    // SAFETY: the caller's argument, unchanged.
    virtual_memory::release(handle, || unsafe { real::cuMemRelease(handle) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    retained(
        unsafe { given(real::cuMemRetainAllocationHandle(handle, address), handle) },
        Some(address as u64),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemImportFromShareableHandle(
    handle: *mut u64,
    from: *mut c_void,
    kind: i32,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    retained(unsafe { given(real::cuMemImportFromShareableHandle(handle, from, kind), handle) }, None)
}

fn retained(done: Result<u64, Code>, address: Option<u64>) -> Code {
    match done {
        Ok(handle) => {
            virtual_memory::retained(handle, address);
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMap(
    address: u64,
    bytes: usize,
    offset: usize,
    handle: u64,
    flags: u64,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { real::cuMemMap(address, bytes, offset, handle, flags) };
    virtual_memory::map(address, bytes as u64, handle, call)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemUnmap(address: u64, bytes: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    virtual_memory::unmap(address, bytes as u64, || unsafe { real::cuMemUnmap(address, bytes) })
}
