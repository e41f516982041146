//! Modules.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;

use crate::driver::{Driver, driver};
use crate::function::{entries, load, unload};
use crate::{Code, FILE_NOT_FOUND, INVALID_HANDLE, INVALID_VALUE, NOT_FOUND, code, give, twins};

fn make(image: &[u8]) -> Result<usize, Code> {
    let driver = driver()?;
    let context = driver.current()?;
    let names = entries(image)?;
    load(driver, &mut driver.objects(), context, &names)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_void) -> Code {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: PTX is a C string by cuda.h; other images have a zero byte too, in their headers.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    // SAFETY: the caller's pointer.
    unsafe { give(module, || make(text.to_bytes())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut usize,
    image: *const c_void,
    _count: u32,
    _options: *mut i32,
    _values: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's pointers, passed on.
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut usize, file: *const c_char) -> Code {
    if file.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let path = OsStr::from_bytes(unsafe { CStr::from_ptr(file) }.to_bytes());
    let read = || make(&std::fs::read(path).map_err(|_| FILE_NOT_FOUND)?);
    // SAFETY: the caller's pointer.
    unsafe { give(module, read) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: usize) -> Code {
    let end = |driver: &Driver| {
        driver.current()?;
        unload(driver, &mut driver.objects(), module)
    };
    code(driver().and_then(end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut usize,
    module: usize,
    name: *const c_char,
) -> Code {
    if name.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let find = || {
        let objects = driver()?.objects();
        let functions = &objects.code.modules.get(&module).ok_or(INVALID_HANDLE)?.functions;
        functions.get(&*name).copied().ok_or(NOT_FOUND)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(function, find) }
}

twins! {
    cuModuleLoadFatBinary = cuModuleLoadData(module: *mut usize, image: *const c_void);
}
