//! Contexts: created, primary, current.

use std::ffi::c_void;

use crate::device::gpu;
use crate::driver::{CUDA_VERSION, ContextObject, Driver, Objects, Primary, driver, is_timeless, stack};
use crate::function::unload_all;
use crate::{Code, INVALID_CONTEXT, INVALID_VALUE, SUCCESS, code, give, give_if_wanted, of_gpu, twins};

/// Under one hold of the objects, so that two threads cannot both make a device's primary context.
fn create(
    driver: &Driver,
    objects: &mut Objects,
    ordinal: i32,
    flags: u32,
    known: Option<usize>,
) -> Result<usize, Code> {
    let context = driver.process.create_context(gpu(ordinal)?).map_err(|e| of_gpu(&e))?;
    let handle = known.unwrap_or_else(|| objects.handle());
    objects.contexts.insert(handle, ContextObject { ordinal: ordinal as usize, context, flags });
    Ok(handle)
}

/// Ends a context and everything made in it. Threads that have it as current get `CONTEXT_IS_DESTROYED` from now on.
fn destroy(driver: &Driver, handle: usize) -> Result<(), Code> {
    let mut objects = driver.objects();
    let object = objects.contexts.remove(&handle).ok_or(INVALID_CONTEXT)?;
    objects.streams.retain(|_, stream| stream.context != handle);
    objects.events.retain(|_, event| event.context != object.context);
    objects.captures.forget_context(handle);
    unload_all(driver, &mut objects, handle);
    drop(objects);
    crate::array::forget(driver, handle);
    crate::limit::forget(driver, handle, object.context.gpu());
    driver.process.destroy_context(object.context);
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut usize, flags: u32, device: i32) -> Code {
    let make = || {
        let driver = driver()?;
        let handle = create(driver, &mut driver.objects(), device, flags, None)?;
        stack(|s| s.push(handle));
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(context, make) }
}

