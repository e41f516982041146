//! Streams that are being captured. As long as there is one, every launch asks: which streams take part in a capture
//! only the driver knows, and what is captured must not be counted as launched.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::launch::PER_THREAD;
use crate::state::state;
use crate::{Code, SUCCESS, credit, real};

/// Captures under way; readable without the lock.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Streams a capture was begun in, with the thread of a per-thread stream.
#[derive(Debug, Default)]
pub(crate) struct Captures(Mutex<Vec<(usize, usize)>>);

fn key(stream: usize) -> (usize, usize) {
    (stream, if stream == PER_THREAD { credit::thread() } else { 0 })
}

fn streams() -> MutexGuard<'static, Vec<(usize, usize)>> {
    state().captures.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a capture is under way anywhere in this process.
pub(crate) fn is_under_way() -> bool {
    UNDER_WAY.load(Ordering::SeqCst) != 0
}

/// Calls the driver to begin a capture. First, so that nothing is captured on credit, all credit is taken back.
pub(crate) fn begin(stream: usize, call: impl FnOnce() -> Code) -> Code {
    let mut known = streams();
    known.push(key(stream));
    UNDER_WAY.store(known.len(), Ordering::SeqCst);
    drop(known);
    state().opened().for_each(|device| device.metering().take_back_all(device));
    let begun = call();
    if begun != SUCCESS {
        end(stream);
    }
    begun
}

/// A stream may not be captured any more.
pub(crate) fn end(stream: usize) {
    let mut status = 0;
    // SAFETY: a pointer to a local. A stream that has gone is not captured.
    let asked = unsafe { real::stream_is_capturing(stream, &raw mut status) };
    if asked == SUCCESS && status != 0 {
        return;
    }
    let mut known = streams();
    known.retain(|k| *k != key(stream));
    UNDER_WAY.store(known.len(), Ordering::SeqCst);
}

/// In a forked child there is none.
pub(crate) fn forget_all() {
    UNDER_WAY.store(0, Ordering::SeqCst);
}
