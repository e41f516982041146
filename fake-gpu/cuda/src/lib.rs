//! A libcuda.so.1 over fake-gpu: what a limiter has to deal with of the CUDA driver API, and what programs need beside it.
//!
//! * All streams of a context are one queue, so waiting for an event of another stream is always over already.
//! * Device memory is accounted to the byte and has contents, which live in pages of the host as they are written. Kernels
//!   change no memory. Memsets take the GPU's time, copies that of their context.
//! * A kernel's length comes from its launch: a function called `spin` takes its first parameter (u64) in nanoseconds, any
//!   other runs 10 us. So one function can have two lengths. Images that are not PTX text are refused.
//! * Pools take whole blocks of 2 MiB from the GPU and give them back at the next wait, down to their release threshold.
//!   Memory of graphs is taken at the first launch or upload and kept until cuDeviceGraphMemTrim.
//! * Physical memory has a granularity of 2 MiB. What is exported is charged once, to the process that made it as long as
//!   that holds it. Contents of imported memory are the importer's own.
//! * Captured streams and the errors of what may not be done meanwhile are as the programming guide says.
//! * Missing: peer access, textures and surfaces, contents of arrays, multicast, external memory, NVIDIA's private tables.
//!   Their symbols are not exported, and cuGetProcAddress does not find them.
//! * Without time ([`fake_gpu::layout::NONE`]) launches, events, linear allocations and reports return at once: nothing is
//!   checked but that there is a driver, and nothing is accounted.
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

mod array;
mod attribute;
mod capture;
mod code;
mod context;
mod copy;
mod device;
mod driver;
mod event;
mod function;
mod graph;
mod host;
mod ipc;
mod launch;
mod legacy;
mod library;
mod limit;
mod memory;
mod module;
mod node;
mod pointer;
mod pool;
mod set;
mod stream;
mod symbol;
mod vmm;

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

/// Functions that do what another does on another default stream: there, stream 0 is the thread's own.
macro_rules! per_thread {
    ($($name:ident = $other:ident($($before:ident: $type:ty),*; stream; $($after:ident: $after_type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            $($before: $type,)* stream: usize, $($after: $after_type),*
        ) -> $crate::Code {
            // SAFETY: the same arguments under the same contract.
            unsafe { $other($($before,)* $crate::stream::of_thread(stream), $($after),*) }
        }
    )*};
}
pub(crate) use per_thread;
