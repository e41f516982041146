//! Launches: held back until the share may, and put between events so that the charge is what they took.
//!
//! Who may launch when is decided by [`vgpu_core::compute`]; here are the driver's events for it ([`crate::metering`]).
//! Nothing here synchronises. A stream that is being captured gets no events and its launches are not held back: the
//! graph that comes of it pays when it is launched.

use std::time::Duration;

use vgpu_core::compute::estimate::Key;
use vgpu_core::compute::gate::Verdict;

use crate::credit::Credit;
use crate::metering::{Admission, Lane, Metering};
use crate::state::{Device, state};
use crate::{Code, SUCCESS, credit, lease, real};

/// `CU_STREAM_LEGACY`'s short form, and `CU_STREAM_PER_THREAD`: what a null stream means to either flavour of a call.
pub(crate) const LEGACY: usize = 0;
/// As above.
pub(crate) const PER_THREAD: usize = 2;

/// The stream a call means.
pub(crate) const fn meant(stream: usize, default: usize) -> usize {
    if stream == 0 { default } else { stream }
}

/// Nanoseconds of the clock that all processes of a share go by.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a pointer to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Makes a launch: at once if the thread has credit for it, else when the share may. The driver's call is written out
/// twice so that the first of them is a jump.
macro_rules! launched {
    ($function:expr, $grid:expr, $block:expr, $stream:expr, $call:expr) => {{
        if $crate::credit::spend($function, $grid, $block, $stream) {
            $call
        } else {
            let key = vgpu_core::compute::estimate::Key { function: $function, grid: $grid, block: $block };
            $crate::launch::ask(key, $stream, &mut move || $call)
        }
    }};
}
pub(crate) use launched;

/// Launches when the share may.
#[cold]
#[inline(never)]
pub(crate) fn ask(key: Key, stream: usize, call: &mut dyn FnMut() -> Code) -> Code {
    let Ok((device, _, context)) = state().current() else { return call() };
    if !device.is_metered() || is_capturing(stream) {
        return call();
    }
    let lane = Lane { context, stream, thread: if stream == PER_THREAD { credit::thread() } else { 0 } };
    // A thread has one loan. Of another GPU it ends here.
    if let Some(lender) = Credit::own().and_then(Credit::lender)
        && lender != device.id()
    {
        let others = state().opened().filter(|other| other.id() == lender);
        others.for_each(|other| other.metering().take_back(other, lane));
    }
    let Some(admission) = device.admit(key, lane) else { return call() };
    let launched = call();
    device.made(&admission, launched == SUCCESS);
    launched
}

/// A stream that is captured takes no timing events. Not knowing counts as capturing.
fn is_capturing(stream: usize) -> bool {
    let mut status = 0;
    // SAFETY: a pointer to a local.
    let asked = unsafe { real::stream_is_capturing(stream, &raw mut status) };
    asked != SUCCESS || status != 0
}

impl Device {
    /// Waits until the launch may be made; `None`: there is no share to ask.
    fn admit(&self, key: Key, lane: Lane) -> Option<Admission> {
        loop {
            let mut metering = self.metering();
            let now = now();
            metering.take_back(self, lane);
            let index = self.purse(now)?;
            metering.fit(self, now, lane, index);
            metering.collect(self, now);
            let verdict = metering.ask(self, now, index, &key)?;
            if self.shares.len() > 1 {
                metering.withdraw_others(self, index);
            }
            let until = match verdict {
                Verdict::Launch => {
                    let (admission, wakes) = metering.begin(self, now, index, lane, &key)?;
                    metering.ring(self);
                    drop(metering);
                    if wakes {
                        state().poller.wake();
                    }
                    return Some(admission);
                }
                Verdict::Wait(until) | Verdict::WaitForTurn(until) => until,
            };
            // A pair of events must not hold the time this launch is held back.
            metering.end_open(self);
            metering.ring(self);
            drop(metering);
            match verdict {
                Verdict::WaitForTurn(_) => lease::wait(&self.shares.get(index)?.limits.lease, until),
                _ => std::thread::sleep(Duration::from_nanos(until.saturating_sub(now))),
            }
        }
    }

    /// The launch was made, or failed.
    fn made(&self, admission: &Admission, succeeded: bool) {
        if admission.is_done() && succeeded {
            return;
        }
        // Before anything else: it says how long the call took.
        let now = now();
        self.metering().made(self, now, admission, succeeded);
    }

    pub(crate) fn metering(&self) -> std::sync::MutexGuard<'_, Metering> {
        self.metering.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A context is about to go: its events go with it.
pub(crate) fn end_context(context: usize) {
    for device in state().opened() {
        device.metering().end_context(device, now(), context);
    }
}
