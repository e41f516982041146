//! The limiter's libcuda.so.1: a shim in front of the real driver library.
//!
//! It defines the functions that allocate, report, launch or look up symbols, and needs the real library under another
//! name (`libcuda-real.so`), through which a program finds everything else. So it works however the program asks: by
//! linking, dlopen, dlsym on any handle, or cuGetProcAddress. It has no constructors and no signal handlers, prints
//! nothing and ends nothing; its one thread begins with the first launch that is metered.
//!
//! [`hook`] holds the exported functions, each a thin shell over an operation: [`memory`], [`virtual_memory`], [`pool`]
//! and [`graph`] charge, [`movable`] what may lie in the host's memory, [`context`] charges and ends, [`report`] reports, [`launch`] holds back, by [`credit`],
//! [`metering`], [`poller`] and [`lease`]. [`mod@table`] says which names mean them, [`dispatch`] answers cuGetProcAddress by it. [`real`] are the
//! driver's own functions, [`state`] is what this process knows of its shares.
//!
//! What fails inside fails closed for memory (a share whose files are broken gives `CUDA_ERROR_OPERATING_SYSTEM`) and
//! open for compute (a launch that cannot be measured is launched).
#![allow(
    non_snake_case,
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, arguments and contracts are those of the CUDA driver API"
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod abi;
mod capture;
mod context;
mod credit;
mod current;
mod dispatch;
mod event;
mod graph;
mod hook;
mod launch;
mod lease;
mod memory;
mod metering;
mod movable;
mod pointers;
mod poller;
mod pool;
mod real;
mod report;
mod spin;
mod state;
mod table;
mod virtual_memory;

/// `CUresult`.
pub(crate) type Code = i32;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
/// What a missing real library looks like to the program.
pub(crate) const SHARED_OBJECT_INIT_FAILED: Code = 303;
pub(crate) const OPERATING_SYSTEM: Code = 304;
pub(crate) const NOT_READY: Code = 600;
pub(crate) const NOT_SUPPORTED: Code = 801;

/// A `CUresult` as a result.
pub(crate) fn check(code: Code) -> Result<(), Code> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

/// And back.
pub(crate) fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}
