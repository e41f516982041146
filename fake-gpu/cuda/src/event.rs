//! Events: items of no length in a context's queue, stamped with the GPU's time.

use crate::driver::{Driver, EventObject, driver};
use crate::{Code, INVALID_HANDLE, NOT_READY, OUT_OF_MEMORY, code, put};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut usize, _flags: u32) -> Code {
    let create = |driver: &Driver| {
        let (_, object) = driver.current()?;
        let stamp = driver.process.create_event(object.context).map_err(|_| OUT_OF_MEMORY)?;
        let mut objects = driver.objects();
        let handle = objects.handle();
        objects.events.insert(handle, EventObject { context: object.context, stamp, sequence: None });
        Ok(handle)
    };
    match driver().and_then(create) {
        // SAFETY: the caller's pointer.
        Ok(handle) => unsafe { put(event, handle) },
        Err(code) => code,
    }
}

fn find(driver: &Driver, event: usize) -> Result<EventObject, Code> {
    driver.objects().events.get(&event).copied().ok_or(INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: usize) -> Code {
    let destroy = |driver: &Driver| {
        let object = driver.objects().events.remove(&event).ok_or(INVALID_HANDLE)?;
        driver.process.destroy_event(object.context, object.stamp);
        Ok(())
    };
    code(driver().and_then(destroy))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: usize, stream: usize) -> Code {
    let record = |driver: &Driver| {
        let object = find(driver, event)?;
        if driver.of_stream(stream)? != object.context {
            return Err(INVALID_HANDLE);
        }
        let sequence = driver.process.record(object.context, object.stamp);
        if let Some(object) = driver.objects().events.get_mut(&event) {
            object.sequence = Some(sequence);
        }
        Ok(())
    };
    code(driver().and_then(record))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord_ptsz(event: usize, stream: usize) -> Code {
    cuEventRecord(event, stream)
}

/// An event that was never recorded counts as reached.
fn reached(driver: &Driver, event: usize) -> Result<Option<u64>, Code> {
    let object = find(driver, event)?;
    let Some(sequence) = object.sequence else { return Ok(None) };
    driver.process.reached(object.context, object.stamp, sequence).map(Some).ok_or(NOT_READY)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: usize) -> Code {
    code(driver().and_then(|d| reached(d, event).map(drop)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: usize) -> Code {
    let wait = |driver: &Driver| {
        let object = find(driver, event)?;
        if let Some(sequence) = object.sequence {
            driver.process.wait(object.context, object.stamp, sequence);
        }
        Ok(())
    };
    code(driver().and_then(wait))
}

/// Milliseconds, as `cuEventElapsedTime` gives them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(millis: *mut f32, start: usize, end: usize) -> Code {
    let elapsed = |driver: &Driver| match (reached(driver, start)?, reached(driver, end)?) {
        (Some(start), Some(end)) => Ok((end as f64 - start as f64) / 1e6),
        _ => Err(INVALID_HANDLE),
    };
    match driver().and_then(elapsed) {
        // SAFETY: the caller's pointer.
        Ok(value) => unsafe { put(millis, value as f32) },
        Err(code) => code,
    }
}
