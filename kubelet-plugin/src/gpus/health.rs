//! Xid events of the driver, which may make a GPU Unhealthy, and what makes it healthy again.
//!
//! A thread waits for events through an NVML of its own. A GPU with a critical Xid stays unhealthy until
//!
//! * the driver says that nothing needs to be done to it (drivers from 560 on keep a recovery action per GPU), or
//! * it was gone and answers again: it was reset, or the driver was loaded anew, or
//! * the plugin starts anew, which a reset by hand needs anyway, since it fails while somebody has the GPU open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use tokio::sync::Notify;

use super::nvml::Library;

/// What NVML reports when it does not know which.
const UNKNOWN: u64 = 999;
const WAIT: Duration = Duration::from_secs(5);
/// Between attempts to reach the driver, or a GPU that reports no events now.
const RETRY: Duration = Duration::from_secs(30);
/// The driver's recovery action may follow its event by a moment.
const SETTLE: Duration = Duration::from_secs(5);

/// What an Xid says about the GPU. Source: NVIDIA's "Xid Errors" catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A faulty program's doing; the GPU is fine. NVIDIA's own device plugin ignores the same ones.
    Program,
    /// The driver dealt with it: corrected, contained to one program, or a note.
    Contained,
    /// The GPU cannot be relied on.
    Critical,
}

impl Severity {
    /// Every severity.
    pub const ALL: [Self; 3] = [Self::Program, Self::Contained, Self::Critical];

    /// Of an Xid; one that is not known is critical.
    pub const fn of(xid: u64) -> Self {
        match xid {
            // Graphics engine exception, memory page fault, stopped processing, preemptive removal, video processor
            // exception, context switch timeout.
            13 | 31 | 43 | 45 | 68 | 109 => Self::Program,
            // A page or row was remapped, many single-bit errors, a contained memory error, the recovery action changed.
            63 | 92 | 94 | 154 => Self::Contained,
            _ => Self::Critical,
        }
    }

    /// Metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Contained => "contained",
            Self::Critical => "critical",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    xid: u64,
    at: Instant,
}

/// What the events said, by UUID. Shared between the thread and whoever lists GPUs.
#[derive(Debug, Default)]
pub struct HealthBook {
    marks: Mutex<BTreeMap<String, Mark>>,
    seen: [AtomicU64; 3],
    changed: Notify,
}

impl HealthBook {
    /// Notes an event.
    pub fn note(&self, uuid: &str, xid: u64) {
        let severity = Severity::of(xid);
        self.seen[severity as usize].fetch_add(1, Ordering::Relaxed);
        tracing::warn!(gpu = uuid, xid, severity = severity.name(), "Xid event");
        if severity == Severity::Critical {
            self.lock().insert(uuid.to_owned(), Mark { xid, at: Instant::now() });
        }
        self.look_again();
    }

    /// Wakes whoever lists GPUs: something happened to one that cannot be named.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Forgets a GPU's events: it was recovered.
    pub fn forget(&self, uuid: &str) {
        self.lock().remove(uuid);
    }

    /// As [`HealthBook::forget`] when the driver says that the GPU is fine, unless it may not have got to it yet.
    pub fn forget_settled(&self, uuid: &str) {
        self.lock().retain(|marked, mark| marked != uuid || mark.at.elapsed() < SETTLE);
    }

    /// Last critical Xid of a GPU that was not recovered.
    pub fn xid(&self, uuid: &str) -> Option<u64> {
        self.lock().get(uuid).map(|mark| mark.xid)
    }

    /// Events of a severity so far.
    pub fn seen(&self, severity: Severity) -> u64 {
        self.seen[severity as usize].load(Ordering::Relaxed)
    }

