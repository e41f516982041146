//! Contexts: created, primary, current.

use crate::device::gpu;
use crate::driver::{ContextObject, Driver, driver, stack};
use crate::{Code, INVALID_CONTEXT, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, code, put};

fn create(ordinal: i32) -> Result<usize, Code> {
    let (gpu, driver) = (gpu(ordinal)?, driver()?);
    let context = driver.process.create_context(gpu).map_err(|_| OUT_OF_MEMORY)?;
    let mut objects = driver.objects();
    let handle = objects.handle();
    objects.contexts.insert(handle, ContextObject { ordinal: ordinal as usize, context });
    Ok(handle)
}

fn destroy(driver: &Driver, handle: usize) -> Result<(), Code> {
    let mut objects = driver.objects();
    let object = objects.contexts.remove(&handle).ok_or(INVALID_CONTEXT)?;
    objects.streams.retain(|_, context| *context != handle);
    objects.events.retain(|_, event| event.context != object.context);
    drop(objects);
    driver.process.destroy_context(object.context);
    stack(|s| s.retain(|h| *h != handle));
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut usize, _flags: u32, device: i32) -> Code {
    if context.is_null() {
        return INVALID_VALUE;
    }
    match create(device) {
        Ok(handle) => {
            stack(|s| s.push(handle));
            // SAFETY: the caller's pointer.
            unsafe { put(context, handle) }
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: usize) -> Code {
    code(driver().and_then(|d| destroy(d, context)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: usize) -> Code {
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
    match driver() {
        // SAFETY: the caller's pointer.
        Ok(_) => unsafe { put(context, stack(|s| s.last().copied().unwrap_or(0))) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: usize) -> Code {
    let push = |driver: &Driver| {
        let known = driver.objects().contexts.contains_key(&context);
        known.then(|| stack(|s| s.push(context))).ok_or(INVALID_CONTEXT)
    };
    code(driver().and_then(push))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> Code {
    match stack(Vec::pop) {
        None => INVALID_CONTEXT,
        Some(_) if context.is_null() => SUCCESS,
        // SAFETY: the caller's pointer.
        Some(handle) => unsafe { put(context, handle) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut i32) -> Code {
    match driver().and_then(|d| d.current()) {
        // SAFETY: the caller's pointer.
        Ok((_, object)) => unsafe { put(device, object.ordinal as i32) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    code(driver().and_then(|d| d.current().map(|(_, object)| d.process.synchronize(object.context))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: i32) -> Code {
    let retain = |driver: &Driver| {
        gpu(device)?;
        let known = driver.objects().primary.get(&(device as usize)).map(|p| p.0);
        let handle = match known {
            Some(handle) => handle,
            None => create(device)?,
        };
        let mut objects = driver.objects();
        objects.primary.entry(device as usize).or_insert((handle, 0)).1 += 1;
        Ok(handle)
    };
    match driver().and_then(retain) {
        // SAFETY: the caller's pointer.
        Ok(handle) => unsafe { put(context, handle) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Code {
    let release = |driver: &Driver| {
        let mut objects = driver.objects();
        let primary = objects.primary.get_mut(&(device as usize)).ok_or(INVALID_CONTEXT)?;
        primary.1 -= 1;
        let last = (primary.1 == 0).then_some(primary.0);
        if last.is_some() {
            objects.primary.remove(&(device as usize));
        }
        drop(objects);
        last.map_or(Ok(()), |handle| destroy(driver, handle))
    };
    code(driver().and_then(release))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Code {
    let reset = |driver: &Driver| {
        gpu(device)?;
        let primary = driver.objects().primary.remove(&(device as usize));
        primary.map_or(Ok(()), |(handle, _)| destroy(driver, handle))
    };
    code(driver().and_then(reset))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32) -> Code {
    let state = |driver: &Driver| {
        gpu(device)?;
        Ok(i32::from(driver.objects().primary.contains_key(&(device as usize))))
    };
    match driver().and_then(state) {
        // SAFETY: the caller's pointers.
        Ok(is_active) => unsafe { put(flags, 0) | put(active, is_active) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, _flags: u32) -> Code {
    code(gpu(device).map(drop))
}
