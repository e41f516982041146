//! The driver's events as metering uses them: a program that captures a stream notices nothing of them.

use crate::{SUCCESS, real};

/// `CU_EVENT_DEFAULT`: timing is on.
const TIMED: u32 = 0;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const RELAXED: i32 = 2;

/// A new event of the current context.
pub(crate) fn create() -> Option<usize> {
    let mut event = 0;
    // SAFETY: a pointer to a local; the context is current.
    let made = relaxed(|| unsafe { real::event_create(&raw mut event, TIMED) });
    (made == SUCCESS).then_some(event)
}

/// Records an event of this process. The caller has a launch of the stream in hand, so that it is there.
pub(crate) fn record(event: usize, stream: usize) -> bool {
    // SAFETY: as the caller says.
    unsafe { real::event_record(event, stream) == SUCCESS }
}

/// Whether the stream of the launch about to be made has no work.
pub(crate) fn is_idle(stream: usize) -> bool {
    // SAFETY: the caller has that stream's launch in hand.
    relaxed(|| unsafe { real::cuStreamQuery(stream) }) == SUCCESS
}

/// Nanoseconds from one event to another; negative if the other was reached first.
pub(crate) fn elapsed(from: usize, to: usize) -> Option<i64> {
    let mut millis = 0f32;
    // SAFETY: both events were recorded; a pointer to a local.
    let timed = unsafe { real::event_elapsed(&raw mut millis, from, to) };
    (timed == SUCCESS && millis.is_finite()).then(|| (f64::from(millis) * 1e6) as i64)
}

/// Calls the driver as one that may, though a stream is being captured somewhere in the program: events of ours have
/// nothing to do with that.
pub(crate) fn relaxed<T>(call: impl FnOnce() -> T) -> T {
    let mut mode = RELAXED;
    // SAFETY: a pointer to a local; it comes back with the thread's own mode.
    let changed = unsafe { real::exchange_capture_mode(&raw mut mode) } == SUCCESS;
    let done = call();
    if changed {
        // SAFETY: as above.
        unsafe { real::exchange_capture_mode(&raw mut mode) };
    }
    done
}
