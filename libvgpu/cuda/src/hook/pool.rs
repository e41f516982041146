//! Stream-ordered memory.

use super::{given, twins};
use crate::abi::PoolProperties;
use crate::memory::{free, pointers};
use crate::{Code, SUCCESS, code, pool, real};

twins! {
    cuMemAllocAsync cuMemAllocAsync_ptsz(address: *mut u64, bytes: usize, stream: usize) => |alloc| {
        // SAFETY: the caller's arguments, unchanged.
        let call = || unsafe { given(alloc(address, bytes, stream), address) };
        code(pool::alloc(None, bytes as u64, stream, call))
    };
    cuMemAllocFromPoolAsync cuMemAllocFromPoolAsync_ptsz(
        address: *mut u64, bytes: usize, pool: usize, stream: usize
    ) => |alloc| {
        // SAFETY: the caller's arguments, unchanged.
        let call = || unsafe { given(alloc(address, bytes, pool, stream), address) };
        code(pool::alloc(Some(pool), bytes as u64, stream, call))
    };
    cuMemFreeAsync cuMemFreeAsync_ptsz(address: u64, stream: usize) => |free_on| {
        // SAFETY: the caller's arguments, unchanged.
        code(free(pointers(), address, || unsafe { free_on(address, stream) }))
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(pool: *mut usize, wanted: *const PoolProperties) -> Code {
    // SAFETY: the caller's arguments, unchanged; its pointer, valid or null.
    let (made, location) =
        unsafe { (given(real::cuMemPoolCreate(pool, wanted), pool), wanted.as_ref().map(|w| w.location)) };
    match made {
        Ok(made) => {
            pool::know(made, location.and_then(|l| l.device()));
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolDestroy(pool: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    pool::destroy(pool, || unsafe { real::cuMemPoolDestroy(pool) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolTrimTo(pool: usize, keep: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let done = unsafe { real::cuMemPoolTrimTo(pool, keep) };
    pool::settle(pool);
    done
}
