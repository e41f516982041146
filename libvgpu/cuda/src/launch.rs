//! Launches: held back until the share has earned them, and timed by events so that the charge is what they took.
//!
//! A launch is charged its estimate ([`vgpu_core::meter`]) from the share's bucket ([`vgpu_core::bucket`]), through a
//! small credit of the thread, so that short kernels in a row touch no shared memory. Some launches are put between two
//! events; finished pairs are collected at later launches and correct the bucket. Nothing here synchronises, and a
//! stream that is being captured gets no events.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vgpu_core::bucket;
use vgpu_core::meter::{FIRST_SIGHT, Key, Meter, Plan};
use vgpu_share::Share;

use crate::state::{Device, state};
use crate::{Code, NOT_READY, SUCCESS, real};

/// What a thread draws from the bucket at least, in GPU nanoseconds.
const CHUNK: u64 = 200_000;
/// Longest sleep before limits are looked at again.
const NAP: u64 = 100_000_000;
/// Longest wait for a first measurement; then the launch goes ahead unmeasured.
const PATIENCE: Duration = Duration::from_secs(5);
/// `CU_EVENT_DEFAULT`: timing is on.
const TIMED: u32 = 0;

/// Two events around a launch.
struct Pending {
    key: Key,
    charged: u64,
    context: usize,
    start: usize,
    end: usize,
    /// Nanoseconds between the first event and the launch on an idle GPU, which are the host's and not the kernel's.
    gap: u64,
}

/// Metering of one GPU in this process.
#[derive(Default)]
pub(crate) struct Metering {
    meter: Meter,
    pending: VecDeque<Pending>,
    /// Events of a context that are free.
    events: HashMap<usize, Vec<usize>>,
}

