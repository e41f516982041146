//! Which GPU a thread's context was on when it last looked.
//!
//! Places are found by the thread pointer, as those of [`crate::credit`] are: a thread-local variable of a library costs a
//! call. A place is one thread's as long as that lives, and the next one's of that thread pointer, for whom what it says of
//! a context is as true. A thread whose place is another's looks every time.

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use crate::credit::{PLACES, place, thread};
use crate::state::Device;

/// Counts the ends of contexts: what threads remember may be wrong after one.
static EPOCH: AtomicU32 = AtomicU32::new(1);

/// What one thread saw.
#[repr(align(64))]
struct Seen {
    /// The thread pointer; 0: nobody's.
    owner: AtomicUsize,
    context: AtomicUsize,
    device: AtomicPtr<Device>,
    ordinal: AtomicI32,
    epoch: AtomicU32,
}

static SEEN: [Seen; PLACES] = [const {
    Seen {
        owner: AtomicUsize::new(0),
        context: AtomicUsize::new(0),
        device: AtomicPtr::new(std::ptr::null_mut()),
        ordinal: AtomicI32::new(0),
        epoch: AtomicU32::new(0),
    }
}; PLACES];

/// The present count of ended contexts.
pub(crate) fn epoch() -> u32 {
    EPOCH.load(Ordering::Relaxed)
}

/// A context is gone: its handle may come again for another GPU.
pub(crate) fn forget() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
}

/// The GPU of a context and its ordinal, if this thread knows.
#[inline]
pub(crate) fn known(context: usize) -> Option<(&'static Device, i32)> {
    let thread = thread();
    let seen = SEEN.get(place(thread))?;
    let is_known = seen.owner.load(Ordering::Relaxed) == thread
        && seen.context.load(Ordering::Relaxed) == context
        && seen.epoch.load(Ordering::Relaxed) == epoch()
        && context != 0;
    // SAFETY: whoever set the context before set a device that lives for ever.
    is_known.then(|| (unsafe { &*seen.device.load(Ordering::Relaxed) }, seen.ordinal.load(Ordering::Relaxed)))
}

/// Remembers for this thread what it found. `epoch` was read before it looked.
pub(crate) fn know(context: usize, device: &'static Device, ordinal: i32, epoch: u32) {
    let thread = thread();
    let Some(seen) = SEEN.get(place(thread)) else { return };
    let owner = seen.owner.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed);
    if owner.is_ok() || owner == Err(thread) {
        seen.device.store(std::ptr::from_ref(device).cast_mut(), Ordering::Relaxed);
        seen.ordinal.store(ordinal, Ordering::Relaxed);
        seen.epoch.store(epoch, Ordering::Relaxed);
        seen.context.store(context, Ordering::Relaxed);
    }
}
