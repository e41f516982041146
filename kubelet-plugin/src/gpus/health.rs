//! Critical Xid events of the driver, which make a GPU Unhealthy.
//!
//! A thread waits for them through an NVML of its own. Xids a faulty program causes say nothing about the GPU and are
//! ignored, as NVIDIA's own device plugin ignores them. An unhealthy GPU stays so until the driver is loaded anew (it then
//! answers again under a new NVML) or the plugin starts anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use tokio::sync::Notify;

use super::nvml::Library;

/// Xids of faulty programs: graphics engine exception, memory page fault, stopped processing, reset by the user, preemptive
/// removal, debugger; see NVIDIA's "Xid Errors" guide.
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];
/// What NVML reports when it does not know which.
const UNKNOWN: u64 = 999;
const WAIT: Duration = Duration::from_secs(5);
/// Between attempts to reach the driver.
const RETRY: Duration = Duration::from_secs(30);

/// What the events said, by UUID. Shared between the thread and whoever lists GPUs.
#[derive(Debug, Default)]
pub struct HealthBook {
    unhealthy: Mutex<BTreeMap<String, u64>>,
    changed: Notify,
}

impl HealthBook {
    /// Notes a critical event.
    pub fn mark(&self, uuid: &str, xid: u64) {
        if OF_PROGRAMS.contains(&xid) {
            return;
        }
        tracing::warn!(gpu = uuid, xid, "critical Xid event: the GPU gets no new shares");
        self.lock().insert(uuid.to_owned(), xid);
        self.changed.notify_one();
    }

    /// Forgets everything: the driver was loaded anew.
    pub fn clear(&self) {
        self.lock().clear();
        self.changed.notify_one();
    }

    /// Xid of an unhealthy GPU.
    pub fn xid(&self, uuid: &str) -> Option<u64> {
        self.lock().get(uuid).copied()
    }

    /// Waits until something was noted since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread; it ends with the process.
pub fn watch(library: Library, book: Arc<HealthBook>) -> std::io::Result<()> {
    std::thread::Builder::new().name("nvml-events".into()).spawn(move || {
        loop {
            let result = library.load().map_err(|e| e.to_string()).and_then(|nvml| {
                book.clear();
                wait(&nvml, &book).map_err(|e| e.to_string())
            });
            if let Err(error) = result {
                tracing::debug!(%error, "waiting for the driver's events");
            }
            std::thread::sleep(RETRY);
        }
    })?;
    Ok(())
}

/// Returns when NVML no longer works. A driver that knows no events is waited on like one that has none.
fn wait(nvml: &Nvml, book: &HealthBook) -> Result<(), NvmlError> {
    let mut set = nvml.create_event_set()?;
    for index in 0..nvml.device_count()? {
        let Ok(device) = nvml.device_by_index(index) else { continue };
        match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
            Ok(registered) => set = registered,
            // The set went with the failed call; events of the GPUs so far are not worth losing the others for.
            Err(e) => {
                tracing::info!(index, error = %e, "the driver reports no Xid events of a GPU");
                return idle(nvml);
            }
        }
    }
    loop {
        let started = Instant::now();
        match set.wait(u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX)) {
            Ok(event) => {
                let xid = match event.event_data {
                    Some(XidError::Value(xid)) => xid,
                    Some(XidError::Unknown) => UNKNOWN,
                    None => continue,
                };
                if let Ok(uuid) = event.device.uuid() {
                    book.mark(&uuid, xid);
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
}

fn idle(nvml: &Nvml) -> Result<(), NvmlError> {
    loop {
        std::thread::sleep(RETRY);
        nvml.device_count()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_programs_leave_the_gpu_healthy() {
        let book = HealthBook::default();
        book.mark("GPU-a", 31);
        assert_eq!(book.xid("GPU-a"), None);
        book.mark("GPU-a", 79);
        assert_eq!(book.xid("GPU-a"), Some(79));
        book.clear();
        assert_eq!(book.xid("GPU-a"), None);
    }

    #[tokio::test]
    async fn an_event_wakes_whoever_lists() {
        let book = HealthBook::default();
        book.mark("GPU-a", 48);
        book.changed().await;
    }
}
