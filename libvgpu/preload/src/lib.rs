//! The limiter as one object that glibc's loader puts before a program's own libraries, because the container's
//! `/etc/ld.so.preload` names it. The fallback for where the driver's libraries cannot be stood in for.
//!
//! The hooks are those of the two shims. The loader's symbol order leads linked programs to them; what is looked up by
//! handle is answered by [`lookup`], in front of which stand this object's `dlsym` and `dlvsym` ([`mod@enter`]).
//!
//! Two ways past it are open that the shims close: a library that looks at its own dependencies first (`RTLD_DEEPBIND`) and
//! is linked against the driver, and code that lives in another namespace (`dlmopen`) as a whole.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    reason = "names and contracts are those of glibc's <dlfcn.h>"
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

// Their exported functions are this object's.
use vgpu_cuda as _;
use vgpu_nvml as _;

mod enter;
mod lookup;
