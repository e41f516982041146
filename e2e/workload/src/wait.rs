//! Waiting as PID 1 of a container.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cuda::CudaError;

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: _exit is async-signal-safe.
    unsafe { libc::_exit(0) }
}

/// PID 1 gets no default action for signals; a pod should still end at once.
pub(crate) fn end_on_sigterm() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only calls _exit.
        unsafe { libc::signal(signal, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// Until a signal.
pub(crate) fn forever() -> Result<(), CudaError> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
        // As a container's PID 1 this also has orphans to collect.
        // SAFETY: WNOHANG with a null status touches nothing of this program.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    }
}

/// Until a moment in seconds since 1970, so that several pods act at once.
pub(crate) fn until(moment: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::thread::sleep(Duration::from_secs(moment).saturating_sub(now));
}