thread_local! {
    /// Device and GPU nanoseconds this thread may still launch without asking.
    static CREDIT: Cell<(i32, u64)> = const { Cell::new((-1, 0)) };
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a pointer to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Launches when the share may.
pub(crate) fn launch(key: Key, stream: usize, call: impl FnOnce() -> Code) -> Code {
    let Ok((device, ordinal, context)) = state().current() else { return call() };
    if !device.is_capped() {
        return call();
    }
    let plan = device.wait_for_plan(key);
    let (Plan::Charge(cost) | Plan::Measure(cost)) = plan else { return call() };
    device.pay(ordinal, cost);
    match plan {
        Plan::Measure(charged) => {
            device.measure(Pending { key, charged, context, start: 0, end: 0, gap: 0 }, stream, call)
        }
        _ => call(),
    }
}

impl Device {
    /// Several shares of one GPU add up, so one without a cap lifts it.
    fn is_capped(&self) -> bool {
        !self.shares.is_empty() && self.shares.iter().all(|h| h.limits.read().cores != 0)
    }

    fn metering(&self) -> std::sync::MutexGuard<'_, Metering> {
        self.metering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share that is paid up first.
    fn purse(&self) -> Option<(&Share, u32)> {
        let paid = |h: &&Share| h.usage.time.0.bucket.load(Ordering::Relaxed);
        let held = self.shares.iter().min_by_key(paid)?;
        Some((held, held.limits.read().cores))
    }

    fn wait_for_plan(&self, key: Key) -> Plan {
        let start = Instant::now();
        let mut nap = Duration::from_micros(20);
        loop {
            let mut metering = self.metering();
            metering.collect(self);
            let plan = metering.meter.plan(key);
            drop(metering);
            if plan != Plan::Wait {
                return plan;
            }
            if start.elapsed() > PATIENCE {
                return Plan::Charge(FIRST_SIGHT);
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(1));
        }
    }

    /// Takes the cost from the thread's credit or the bucket, and sleeps until it can be had.
    fn pay(&self, ordinal: i32, cost: u64) {
        let (of, credit) = CREDIT.get();
        let credit = if of == ordinal { credit } else { 0 };
        if credit >= cost {
            CREDIT.set((ordinal, credit - cost));
            return;
        }
        let take = cost.saturating_sub(credit).max(CHUNK);
        while let Some((held, cores)) = self.purse().filter(|(_, cores)| *cores != 0) {
            let time = &held.usage.time.0;
            let at = now();
            match bucket::draw(&time.bucket, at, take, cores) {
                Ok(()) => {
                    time.charged.fetch_add(take, Ordering::Relaxed);
                    CREDIT.set((ordinal, credit.saturating_add(take).saturating_sub(cost)));
                    return;
                }
                Err(again) => {
                    std::thread::sleep(Duration::from_nanos(again.saturating_sub(at).min(NAP)));
                    // What came in meanwhile may move the moment.
                    self.metering().collect(self);
                }
            }
        }
    }

    /// Puts a launch between two events; if that cannot be, launches it without.
    fn measure(&self, pending: Pending, stream: usize, call: impl FnOnce() -> Code) -> Code {
        let mut metering = self.metering();
        let events = if is_capturing(stream) { None } else { metering.take_events(pending.context) };
        let Some((start, end)) = events else {
            metering.meter.lost(pending.key);
            drop(metering);
            return call();
        };
        drop(metering);
        // On a busy stream the first event waits for what is before it and the pair holds the kernel alone. On an idle
        // one it is reached at once, and the pair also holds the way from one call to the next.
        // SAFETY: the caller's stream.
        let idle = unsafe { real::stream_query(stream) } == SUCCESS;
        let before = now();
        // SAFETY: both events are of the current context and not in use elsewhere.
        let begun = unsafe { real::event_record(start, stream) };
        let launched = call();
        let gap = if idle { now().saturating_sub(before) / 2 } else { 0 };
        // SAFETY: as above.
        let ended = unsafe { real::event_record(end, stream) };
        let mut metering = self.metering();
        if begun == SUCCESS && ended == SUCCESS && launched == SUCCESS {
            metering.pending.push_back(Pending { start, end, gap, ..pending });
        } else {
            metering.meter.lost(pending.key);
            metering.events.entry(pending.context).or_default().extend([start, end]);
        }
        launched
    }
}

impl Metering {
    fn take_events(&mut self, context: usize) -> Option<(usize, usize)> {
        let free = self.events.entry(context).or_default();
        while free.len() < 2 {
            let mut event = 0;
            // SAFETY: a pointer to a local; the context is current.
            if unsafe { real::event_create(&raw mut event, TIMED) } != SUCCESS {
                return None;
            }
            free.push(event);
        }
        Some((free.pop()?, free.pop()?))
    }

    /// Takes in every launch that has ended.
    fn collect(&mut self, device: &Device) {
        while let Some(first) = self.pending.front() {
            // SAFETY: the event was recorded and not destroyed.
            let reached = unsafe { real::event_query(first.end) };
            if reached == NOT_READY {
                return;
            }
            let Some(pending) = self.pending.pop_front() else { return };
            let mut millis = 0f32;
            // SAFETY: both events were recorded; a pointer to a local.
            let timed = unsafe { real::event_elapsed(&raw mut millis, pending.start, pending.end) };
            if reached != SUCCESS || timed != SUCCESS || !millis.is_finite() || millis < 0.0 {
                // The context is gone, and its events with it.
                self.meter.lost(pending.key);
                self.events.remove(&pending.context);
                continue;
            }
            let took = ((f64::from(millis) * 1e6) as u64).saturating_sub(pending.gap).max(1);
            let by = self.meter.measured(pending.key, pending.charged, took);
            if let Some((held, cores)) = device.purse() {
                let time = &held.usage.time.0;
                bucket::correct(&time.bucket, by, cores.max(1));
                let _ = time
                    .charged
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| sum.checked_add_signed(by));
            }
            self.events.entry(pending.context).or_default().extend([pending.start, pending.end]);
        }
    }
}

/// A stream that is captured takes no timing events. Not knowing counts as capturing.
fn is_capturing(stream: usize) -> bool {
    let mut status = 0;
    // SAFETY: a pointer to a local.
    let asked = unsafe { real::stream_is_capturing(stream, &raw mut status) };
    asked != SUCCESS || status != 0
}

/// A context is about to go: its events go with it.
pub(crate) fn end_context(context: usize) {
    let Ok((device, ..)) = state().current() else { return };
    let mut metering = device.metering();
    metering.collect(device);
    let events = metering.events.remove(&context).unwrap_or_default();
    let (gone, kept) = std::mem::take(&mut metering.pending)
        .into_iter()
        .partition::<VecDeque<_>, _>(|p| p.context == context);
    metering.pending = kept;
    for pending in gone {
        metering.meter.lost(pending.key);
    }
    for event in events {
        // SAFETY: an event of this process that nobody uses.
        unsafe { real::event_destroy(event) };
    }
}
