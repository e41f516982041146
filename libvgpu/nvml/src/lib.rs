//! The limiter's libnvidia-ml.so.1: memory, processes and utilisation of a GPU as the share has them, everything else the
//! real library's.
//!
//! It needs the real library under another name (`libnvidia-ml-real.so`), through which a program finds every function
//! that is not defined here. It opens the share's files for reading only, each time it is asked. A share whose files
//! cannot be read is `NVML_ERROR_UNKNOWN`, never the whole GPU's numbers.
#![allow(
    non_snake_case,
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    reason = "names and contracts are those of NVML"
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod absent;
mod hook;
mod real;
mod share;
mod utilization;

/// `nvmlReturn_t`.
pub(crate) type Return = u32;
pub(crate) const SUCCESS: Return = 0;
pub(crate) const INVALID_ARGUMENT: Return = 2;
pub(crate) const NOT_SUPPORTED: Return = 3;
pub(crate) const NOT_FOUND: Return = 6;
pub(crate) const INSUFFICIENT_SIZE: Return = 7;
pub(crate) const LIBRARY_NOT_FOUND: Return = 12;
pub(crate) const UNKNOWN: Return = 999;