    /// Waits until something was noted since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread; it ends with the process.
pub fn watch(library: Library, book: Arc<HealthBook>) -> std::io::Result<()> {
    std::thread::Builder::new().name("nvml-events".into()).spawn(move || {
        loop {
            let result = library.load().map_err(|e| e.to_string()).and_then(|nvml| {
                let ended = wait(&nvml, &book).map_err(|e| e.to_string());
                book.look_again();
                ended
            });
            let pause = if result.is_ok() { Duration::ZERO } else { RETRY };
            if let Err(error) = result {
                tracing::debug!(%error, "waiting for the driver's events");
            }
            std::thread::sleep(pause);
        }
    })?;
    Ok(())
}

/// Returns when NVML no longer works, or when it is time to ask again for events of GPUs that reported none.
fn wait(nvml: &Nvml, book: &HealthBook) -> Result<(), NvmlError> {
    let count = nvml.device_count()?;
    let (set, watched) = event_set(nvml, (0..count).collect())?;
    let again = (watched < count).then(|| Instant::now() + RETRY);
    if watched == 0 {
        std::thread::sleep(RETRY);
        return Ok(());
    }
    while again.is_none_or(|again| Instant::now() < again) {
        let started = Instant::now();
        match set.wait(u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX)) {
            Ok(event) => {
                let xid = match event.event_data {
                    Some(XidError::Value(xid)) => xid,
                    Some(XidError::Unknown) => UNKNOWN,
                    None => continue,
                };
                match event.device.uuid() {
                    Ok(uuid) => book.note(&uuid, xid),
                    // Lost with this very event; the next look finds it missing.
                    Err(error) => {
                        tracing::warn!(xid, %error, "Xid event of a GPU that does not answer");
                        book.look_again();
                    }
                }
            }
            Err(NvmlError::Timeout) => {
                // A library that does not really wait must not make this a busy loop.
                if started.elapsed() < WAIT / 2 {
                    std::thread::sleep(WAIT);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A set with the GPUs that report Xid events, and their number. A GPU that refuses takes the set with it, so the set is
/// made again without it.
fn event_set(nvml: &Nvml, mut indexes: Vec<u32>) -> Result<(EventSet<'_>, u32), NvmlError> {
    loop {
        match registered(nvml, nvml.create_event_set()?, &indexes) {
            Ok(set) => return Ok((set, u32::try_from(indexes.len()).unwrap_or(u32::MAX))),
            Err(refused) => indexes.retain(|index| *index != refused),
        }
    }
}

/// The set with all of these GPUs, or the index of the first that refuses.
fn registered<'nvml>(
    nvml: &'nvml Nvml,
    mut set: EventSet<'nvml>,
    indexes: &[u32],
) -> Result<EventSet<'nvml>, u32> {
    for index in indexes {
        let device = nvml.device_by_index(*index);
        let added = device.and_then(|device| {
            device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|e| e.error)
        });
        set = added.map_err(|error| {
            tracing::info!(index, %error, "the driver reports no Xid events of a GPU");
            *index
        })?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_critical_events_mark_a_gpu_and_all_are_counted() {
        let book = HealthBook::default();
        book.note("GPU-a", 31);
        book.note("GPU-a", 94);
        assert_eq!(book.xid("GPU-a"), None);
        book.note("GPU-a", 79);
        assert_eq!((book.xid("GPU-a"), book.xid("GPU-b")), (Some(79), None));
        assert_eq!(Severity::ALL.map(|s| book.seen(s)), [1, 1, 1]);
        book.forget("GPU-a");
        assert_eq!(book.xid("GPU-a"), None);
    }

    #[test]
    fn an_xid_nobody_knows_is_critical() {
        assert_eq!(Severity::of(UNKNOWN), Severity::Critical);
        assert_eq!(Severity::of(12_345), Severity::Critical);
    }

    #[test]
    fn the_drivers_word_counts_once_it_had_time_to_hear_of_the_event() {
        let book = HealthBook::default();
        book.note("GPU-a", 48);
        book.forget_settled("GPU-a");
        assert_eq!(book.xid("GPU-a"), Some(48));
        let earlier = Instant::now().checked_sub(SETTLE).unwrap();
        book.lock().get_mut("GPU-a").unwrap().at = earlier;
        book.forget_settled("GPU-b");
        assert_eq!(book.xid("GPU-a"), Some(48));
        book.forget_settled("GPU-a");
        assert_eq!(book.xid("GPU-a"), None);
    }

    #[tokio::test]
    async fn an_event_wakes_whoever_lists() {
        let book = HealthBook::default();
        book.note("GPU-a", 48);
        book.changed().await;
    }
}