/// Execution affinity needs MPS, which is not here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v3(
    context: *mut usize,
    _affinity: *const c_void,
    count: i32,
    flags: u32,
    device: i32,
) -> Code {
    if count != 0 {
        return crate::NOT_SUPPORTED;
    }
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

/// `CUctxCreateParams`: execution affinity and the CIG's parameters, both for what is not here.
#[repr(C)]
#[derive(Debug)]
pub struct CreateParams {
    affinity: *const c_void,
    count: i32,
    cig: *const c_void,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut usize,
    params: *const CreateParams,
    flags: u32,
    device: i32,
) -> Code {
    // SAFETY: the caller's pointer.
    let wants_more = unsafe { params.as_ref() }.is_some_and(|p| p.count != 0 || !p.cig.is_null());
    if wants_more {
        return crate::NOT_SUPPORTED;
    }
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDestroy_v2(context: usize) -> Code {
    let end = |driver: &Driver| {
        if driver.objects().primary.values().any(|p| p.handle == context) {
            return Err(INVALID_CONTEXT);
        }
        destroy(driver, context)?;
        stack(|s| {
            if s.last() == Some(&context) {
                s.pop();
            }
        });
        Ok(())
    };
    code(driver().and_then(end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: usize) -> Code {
    let set = |driver: &Driver| {
        if context != 0 && !driver.objects().contexts.contains_key(&context) {
            return Err(INVALID_CONTEXT);
        }
        stack(|s| {
            s.pop();
            if context != 0 {
                s.push(context);
            }
        });
        Ok(())
    };
    code(driver().and_then(set))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut usize) -> Code {
    let top = || driver().map(|_| stack(|s| s.last().copied()).flatten().unwrap_or(0));
    // SAFETY: the caller's pointer.
    unsafe { give(context, top) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPushCurrent_v2(context: usize) -> Code {
    let push = |driver: &Driver| {
        let is_known = driver.objects().contexts.contains_key(&context);
        is_known.then(|| stack(|s| s.push(context))).map(drop).ok_or(INVALID_CONTEXT)
    };
    code(driver().and_then(push))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> Code {
    match driver().and_then(|_| stack(Vec::pop).flatten().ok_or(INVALID_CONTEXT)) {
        Ok(handle) => {
            // SAFETY: the caller's pointer.
            unsafe { give_if_wanted(context, handle) };
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(device, || Ok(driver()?.current()?.1.ordinal as i32)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(flags: *mut u32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(flags, || Ok(driver()?.current()?.1.flags)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetApiVersion(context: usize, version: *mut u32) -> Code {
    let known = || {
        let driver = driver()?;
        let handle = if context == 0 { driver.current()?.0 } else { context };
        let is_known = driver.objects().contexts.contains_key(&handle);
        is_known.then_some(CUDA_VERSION as u32).ok_or(INVALID_CONTEXT)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(version, known) }
}

/// Priorities can be given and make no difference: there is one queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> Code {
    if let Err(code) = driver().and_then(Driver::current) {
        return code;
    }
    // SAFETY: the caller's pointers.
    unsafe {
        give_if_wanted(least, 0);
        give_if_wanted(greatest, -5);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> Code {
    if is_timeless() {
        return SUCCESS;
    }
    let wait = |driver: &Driver| {
        let (handle, object) = driver.current()?;
        crate::capture::refuse_context(driver, handle)?;
        driver.process.synchronize(object.context);
        crate::pool::settle(driver);
        Ok(())
    };
    code(driver().and_then(wait))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: i32) -> Code {
    let retain = || {
        gpu(device)?;
        let driver = driver()?;
        let mut objects = driver.objects();
        let known = objects.primary.get(&(device as usize)).copied().unwrap_or_default();
        let handle = match objects.contexts.contains_key(&known.handle) {
            true => known.handle,
            false => {
                let handle = (known.handle != 0).then_some(known.handle);
                create(driver, &mut objects, device, known.flags, handle)?
            }
        };
        let primary = objects.primary.entry(device as usize).or_default();
        primary.handle = handle;
        primary.retained += 1;
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(context, retain) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Code {
    let release = |driver: &Driver| {
        gpu(device)?;
        let mut objects = driver.objects();
        let primary = objects.primary.get_mut(&(device as usize));
        let primary = primary.filter(|p| p.retained > 0).ok_or(INVALID_CONTEXT)?;
        primary.retained -= 1;
        let Primary { handle, retained, .. } = *primary;
        let is_last = retained == 0 && objects.contexts.contains_key(&handle);
        drop(objects);
        if is_last { destroy(driver, handle) } else { Ok(()) }
    };
    code(driver().and_then(release))
}

/// Ends what is in the context; whoever retained it still has to release it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Code {
    let reset = |driver: &Driver| {
        gpu(device)?;
        let handle = driver.objects().primary.get(&(device as usize)).map_or(0, |p| p.handle);
        let is_active = driver.objects().contexts.contains_key(&handle);
        if is_active { destroy(driver, handle) } else { Ok(()) }
    };
    code(driver().and_then(reset))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32) -> Code {
    let state = |driver: &Driver| {
        gpu(device)?;
        let objects = driver.objects();
        let primary = objects.primary.get(&(device as usize)).copied().unwrap_or_default();
        Ok((primary.flags, i32::from(objects.contexts.contains_key(&primary.handle))))
    };
    if flags.is_null() || active.is_null() {
        return INVALID_VALUE;
    }
    match driver().and_then(state) {
        Ok((found, is_active)) => {
            // SAFETY: the caller's pointers, not null.
            unsafe {
                flags.write(found);
                active.write(is_active);
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> Code {
    let set = |driver: &Driver| {
        gpu(device)?;
        driver.objects().primary.entry(device as usize).or_default().flags = flags;
        Ok(())
    };
    code(driver().and_then(set))
}

twins! {
    cuCtxCreate = cuCtxCreate_v2(context: *mut usize, flags: u32, device: i32);
    cuCtxDestroy = cuCtxDestroy_v2(context: usize);
    cuCtxPushCurrent = cuCtxPushCurrent_v2(context: usize);
    cuCtxPopCurrent = cuCtxPopCurrent_v2(context: *mut usize);
    cuDevicePrimaryCtxRelease = cuDevicePrimaryCtxRelease_v2(device: i32);
    cuDevicePrimaryCtxReset = cuDevicePrimaryCtxReset_v2(device: i32);
    cuDevicePrimaryCtxSetFlags = cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32);
}
