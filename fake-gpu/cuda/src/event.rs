//! Events: items of no length in a context's queue, stamped with the GPU's time.

use crate::driver::{Driver, EventObject, driver};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, NOT_READY, code, give, of_gpu, twins};

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;
/// All flags of cuEventCreate.
const FLAGS: u32 = 7;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut usize, flags: u32) -> Code {
    let create = || {
        let driver = driver()?;
        let (_, object) = driver.current()?;
        if flags & !FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        let context = object.context;
        let stamp = driver.process.create_event(context).map_err(|e| of_gpu(&e))?;
        let mut objects = driver.objects();
        let handle = objects.handle();
        let is_timed = flags & DISABLE_TIMING == 0;
        objects.events.insert(handle, EventObject { context, stamp, sequence: None, is_timed });
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(event, create) }
}

fn find(driver: &Driver, event: usize) -> Result<EventObject, Code> {
    driver.objects().events.get(&event).copied().ok_or(INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: usize) -> Code {
    let destroy = |driver: &Driver| {
        let object = driver.objects().events.remove(&event).ok_or(INVALID_HANDLE)?;
        driver.process.destroy_event(object.context, object.stamp);
        Ok(())
    };
    code(driver().and_then(destroy))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: usize, stream: usize) -> Code {
    let record = |driver: &Driver| {
        let object = find(driver, event)?;
        if driver.of_stream(stream)?.1.context != object.context {
            return Err(INVALID_HANDLE);
        }
        let sequence = driver.process.record(object.context, object.stamp).map_err(|e| of_gpu(&e))?;
        if let Some(object) = driver.objects().events.get_mut(&event) {
            object.sequence = Some(sequence);
        }
        Ok(())
    };
    code(driver().and_then(record))
}

/// `CU_EVENT_RECORD_EXTERNAL` is for graphs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, flags: u32) -> Code {
    if flags > 1 {
        return INVALID_VALUE;
    }
    // SAFETY: handles, passed on.
    unsafe { cuEventRecord(event, stream) }
}

/// When an event was reached. One that was never recorded counts as reached, at no time.
fn reached(driver: &Driver, object: EventObject) -> Result<Option<u64>, Code> {
    let Some(sequence) = object.sequence else { return Ok(None) };
    driver.process.reached(object.context, object.stamp, sequence).map(Some).ok_or(NOT_READY)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: usize) -> Code {
    code(driver().and_then(|d| reached(d, find(d, event)?).map(drop)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: usize) -> Code {
    let wait = |driver: &Driver| {
        let object = find(driver, event)?;
        if let Some(sequence) = object.sequence {
            driver.process.wait(object.context, object.stamp, sequence);
        }
        Ok(())
    };
    code(driver().and_then(wait))
}

fn elapsed(start: usize, end: usize) -> Result<f32, Code> {
    let driver = driver()?;
    let (start, end) = (find(driver, start)?, find(driver, end)?);
    if start.context != end.context || !start.is_timed || !end.is_timed {
        return Err(INVALID_HANDLE);
    }
    match (reached(driver, start)?, reached(driver, end)?) {
        (Some(start), Some(end)) => Ok(((end as f64 - start as f64) / 1e6) as f32),
        _ => Err(INVALID_HANDLE),
    }
}

/// In milliseconds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(millis: *mut f32, start: usize, end: usize) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(millis, || elapsed(start, end)) }
}

twins! {
    cuEventDestroy = cuEventDestroy_v2(event: usize);
    cuEventRecord_ptsz = cuEventRecord(event: usize, stream: usize);
    cuEventRecordWithFlags_ptsz = cuEventRecordWithFlags(event: usize, stream: usize, flags: u32);
}
