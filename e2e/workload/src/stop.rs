//! SIGTERM and waiting, as PID 1 of a container too.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Start;

/// Whether SIGTERM or SIGINT came.
pub(crate) struct Stop {
    has_come: Mutex<bool>,
    changed: Condvar,
}

static STOP: Stop = Stop { has_come: Mutex::new(false), changed: Condvar::new() };

/// What a program may still take to print its result; a launch that is held back by a limit does not delay the end.
const GRACE: Duration = Duration::from_millis(500);

/// How often a program looks for the file it waits for.
const LOOK: Duration = Duration::from_millis(5);

impl Stop {
    /// From now on both signals are taken by a thread of their own: PID 1 has no default action for them. Must be called
    /// before any other thread begins.
    pub(crate) fn on_signals() -> &'static Self {
        // SAFETY: the set is initialised by sigemptyset before it is used; SIGCHLD ignored means that the kernel collects
        // the orphans a PID 1 inherits.
        let signals = unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            libc::sigaddset(&raw mut signals, libc::SIGTERM);
            libc::sigaddset(&raw mut signals, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            signals
        };
        std::thread::spawn(move || {
            let mut signal = 0;
            // SAFETY: a set that was initialised, and a pointer to a local.
            while unsafe { libc::sigwait(&raw const signals, &raw mut signal) } != 0 {}
            *STOP.has_come.lock().unwrap_or_else(PoisonError::into_inner) = true;
            STOP.changed.notify_all();
            std::thread::sleep(GRACE);
            // SAFETY: ends the process without waiting for threads that are inside CUDA.
            unsafe { libc::_exit(0) };
        });
        &STOP
    }

    /// Whether it came.
    pub(crate) fn has_come(&self) -> bool {
        *self.has_come.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it comes.
    pub(crate) fn wait(&self) {
        self.wait_until(None);
    }

    /// Until it comes, or for so long; true if it came.
    pub(crate) fn wait_for(&self, time: Duration) -> bool {
        // What lies beyond the clock is forever.
        self.wait_until(Instant::now().checked_add(time))
    }

    fn wait_until(&self, end: Option<Instant>) -> bool {
        let mut has_come = self.has_come.lock().unwrap_or_else(PoisonError::into_inner);
        while !*has_come {
            let left = end.map_or(Duration::from_secs(3600), |e| e.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let (again, _) =
                self.changed.wait_timeout(has_come, left).unwrap_or_else(PoisonError::into_inner);
            has_come = again;
        }
        true
    }

    /// Until the program is to begin; false if it is to stop instead.
    pub(crate) fn wait_for_start(&self, start: &Start) -> bool {
        while start.start_after.as_deref().is_some_and(|file| !file.exists()) {
            if self.wait_for(LOOK) {
                return false;
            }
        }
        let Some(moment) = start.start_at else { return !self.has_come() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::try_from_secs_f64(moment).unwrap_or_default().saturating_sub(now);
        !self.wait_for(left)
    }
}
