//! Events: items of no length in a context's queue, stamped with the GPU's time.

use crate::capture::{self, Target, refuse_unsafe};
use crate::driver::{Driver, EventObject, driver, is_timeless};
use crate::{
    CAPTURED_EVENT, Code, INVALID_HANDLE, INVALID_VALUE, NOT_READY, code, give, of_gpu, per_thread, twins,
};

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
        let mut objects = driver.objects();
        let object = objects.events.remove(&event).ok_or(INVALID_HANDLE)?;
        objects.captures.forget_event(event);
        drop(objects);
        driver.process.destroy_event(object.context, object.stamp);
        Ok(())
    };
    code(driver().and_then(destroy))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: usize, stream: usize) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    let record = |driver: &Driver| {
        let object = find(driver, event)?;
        if driver.of_stream(stream)?.1.context != object.context {
            return Err(INVALID_HANDLE);
        }
        match capture::target(driver, stream)? {
            Target::Graph(id) => {
                capture::record(driver, id, stream, event);
                Ok(())
            }
            Target::Queue(_) => put(driver, event, object),
        }
    };
    code(driver().and_then(record))
}

/// Records an event behind what its context has queued.
pub(crate) fn put(driver: &Driver, event: usize, object: EventObject) -> Result<(), Code> {
    let sequence = driver.process.record(object.context, object.stamp).map_err(|e| of_gpu(&e))?;
    let mut objects = driver.objects();
    objects.captures.forget_event(event);
    if let Some(object) = objects.events.get_mut(&event) {
        object.sequence = Some(sequence);
    }
    Ok(())
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

/// An event that may be asked and waited for.
fn find_uncaptured(driver: &Driver, event: usize) -> Result<EventObject, Code> {
    let object = find(driver, event)?;
    if driver.objects().captures.has_event(event) {
        return Err(CAPTURED_EVENT);
    }
    refuse_unsafe(driver)?;
    Ok(object)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: usize) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    code(driver().and_then(|d| reached(d, find_uncaptured(d, event)?).map(drop)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: usize) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    let wait = |driver: &Driver| {
        let object = find_uncaptured(driver, event)?;
        if let Some(sequence) = object.sequence {
            driver.process.wait(object.context, object.stamp, sequence);
        }
        crate::pool::settle(driver);
        Ok(())
    };
    code(driver().and_then(wait))
}

fn elapsed(start: usize, end: usize) -> Result<f32, Code> {
    if is_timeless() {
        return Ok(0.0);
    }
    let driver = driver()?;
    {
        let objects = driver.objects();
        if objects.captures.has_event(start) || objects.captures.has_event(end) {
            return Err(CAPTURED_EVENT);
        }
    }
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
}

per_thread! {
    cuEventRecord_ptsz = cuEventRecord(event: usize; stream; );
    cuEventRecordWithFlags_ptsz = cuEventRecordWithFlags(event: usize; stream; flags: u32);
}
