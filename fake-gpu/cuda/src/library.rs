//! Libraries: code that belongs to no context, as the runtime loads it since CUDA 12.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;

use crate::driver::{Driver, driver};
use crate::function::{LibraryObject, entries, resolve, unload};
use crate::{Code, FILE_NOT_FOUND, INVALID_HANDLE, INVALID_VALUE, NOT_FOUND, code, give};

fn make(image: &[u8]) -> Result<usize, Code> {
    let driver = driver()?;
    let names = entries(image)?;
    let mut objects = driver.objects();
    let library = objects.handle();
    let mut kernels = HashMap::new();
    for name in &names {
        let Ok(c_name) = CString::new(name.as_str()) else { continue };
        let handle = objects.handle();
        objects.code.kernels.insert(handle, (library, c_name));
        kernels.insert(name.clone(), handle);
    }
    objects.code.libraries.insert(library, LibraryObject { names, kernels, modules: HashMap::new() });
    Ok(library)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadData(
    library: *mut usize,
    image: *const c_void,
    _jit_options: *mut i32,
    _jit_values: *mut *mut c_void,
    _jit_count: u32,
    _options: *mut i32,
    _values: *mut *mut c_void,
    _count: u32,
) -> Code {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: PTX is a C string by cuda.h; other images have a zero byte too, in their headers.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    // SAFETY: the caller's pointer.
    unsafe { give(library, || make(text.to_bytes())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadFromFile(
    library: *mut usize,
    file: *const c_char,
    _jit_options: *mut i32,
    _jit_values: *mut *mut c_void,
    _jit_count: u32,
    _options: *mut i32,
    _values: *mut *mut c_void,
    _count: u32,
) -> Code {
    if file.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let path = OsStr::from_bytes(unsafe { CStr::from_ptr(file) }.to_bytes());
    let read = || make(&std::fs::read(path).map_err(|_| FILE_NOT_FOUND)?);
    // SAFETY: the caller's pointer.
    unsafe { give(library, read) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryUnload(library: usize) -> Code {
    let end = |driver: &Driver| {
        let mut objects = driver.objects();
        let gone = objects.code.libraries.remove(&library).ok_or(INVALID_HANDLE)?;
        objects.code.kernels.retain(|_, (of, _)| *of != library);
        gone.modules.values().try_for_each(|module| unload(driver, &mut objects, *module))
    };
    code(driver().and_then(end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(kernel: *mut usize, library: usize, name: *const c_char) -> Code {
    if name.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let find = || {
        let objects = driver()?.objects();
        let kernels = &objects.code.libraries.get(&library).ok_or(INVALID_HANDLE)?.kernels;
        kernels.get(&*name).copied().ok_or(NOT_FOUND)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(kernel, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernelCount(count: *mut u32, library: usize) -> Code {
    let find = || {
        let objects = driver()?.objects();
        objects.code.libraries.get(&library).map(|l| l.kernels.len() as u32).ok_or(INVALID_HANDLE)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(count, find) }
}

/// The library's module in the current context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetModule(module: *mut usize, library: usize) -> Code {
    let find = || {
        let driver = driver()?;
        let context = driver.current()?;
        let mut objects = driver.objects();
        let object = objects.code.libraries.get(&library).ok_or(INVALID_HANDLE)?;
        let first = object.kernels.values().next().copied().ok_or(NOT_FOUND)?;
        let function = resolve(driver, &mut objects, context, first)?;
        objects.code.functions.get(&function).map(|f| f.module).ok_or(INVALID_HANDLE)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(module, find) }
}

/// The kernel's function in the current context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetFunction(function: *mut usize, kernel: usize) -> Code {
    let find = || {
        let driver = driver()?;
        let context = driver.current()?;
        let mut objects = driver.objects();
        if !objects.code.kernels.contains_key(&kernel) {
            return Err(INVALID_HANDLE);
        }
        resolve(driver, &mut objects, context, kernel)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(function, find) }
}

/// The name lives as long as the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetName(name: *mut *const c_char, kernel: usize) -> Code {
    let find = || driver()?.objects().code.kernels.get(&kernel).map(|k| k.1.as_ptr()).ok_or(INVALID_HANDLE);
    // SAFETY: the caller's pointer.
    unsafe { give(name, find) }
}
