//! Streams: names for the one queue of a context.

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_HANDLE, NOT_READY, code, put};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut usize, _flags: u32) -> Code {
    let create = |driver: &Driver| {
        let (context, _) = driver.current()?;
        let mut objects = driver.objects();
        let handle = objects.handle();
        objects.streams.insert(handle, context);
        Ok(handle)
    };
    match driver().and_then(create) {
        // SAFETY: the caller's pointer.
        Ok(handle) => unsafe { put(stream, handle) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut usize, flags: u32, _priority: i32) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuStreamCreate(stream, flags) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> Code {
    code(driver().and_then(|d| d.objects().streams.remove(&stream).map(drop).ok_or(INVALID_HANDLE)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> Code {
    code(driver().and_then(|d| d.of_stream(stream).map(|context| d.process.synchronize(context))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize_ptsz(stream: usize) -> Code {
    cuStreamSynchronize(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: usize) -> Code {
    let query = |driver: &Driver| {
        let context = driver.of_stream(stream)?;
        if driver.process.is_idle(context) { Ok(()) } else { Err(NOT_READY) }
    };
    code(driver().and_then(query))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery_ptsz(stream: usize) -> Code {
    cuStreamQuery(stream)
}

/// One queue is always in order: there is nothing to wait for.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: usize, _event: usize, _flags: u32) -> Code {
    code(driver().and_then(|d| d.of_stream(stream).map(drop)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent_ptsz(stream: usize, event: usize, flags: u32) -> Code {
    cuStreamWaitEvent(stream, event, flags)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut i32) -> Code {
    match driver().and_then(|d| d.of_stream(stream)) {
        // SAFETY: the caller's pointer.
        Ok(_) => unsafe { put(status, 0) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing_ptsz(stream: usize, status: *mut i32) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuStreamIsCapturing(stream, status) }
}
