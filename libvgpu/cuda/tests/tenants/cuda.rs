//! The driver API as a tenant's program calls it.

use anyhow::{Context, bail};
use libloading::{Library, Symbol};

pub(crate) const OUT_OF_MEMORY: i32 = 2;

/// The loaded library, with a context of GPU 0.
pub(crate) struct Cuda(Library, usize);

impl Cuda {
    pub(crate) fn start() -> anyhow::Result<Self> {
        // SAFETY: loading a driver library has no conditions.
        let mut cuda = Self(unsafe { Library::new("libcuda.so.1") }.context("cannot load libcuda.so.1")?, 0);
        let mut context = 0usize;
        // SAFETY: signatures are those of cuda.h; pointers are to locals.
        unsafe {
            let init: Symbol<'_, extern "C" fn(u32) -> i32> = cuda.0.get(b"cuInit")?;
            let create: Symbol<'_, extern "C" fn(*mut usize, u32, i32) -> i32> =
                cuda.0.get(b"cuCtxCreate_v2")?;
            for code in [init(0), create(&raw mut context, 0, 0)] {
                if code != 0 {
                    bail!("CUDA does not start: {code}");
                }
            }
        }
        cuda.1 = context;
        Ok(cuda)
    }

    /// Makes the context this thread's.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        // SAFETY: the signature is that of cuda.h; a context of this process.
        let code = unsafe { self.0.get::<extern "C" fn(usize) -> i32>(b"cuCtxSetCurrent")?(self.1) };
        if code == 0 { Ok(()) } else { bail!("cuCtxSetCurrent: {code}") }
    }

    /// `Err` is a CUresult.
    pub(crate) fn alloc(&self, bytes: u64) -> Result<u64, i32> {
        let mut address = 0u64;
        // SAFETY: the signature is that of cuda.h; a pointer to a local.
        let code = unsafe {
            let alloc: Symbol<'_, extern "C" fn(*mut u64, usize) -> i32> =
                self.0.get(b"cuMemAlloc_v2").map_err(|_| -1)?;
            alloc(&raw mut address, bytes as usize)
        };
        if code == 0 { Ok(address) } else { Err(code) }
    }

    pub(crate) fn free(&self, address: u64) -> Result<(), i32> {
        // SAFETY: the signature is that of cuda.h.
        let code = unsafe {
            let free: Symbol<'_, extern "C" fn(u64) -> i32> = self.0.get(b"cuMemFree_v2").map_err(|_| -1)?;
            free(address)
        };
        if code == 0 { Ok(()) } else { Err(code) }
    }

    /// Free and total bytes.
    pub(crate) fn info(&self) -> Result<(u64, u64), i32> {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: the signature is that of cuda.h; pointers to locals.
        let code = unsafe {
            let info: Symbol<'_, extern "C" fn(*mut usize, *mut usize) -> i32> =
                self.0.get(b"cuMemGetInfo_v2").map_err(|_| -1)?;
            info(&raw mut free, &raw mut total)
        };
        if code == 0 { Ok((free as u64, total as u64)) } else { Err(code) }
    }
}
