//! Streams: names for the one queue of a context.

use crate::driver::{Driver, StreamObject, driver};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, NOT_READY, code, give, twins};

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut usize, flags: u32, priority: i32) -> Code {
    let create = || {
        let driver = driver()?;
        let (context, _) = driver.current()?;
        if flags & !NON_BLOCKING != 0 {
            return Err(INVALID_VALUE);
        }
        let mut objects = driver.objects();
        let handle = objects.handle();
        objects.streams.insert(handle, StreamObject { context, flags, priority: priority.clamp(-5, 0) });
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(stream, create) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut usize, flags: u32) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuStreamCreateWithPriority(stream, flags, 0) }
}

/// What is queued still runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: usize) -> Code {
    code(driver().and_then(|d| d.objects().streams.remove(&stream).map(drop).ok_or(INVALID_HANDLE)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: usize) -> Code {
    code(driver().and_then(|d| d.of_stream(stream).map(|(_, c)| d.process.synchronize(c.context))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(stream: usize) -> Code {
    let query = |driver: &Driver| {
        let (_, object) = driver.of_stream(stream)?;
        if driver.process.is_idle(object.context) { Ok(()) } else { Err(NOT_READY) }
    };
    code(driver().and_then(query))
}

/// One queue is always in order: there is nothing to wait for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> Code {
    let wait = |driver: &Driver| {
        driver.of_stream(stream)?;
        driver.objects().events.contains_key(&event).then_some(()).ok_or(INVALID_HANDLE)
    };
    code(driver().and_then(wait))
}

/// `CU_STREAM_CAPTURE_STATUS_NONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(status, || driver()?.of_stream(stream).map(|_| 0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: usize, context: *mut usize) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(context, || driver()?.of_stream(stream).map(|(handle, _)| handle)) }
}

fn object(stream: usize) -> Result<StreamObject, Code> {
    let driver = driver()?;
    let (context, _) = driver.of_stream(stream)?;
    let known = driver.objects().streams.get(&stream).copied();
    Ok(known.unwrap_or(StreamObject { context, flags: 0, priority: 0 }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetFlags(stream: usize, flags: *mut u32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(flags, || object(stream).map(|s| s.flags)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetPriority(stream: usize, priority: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(priority, || object(stream).map(|s| s.priority)) }
}

twins! {
    cuStreamDestroy = cuStreamDestroy_v2(stream: usize);
    cuStreamSynchronize_ptsz = cuStreamSynchronize(stream: usize);
    cuStreamQuery_ptsz = cuStreamQuery(stream: usize);
    cuStreamWaitEvent_ptsz = cuStreamWaitEvent(stream: usize, event: usize, flags: u32);
    cuStreamIsCapturing_ptsz = cuStreamIsCapturing(stream: usize, status: *mut i32);
    cuStreamGetCtx_ptsz = cuStreamGetCtx(stream: usize, context: *mut usize);
    cuStreamGetFlags_ptsz = cuStreamGetFlags(stream: usize, flags: *mut u32);
    cuStreamGetPriority_ptsz = cuStreamGetPriority(stream: usize, priority: *mut i32);
}
