//! A libcuda.so.1 over fake-gpu: enough of the CUDA driver API to allocate, copy, launch, time and be asked for symbols.
//!
//! * All streams of a context are one queue, so waiting for an event of another stream is always over already.
//! * Device memory is accounted exactly and has contents, which live in pages of the host as they are written. Copies
//!   and memsets take no GPU time. Kernels change no memory.
//! * A kernel's length comes from its name: a function called `spin` takes its first parameter (u64) in nanoseconds, any
//!   other runs 10 us. Loading a module reads the `.entry` names of PTX text; images without PTX are refused.
//! * Stream-ordered allocations are charged at once and freed at once.
//! * Missing: arrays, virtual memory management, memory pools, graphs, IPC, peer access, textures, libraries. Their
//!   symbols are not exported, and cuGetProcAddress does not find them.
//!
//! Result codes are those of cuda.h. Nothing panics across the boundary: every lookup is checked, and what an argument
//! cannot be is `CUDA_ERROR_INVALID_VALUE`. A forked child must not use its parent's driver: every call is
//! `CUDA_ERROR_NOT_INITIALIZED` there, as it is with the real one.
#![allow(
    non_snake_case,
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, arguments and contracts are those of the CUDA driver API"
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attribute;
mod code;
mod context;
mod copy;
mod device;
mod driver;
mod event;
mod host;
mod launch;
mod memory;
mod module;
mod set;
mod stream;
mod symbol;

pub(crate) use code::*;

/// Makes something and writes it through a pointer a caller gave; a null pointer is `INVALID_VALUE`, and then nothing is
/// made.
///
/// # Safety
/// `to` is null or valid for a write.
pub(crate) unsafe fn give<T>(to: *mut T, make: impl FnOnce() -> Result<T, Code>) -> Code {
    if to.is_null() {
        return INVALID_VALUE;
    }
    match make() {
        Ok(made) => {
            // SAFETY: not null, and the caller of the CUDA function promised that it is valid.
            unsafe { to.write(made) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Writes through a pointer that may be null, which means that the value is not wanted.
///
/// # Safety
/// `to` is null or valid for a write.
pub(crate) unsafe fn give_if_wanted<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and the caller of the CUDA function promised that it is valid.
        unsafe { to.write(value) };
    }
}

/// `Ok` as success.
pub(crate) fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

/// Functions that do what another does: first versions of an ABI with the same arguments, and the flavours for
/// per-thread default streams, which here are the one queue of the context too.
macro_rules! twins {
    ($($name:ident = $other:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::Code {
            // SAFETY: the same arguments under the same contract.
            unsafe { $other($($argument),*) }
        }
    )*};
}
pub(crate) use twins;
