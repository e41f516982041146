//! Modules, functions and launches.

use std::ffi::{CStr, c_char, c_void};

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, NOT_FOUND, code, put};

/// Length of a kernel that does not say its own.
const KERNEL_NANOS: u64 = 10_000;

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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_void) -> Code {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: PTX is a C string by cuda.h; other images are not for this driver and end at their first zero byte.
    let text = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
    let names = entries(&text);
    let load = |driver: &Driver| {
        driver.current()?;
        let mut objects = driver.objects();
        let handle = objects.handle();
        objects.modules.insert(handle, names);
        Ok(handle)
    };
    match driver().and_then(load) {
        // SAFETY: the caller's pointer.
        Ok(handle) => unsafe { put(module, handle) },
        Err(code) => code,
    }
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
pub extern "C" fn cuModuleUnload(module: usize) -> Code {
    code(driver().and_then(|d| d.objects().modules.remove(&module).map(drop).ok_or(INVALID_HANDLE)))
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
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let get = |driver: &Driver| {
        let mut objects = driver.objects();
        let names = objects.modules.get(&module).ok_or(INVALID_HANDLE)?;
        if !names.contains(&name) {
            return Err(NOT_FOUND);
        }
        let handle = objects.handle();
        objects.functions.insert(handle, name);
        Ok(handle)
    };
    match driver().and_then(get) {
        // SAFETY: the caller's pointer.
        Ok(handle) => unsafe { put(function, handle) },
        Err(code) => code,
    }
}

/// # Safety
/// `parameters` is null or points to as many pointers as the function has parameters.
unsafe fn launch(function: usize, stream: usize, parameters: *mut *mut c_void) -> Code {
    let run = |driver: &Driver| {
        let is_spin = driver.objects().functions.get(&function).map(|n| n == "spin").ok_or(INVALID_HANDLE)?;
        let nanos = if is_spin && !parameters.is_null() {
            // SAFETY: `spin` takes one u64, so the first pointer is there and points to one.
            unsafe { (*parameters).cast::<u64>().read_unaligned() }
        } else {
            KERNEL_NANOS
        };
        driver.process.launch(driver.of_stream(stream)?, nanos);
        Ok(())
    };
    code(driver().and_then(run))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    _grid_x: u32,
    _grid_y: u32,
    _grid_z: u32,
    _block_x: u32,
    _block_y: u32,
    _block_z: u32,
    _shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { launch(function, stream, parameters) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel_ptsz(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's pointers, passed on.
    unsafe {
        cuLaunchKernel(
            function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra,
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: usize,
    _grid_x: u32,
    _grid_y: u32,
    _grid_z: u32,
    _block_x: u32,
    _block_y: u32,
    _block_z: u32,
    _shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { launch(function, stream, parameters) }
}

/// `CUlaunchConfig` of cuda.h.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: *mut c_void,
    count: u32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: usize,
    parameters: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Code {
    if config.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's pointers; the config was just found not to be null.
    unsafe { launch(function, (*config).stream, parameters) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx_ptsz(
    config: *const LaunchConfig,
    function: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's pointers, passed on.
    unsafe { cuLaunchKernelEx(config, function, parameters, extra) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetName(name: *mut *const c_char, function: usize) -> Code {
    let known = driver().and_then(|d| d.objects().functions.get(&function).cloned().ok_or(INVALID_HANDLE));
    match known {
        // SAFETY: the caller's pointer. Names other than the one kernel the fakes know are not kept.
        Ok(found) => unsafe {
            put(name, if found == "spin" { c"spin".as_ptr() } else { c"kernel".as_ptr() })
        },
        Err(code) => code,
    }
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
