//! Calls after which a thread asks again before it launches: the GPU may have run dry, the context may be another, or a
//! capture may be under way.

use std::ffi::c_void;

use super::twins;
use crate::credit::put_aside;
use crate::launch::meant;
use crate::{Code, capture, real};

macro_rules! aside_hooks {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
            // SAFETY: the caller's arguments, unchanged.
            let done = unsafe { real::$name($($argument),*) };
            put_aside();
            done
        }
    )*};
}

aside_hooks! {
    cuCtxSetCurrent(context: usize);
    cuCtxPushCurrent(context: usize);
    cuCtxPushCurrent_v2(context: usize);
    cuCtxPopCurrent(context: *mut usize);
    cuCtxPopCurrent_v2(context: *mut usize);
    cuCtxSynchronize();
    cuCtxSynchronize_v2(context: usize);
    cuStreamSynchronize(stream: usize);
    cuStreamSynchronize_ptsz(stream: usize);
    cuStreamQuery(stream: usize);
    cuStreamQuery_ptsz(stream: usize);
    cuEventSynchronize(event: usize);
    cuEventQuery(event: usize);
    cuMemcpyDtoH(to: *mut c_void, from: u32, bytes: u32);
    cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize);
    cuMemcpyDtoH_v2_ptds(to: *mut c_void, from: u64, bytes: usize);
}

twins! {
    cuStreamBeginCapture cuStreamBeginCapture_ptsz(stream: usize) => |begin| {
        // SAFETY: the caller's argument, unchanged.
        capture::begin(meant(stream, DEFAULT), || unsafe { begin(stream) })
    };
    cuStreamBeginCapture_v2 cuStreamBeginCapture_v2_ptsz(stream: usize, mode: i32) => |begin| {
        // SAFETY: the caller's arguments, unchanged.
        capture::begin(meant(stream, DEFAULT), || unsafe { begin(stream, mode) })
    };
    cuStreamBeginCaptureToCig cuStreamBeginCaptureToCig_ptsz(stream: usize, parameters: *mut c_void) => |begin| {
        // SAFETY: the caller's arguments, unchanged.
        capture::begin(meant(stream, DEFAULT), || unsafe { begin(stream, parameters) })
    };
    cuStreamBeginCaptureToGraph cuStreamBeginCaptureToGraph_ptsz(
        stream: usize, graph: usize, after: *const usize, edges: *const c_void, count: usize, mode: i32
    ) => |begin| {
        // SAFETY: the caller's arguments, unchanged.
        capture::begin(meant(stream, DEFAULT), || unsafe { begin(stream, graph, after, edges, count, mode) })
    };
    cuStreamBeginRecaptureToGraph cuStreamBeginRecaptureToGraph_ptsz(
        stream: usize, mode: i32, graph: usize, callback: *const c_void, data: *mut c_void
    ) => |begin| {
        // SAFETY: the caller's arguments, unchanged.
        capture::begin(meant(stream, DEFAULT), || unsafe { begin(stream, mode, graph, callback, data) })
    };
    cuStreamEndCaptureToCig cuStreamEndCaptureToCig_ptsz(stream: usize) => |end| {
        // SAFETY: the caller's argument, unchanged.
        let ended = unsafe { end(stream) };
        capture::end(meant(stream, DEFAULT));
        ended
    };
}
