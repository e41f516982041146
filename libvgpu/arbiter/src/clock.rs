//! The clock tenants go by, and waiting for bells.

use std::os::fd::RawFd;

/// Descriptors to wait on.
#[derive(Debug, Default)]
pub struct Fds(Vec<libc::pollfd>);

impl Fds {
    /// Those.
    pub fn new(fds: impl Iterator<Item = RawFd>) -> Self {
        Self(fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect())
    }

    /// Waits until one has something to read, or for so many nanoseconds. Which ones says [`Fds::is_ready`].
    pub fn poll(&mut self, nanos: u64) -> bool {
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        let rest = i64::try_from(nanos % 1_000_000_000).unwrap_or(0);
        let time = libc::timespec { tv_sec: seconds, tv_nsec: rest };
        let count = libc::nfds_t::try_from(self.0.len()).unwrap_or(0);
        // SAFETY: an array of so many, a pointer to a local, no signal mask.
        let ready = unsafe { libc::ppoll(self.0.as_mut_ptr(), count, &raw const time, std::ptr::null()) };
        if ready < 0 {
            // Interrupted: nothing is known.
            self.0.iter_mut().for_each(|fd| fd.revents = 0);
        }
        ready > 0
    }

    /// Whether the last poll found something in the one of that index.
    pub fn is_ready(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|fd| fd.revents != 0)
    }
}

/// Time as all processes of a GPU's shares see it.
pub trait Clock {
    /// Nanoseconds.
    fn now(&self) -> u64;
    /// Waits until one of these has something to read, or until that moment, or less.
    fn wait(&mut self, fds: &mut Fds, until: u64);
    /// Turns have changed, and those who wait for them are woken.
    fn turned(&mut self) {}
}

/// The kernel's monotonic clock.
#[derive(Debug)]
pub struct Monotonic(());

impl Monotonic {
    /// For this thread alone: its waits end when they should. The kernel else lets them last 50 us longer.
    pub fn of_this_thread() -> Self {
        let slack: libc::c_ulong = 1_000;
        // SAFETY: changes this thread's timer slack.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack) };
        Self(())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a pointer to a local.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn wait(&mut self, fds: &mut Fds, until: u64) {
        fds.poll(until.saturating_sub(self.now()));
    }
}
