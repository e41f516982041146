//! A libcuda.so.1 over fake-gpu: enough of the CUDA driver API to allocate, launch, time and be asked for symbols.
//!
//! All streams of a context are one queue. Device memory is accounted and not backed: copies and memsets check their
//! pointers and move nothing. A kernel's length comes from its name: a function called `spin` takes its first
//! parameter (u64) in nanoseconds, any other runs 10 us. Loading a module reads the `.entry` names of PTX text.
//!
//! Result codes are those of cuda.h. Nothing panics across the boundary: every lookup is checked, and what an argument
//! cannot be is `CUDA_ERROR_INVALID_VALUE`.
#![allow(
    non_snake_case,
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, arguments and contracts are those of the CUDA driver API"
)]

mod context;
mod device;
mod driver;
mod event;
mod launch;
mod memory;
mod stream;
mod symbol;

/// `CUresult`.
pub(crate) type Code = i32;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const NOT_INITIALIZED: Code = 3;
pub(crate) const NO_DEVICE: Code = 100;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;

/// Writes through a pointer a caller gave; null is `INVALID_VALUE`.
///
/// # Safety
/// `to` is null or valid for a write.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Code {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: not null, and the caller of the CUDA function promised that it is valid.
    unsafe { to.write(value) };
    SUCCESS
}

/// `Ok` as success.
pub(crate) fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}
