//! Launches of the first ABI: a function's block and parameters are set before it is launched.

use std::ffi::c_void;

use crate::driver::{Driver, driver};
use crate::launch::Shape;
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, code};

/// Most bytes of parameters.
const PARAMETERS: usize = 4096;

fn change(function: usize, change: impl FnOnce(&mut crate::function::FunctionObject)) -> Result<(), Code> {
    let driver = driver()?;
    let mut objects = driver.objects();
    objects.code.functions.get_mut(&function).map(change).ok_or(INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetBlockShape(function: usize, x: i32, y: i32, z: i32) -> Code {
    if x < 1 || y < 1 || z < 1 {
        return INVALID_VALUE;
    }
    code(change(function, |f| f.block = [x as u32, y as u32, z as u32]))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetSharedSize(function: usize, _bytes: u32) -> Code {
    code(change(function, |_| ()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuParamSetSize(function: usize, bytes: u32) -> Code {
    if bytes as usize > PARAMETERS {
        return INVALID_VALUE;
    }
    code(change(function, |f| f.parameters.resize(bytes as usize, 0)))
}

fn set(function: usize, offset: i32, bytes: &[u8]) -> Code {
    let end = usize::try_from(offset).ok().and_then(|o| o.checked_add(bytes.len()));
    let Some(end) = end.filter(|end| *end <= PARAMETERS) else { return INVALID_VALUE };
    code(change(function, |f| {
        f.parameters.resize(f.parameters.len().max(end), 0);
        f.parameters[end - bytes.len()..end].copy_from_slice(bytes);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuParamSeti(function: usize, offset: i32, value: u32) -> Code {
    set(function, offset, &value.to_ne_bytes())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuParamSetf(function: usize, offset: i32, value: f32) -> Code {
    set(function, offset, &value.to_ne_bytes())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuParamSetv(function: usize, offset: i32, from: *const c_void, bytes: u32) -> Code {
    if from.is_null() || bytes as usize > PARAMETERS {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives so many bytes.
    set(function, offset, unsafe { std::slice::from_raw_parts(from.cast(), bytes as usize) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGridAsync(function: usize, width: i32, height: i32, stream: usize) -> Code {
    let run = |driver: &Driver| {
        if width < 1 || height < 1 {
            return Err(INVALID_VALUE);
        }
        let objects = driver.objects();
        let known = objects.code.functions.get(&function).ok_or(INVALID_HANDLE)?;
        let (block, mut parameters) = (known.block, known.parameters.clone());
        drop(objects);
        let shape = Shape([width as u32, height as u32, 1], block);
        // `spin` reads 8 bytes.
        parameters.resize(parameters.len().max(8), 0);
        let mut list = [parameters.as_mut_ptr().cast::<c_void>()];
        let none = std::ptr::null_mut();
        // SAFETY: the only parameter that is read is the first, of at most 8 bytes.
        unsafe { crate::launch::launch(driver, function, &shape, stream, list.as_mut_ptr(), none) }
    };
    code(driver().and_then(run))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGrid(function: usize, width: i32, height: i32) -> Code {
    // SAFETY: handles and numbers, passed on.
    unsafe { cuLaunchGridAsync(function, width, height, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunch(function: usize) -> Code {
    // SAFETY: handles and numbers, passed on.
    unsafe { cuLaunchGridAsync(function, 1, 1, 0) }
}
