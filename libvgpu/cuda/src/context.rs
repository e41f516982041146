//! Contexts: what the driver keeps for a process that has one is charged to the share, and what was allocated in one
//! ends with it.
//!
//! How much the driver keeps stands in `limits`, where the node's plugin writes what it has measured. It is charged to a
//! process once, before its first context is made; when the figure changes, the charge follows at the next call.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use vgpu_core::pointers::Parts;

use crate::state::{Device, state};
use crate::{Code, SUCCESS, check, credit, current, launch, memory, real};

/// Contexts of one GPU in this process.
#[derive(Debug, Default)]
pub(crate) struct Overhead {
    /// Bytes charged for it; readable without the lock.
    settled: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    live: Vec<usize>,
    parts: Parts,
}

impl Device {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.overhead.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `limits` says the driver keeps for a process with a context.
    pub(crate) fn overhead(&self) -> u64 {
        self.shares.first().map_or(0, |share| share.limits.read().overhead)
    }

    /// Brings the charge to what `limits` says now. The memory is in use, so the limit does not matter.
    pub(crate) fn settle_overhead(&self) {
        self.settle_overhead_of(self.overhead());
    }

    /// The same, with what has just been read there.
    #[inline]
    pub(crate) fn settle_overhead_of(&self, wanted: u64) {
        if self.overhead.settled.load(Ordering::Relaxed) != wanted {
            self.change_overhead(wanted);
        }
    }

    #[cold]
    fn change_overhead(&self, wanted: u64) {
        let mut known = self.known();
        let charged = self.overhead.settled.swap(wanted, Ordering::Relaxed);
        if wanted >= charged {
            known.parts.merge(&self.charge_anyway(wanted.saturating_sub(charged)));
        } else {
            self.give_back(&known.parts.take(charged.saturating_sub(wanted)));
        }
        self.say_overhead(&known);
    }

    /// Tells the node what is charged for the driver: the rest of the charge is what the program asked for.
    fn say_overhead(&self, known: &Known) {
        if let Some(share) = self.shares.first() {
            share.ledger.say_overhead(known.parts.bytes());
        }
    }
}

/// Makes a context on a GPU, when what the driver keeps for it fits the share.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY`, else the driver's.
pub(crate) fn create(ordinal: i32, call: impl FnOnce() -> Result<usize, Code>) -> Result<usize, Code> {
    // It becomes the thread's current one.
    credit::put_aside();
    // Before cuInit and for a wrong ordinal the driver says what is wrong.
    let Ok(device) = state().device(ordinal) else { return call() };
    let wanted = device.overhead();
    let mut known = device.known();
    if wanted <= device.overhead.settled.load(Ordering::Relaxed) {
        drop(known);
        let context = call()?;
        device.known().enter(context);
        return Ok(context);
    }
    let missing = wanted.saturating_sub(device.overhead.settled.load(Ordering::Relaxed));
    let charge = device.charge(ordinal, missing)?;
    let context = call()?;
    known.parts.merge(&charge.keep());
    known.enter(context);
    device.overhead.settled.store(wanted, Ordering::Relaxed);
    device.say_overhead(&known);
    Ok(context)
}

impl Known {
    fn enter(&mut self, context: usize) {
        if !self.live.contains(&context) {
            self.live.push(context);
        }
    }
}

/// Calls the driver to end a context.
pub(crate) fn destroy(context: usize, call: impl FnOnce() -> Code) -> Code {
    launch::end_context(context);
    let destroyed = call();
    if destroyed == SUCCESS {
        end(context);
    }
    destroyed
}

fn end(context: usize) {
    current::forget();
    memory::end_context(context);
    for device in state().opened() {
        let mut known = device.known();
        let before = known.live.len();
        known.live.retain(|c| *c != context);
        if before > 0 && known.live.is_empty() {
            device.overhead.settled.store(0, Ordering::Relaxed);
            device.give_back(&std::mem::take(&mut known.parts));
            device.say_overhead(&known);
        }
    }
}

/// Remembers which context is a device's primary one.
pub(crate) fn know_primary(device: i32, context: usize) {
    let mut primaries = state().primaries.lock().unwrap_or_else(PoisonError::into_inner);
    primaries.retain(|(d, _)| *d != device);
    primaries.push((device, context));
}

/// Calls the driver to release or reset a primary context; if it is not active any more, it is gone.
pub(crate) fn end_primary(device: i32, call: impl FnOnce() -> Code) -> Code {
    let primaries = state().primaries.lock().unwrap_or_else(PoisonError::into_inner);
    let known: Vec<usize> = primaries.iter().filter(|(d, _)| *d == device).map(|(_, c)| *c).collect();
    drop(primaries);
    // Events are gone with their context, and whether this ends it shows only afterwards.
    known.into_iter().for_each(launch::end_context);
    let done = call();
    let (mut flags, mut active) = (0, 1);
    // SAFETY: pointers to locals.
    let asked = check(unsafe { real::primary_state(device, &raw mut flags, &raw mut active) });
    if done != SUCCESS || asked.is_err() || active != 0 {
        return done;
    }
    let mut primaries = state().primaries.lock().unwrap_or_else(PoisonError::into_inner);
    let gone: Vec<usize> = primaries.iter().filter(|(d, _)| *d == device).map(|(_, c)| *c).collect();
    primaries.retain(|(d, _)| *d != device);
    drop(primaries);
    gone.into_iter().for_each(end);
    done
}
