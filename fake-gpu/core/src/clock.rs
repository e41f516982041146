//! The clock a GPU's timeline follows: the only place that decides what time it is and how a wait passes.
//!
//! [`RealTime`] is the machine's. A test hands in another one; a clock shared by processes would keep its time in the GPU
//! file and wake sleepers when all of them wait. The timeline itself takes every time as an argument and asks no clock.

use std::fmt::Debug;
use std::time::Duration;

/// Time and waiting.
pub trait Clock: Debug + Send + Sync {
    /// Nanoseconds since any moment that is the same for all processes of the node.
    fn now(&self) -> u64;

    /// Returns at that moment or earlier; the caller looks again.
    fn sleep_until(&self, moment: u64);
}

/// The machine's monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealTime;

/// Another process may end at any moment, and with it what this one waits behind: no sleep is longer than this.
const LONGEST_SLEEP: u64 = 20_000_000;

impl Clock for RealTime {
    fn now(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    fn sleep_until(&self, moment: u64) {
        let left = moment.saturating_sub(self.now()).clamp(1_000, LONGEST_SLEEP);
        std::thread::sleep(Duration::from_nanos(left));
    }
}
