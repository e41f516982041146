//! A signal that wakes all who wait for it in the order in which they began to. Tokio's own watch channel wakes them in an
//! order that is drawn each time, so that what follows from it could not be played again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Who raises it. Clones are the same signal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<State>);

#[derive(Debug, Default)]
struct State {
    times: AtomicU64,
    notify: Notify,
}

/// Who waits for it.
#[derive(Debug)]
pub(crate) struct Listener {
    signal: Signal,
    seen: u64,
}

impl Signal {
    pub(crate) fn raise(&self) {
        self.0.times.fetch_add(1, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Hears what is raised from now on.
    pub(crate) fn listen(&self) -> Listener {
        Listener { signal: self.clone(), seen: self.times() }
    }

    fn times(&self) -> u64 {
        self.0.times.load(Ordering::SeqCst)
    }
}

impl Listener {
    /// Whether it was raised since it was last heard.
    pub(crate) fn is_raised(&self) -> bool {
        self.signal.times() != self.seen
    }

    /// As if it had been raised now.
    pub(crate) fn mark_raised(&mut self) {
        self.seen = self.signal.times().wrapping_sub(1);
    }

    /// All that was raised so far is heard.
    pub(crate) fn mark_heard(&mut self) {
        self.seen = self.signal.times();
    }

    /// Returns when it is raised, at once if it was since it was last heard.
    pub(crate) async fn raised(&mut self) {
        loop {
            let signal = self.signal.clone();
            let mut notified = std::pin::pin!(signal.0.notify.notified());
            notified.as_mut().enable();
            if self.is_raised() {
                return self.mark_heard();
            }
            notified.await;
        }
    }
}
