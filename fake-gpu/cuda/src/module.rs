//! Modules and functions.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;

use crate::driver::{Driver, FunctionObject, ModuleObject, driver};
use crate::{
    Code, FILE_NOT_FOUND, INVALID_HANDLE, INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, code, give,
};

/// Names after `.entry` in PTX text.
fn entries(ptx: &str) -> Vec<String> {
    let name = |rest: &str| {
        let rest = rest.trim_start();
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    ptx.split(".entry").skip(1).map(name).filter(|n| !n.is_empty()).collect()
}

/// Makes a module of an image: PTX text, or something that ends at its first zero byte and is refused.
fn load(image: &[u8]) -> Result<usize, Code> {
    let driver = driver()?;
    let (context, object) = driver.current()?;
    let text = std::str::from_utf8(image).ok().filter(|t| !t.starts_with('\x7f')).ok_or(INVALID_IMAGE)?;
    if !text.contains(".version") {
        return Err(INVALID_PTX);
    }
    let mut objects = driver.objects();
    let module = objects.handle();
    let mut functions = HashMap::new();
    for name in entries(text) {
        let Ok(c_name) = CString::new(name.as_str()) else { continue };
        let handle = objects.handle();
        objects.functions.insert(handle, FunctionObject { module, context: object.context, name: c_name });
        functions.insert(name, handle);
    }
    objects.modules.insert(module, ModuleObject { context, functions });
    Ok(module)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_void) -> Code {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: PTX is a C string by cuda.h; other images have a zero byte too, in their headers.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    // SAFETY: the caller's pointer.
    unsafe { give(module, || load(text.to_bytes())) }
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
    let read = || load(&std::fs::read(path).map_err(|_| FILE_NOT_FOUND)?);
    // SAFETY: the caller's pointer.
    unsafe { give(module, read) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: usize) -> Code {
    let unload = |driver: &Driver| {
        let mut objects = driver.objects();
        objects.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        objects.functions.retain(|_, function| function.module != module);
        Ok(())
    };
    code(driver().and_then(unload))
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
        let functions = &objects.modules.get(&module).ok_or(INVALID_HANDLE)?.functions;
        functions.get(&*name).copied().ok_or(NOT_FOUND)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(function, find) }
}

/// The name lives as long as the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetName(name: *mut *const c_char, function: usize) -> Code {
    let find = || driver()?.objects().functions.get(&function).map(|f| f.name.as_ptr()).ok_or(INVALID_HANDLE);
    // SAFETY: the caller's pointer.
    unsafe { give(name, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetModule(module: *mut usize, function: usize) -> Code {
    let find = || driver()?.objects().functions.get(&function).map(|f| f.module).ok_or(INVALID_HANDLE);
    // SAFETY: the caller's pointer.
    unsafe { give(module, find) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_are_read_from_ptx() {
        let ptx = ".version 7.0\n.visible .entry spin(.param .u64 n)\n{ ret; }\n.entry other\n(\n)";
        assert_eq!(entries(ptx), ["spin", "other"]);
    }
}
