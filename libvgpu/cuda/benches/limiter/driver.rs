//! The driver API as a measured program calls it: by addresses it has looked up once.

use std::ffi::c_void;

use anyhow::{Context, ensure};
use libloading::Library;

/// cuLaunchKernel.
pub(crate) type Launch = unsafe extern "C" fn(
    usize,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    usize,
    *mut *mut c_void,
    *mut *mut c_void,
) -> i32;

/// The loaded library, with a context of GPU 0 in this thread.
pub(crate) struct Driver {
    pub(crate) launch: Launch,
    alloc: unsafe extern "C" fn(*mut u64, usize) -> i32,
    free: unsafe extern "C" fn(u64) -> i32,
    info: unsafe extern "C" fn(*mut usize, *mut usize) -> i32,
    total: unsafe extern "C" fn(*mut usize, i32) -> i32,
    create: unsafe extern "C" fn(*mut usize, u32, i32) -> i32,
    set_current: unsafe extern "C" fn(usize) -> i32,
    context: usize,
    _library: Library,
}

/// What NVIDIA's library needs beside libc (branches 535 and 550), and the fake one does not: loaded for the driver's sake, it
/// is no cost of the limiter, which needs some of it.
const NEEDED: [&str; 4] = ["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// Loads it.
pub(crate) fn load_needed() -> anyhow::Result<()> {
    for name in NEEDED {
        // SAFETY: parts of glibc, whose initialisation has no conditions.
        std::mem::forget(unsafe { Library::new(name) }.with_context(|| format!("cannot load {name}"))?);
    }
    Ok(())
}

impl Driver {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut driver = Self::start_without_context()?;
        // SAFETY: a pointer to a field.
        ensure!(unsafe { (driver.create)(&raw mut driver.context, 0, 0) } == 0, "cuCtxCreate fails");
        Ok(driver)
    }

    /// With none of the calls that the limiter sees.
    pub(crate) fn start_without_context() -> anyhow::Result<Self> {
        // SAFETY: loading a driver library has no conditions.
        let library = unsafe { Library::new("libcuda.so.1") }.context("cannot load libcuda.so.1")?;
        // SAFETY: signatures are those of cuda.h.
        let driver = unsafe {
            let init: unsafe extern "C" fn(u32) -> i32 = *library.get(b"cuInit")?;
            ensure!(init(0) == 0, "cuInit fails");
            Self {
                launch: *library.get(b"cuLaunchKernel")?,
                alloc: *library.get(b"cuMemAlloc_v2")?,
                free: *library.get(b"cuMemFree_v2")?,
                info: *library.get(b"cuMemGetInfo_v2")?,
                set_current: *library.get(b"cuCtxSetCurrent")?,
                total: *library.get(b"cuDeviceTotalMem_v2")?,
                create: *library.get(b"cuCtxCreate_v2")?,
                context: 0,
                _library: library,
            }
        };
        Ok(driver)
    }

    /// Makes the context this thread's.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        // SAFETY: a context of this process.
        ensure!(unsafe { (self.set_current)(self.context) } == 0, "cuCtxSetCurrent fails");
        Ok(())
    }

    /// `Err` is a CUresult.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64, i32> {
        let mut address = 0;
        // SAFETY: a pointer to a local.
        let code = unsafe { (self.alloc)(&raw mut address, bytes) };
        if code == 0 { Ok(address) } else { Err(code) }
    }

    pub(crate) fn free(&self, address: u64) -> i32 {
        // SAFETY: a plain call.
        unsafe { (self.free)(address) }
    }

    /// Of GPU 0.
    pub(crate) fn total(&self) -> Result<usize, i32> {
        let mut bytes = 0;
        // SAFETY: a pointer to a local.
        let code = unsafe { (self.total)(&raw mut bytes, 0) };
        if code == 0 { Ok(bytes) } else { Err(code) }
    }

    pub(crate) fn info(&self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: pointers to locals.
        unsafe { (self.info)(&raw mut free, &raw mut total) };
        (free, total)
    }
}
