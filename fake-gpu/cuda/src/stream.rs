//! Streams: names for the one queue of a context.

use crate::capture::{refuse_stream, refuse_unsafe};
use crate::driver::{Driver, StreamObject, driver, is_timeless};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, NOT_READY, code, give, per_thread, twins};

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

/// `CU_STREAM_LEGACY`; 0 is the same stream.
pub(crate) const LEGACY: usize = 1;
/// `CU_STREAM_PER_THREAD`.
pub(crate) const PER_THREAD: usize = 2;

/// What the flavours for per-thread default streams take a stream for.
pub(crate) fn of_thread(stream: usize) -> usize {
    if stream == 0 { PER_THREAD } else { stream }
}

thread_local! {
    static THREAD: u64 = const { 0 };
}

/// Tells streams apart, those of different threads too.
pub(crate) fn key(stream: usize) -> usize {
    match stream {
        PER_THREAD => THREAD.try_with(|own| &raw const *own as usize | 1).unwrap_or(PER_THREAD),
        stream => stream,
    }
}

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
    let end = |driver: &Driver| {
        refuse_stream(driver, stream)?;
        driver.objects().streams.remove(&stream).map(drop).ok_or(INVALID_HANDLE)
    };
    code(driver().and_then(end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: usize) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    let wait = |driver: &Driver| {
        let (_, object) = driver.of_stream(stream)?;
        refuse_stream(driver, stream)?;
        refuse_unsafe(driver)?;
        driver.process.synchronize(object.context);
        crate::pool::settle(driver);
        Ok(())
    };
    code(driver().and_then(wait))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(stream: usize) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    let query = |driver: &Driver| {
        let (_, object) = driver.of_stream(stream)?;
        refuse_stream(driver, stream)?;
        refuse_unsafe(driver)?;
        if driver.process.is_idle(object.context) { Ok(()) } else { Err(NOT_READY) }
    };
    code(driver().and_then(query))
}

/// One queue is always in order: there is nothing to wait for, but for captures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> Code {
    let wait = |driver: &Driver| {
        driver.of_stream(stream)?;
        if !driver.objects().events.contains_key(&event) {
            return Err(INVALID_HANDLE);
        }
        crate::capture::wait(driver, stream, event).map(drop)
    };
    code(driver().and_then(wait))
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
}

per_thread! {
    cuStreamSynchronize_ptsz = cuStreamSynchronize(; stream; );
    cuStreamQuery_ptsz = cuStreamQuery(; stream; );
    cuStreamWaitEvent_ptsz = cuStreamWaitEvent(; stream; event: usize, flags: u32);
    cuStreamGetCtx_ptsz = cuStreamGetCtx(; stream; context: *mut usize);
    cuStreamGetFlags_ptsz = cuStreamGetFlags(; stream; flags: *mut u32);
    cuStreamGetPriority_ptsz = cuStreamGetPriority(; stream; priority: *mut i32);
}
