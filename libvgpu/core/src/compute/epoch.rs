//! Launches between two events.
//!
//! A pair of events must not hold time in which the process let the GPU idle, so an epoch ends before every wait. A
//! launch that was never measured ends it too: nobody knows how long that will take.

use super::estimate::Key;
use super::tuning;

/// Launches of one process between two events.
#[derive(Debug)]
pub(super) struct Epoch {
    /// When it was opened.
    pub(super) opened: u64,
    /// When its last launch was.
    pub(super) touched: u64,
    pub(super) launches: u32,
    /// Sum of its launches' estimates.
    pub(super) estimate: u64,
    /// Of the estimate, what the share has been charged and not yet used.
    pub(super) paid: u64,
    /// Holds a launch that was never measured.
    pub(super) unknown: bool,
    /// What its last launch was.
    pub(super) last: Key,
    /// What all its launches were; `None`: of several kinds, and nothing can be learnt from it.
    pub(super) key: Option<Key>,
}

impl Epoch {
    pub(super) fn open(now: u64, key: Key) -> Self {
        let (unknown, last, key) = (false, key, Some(key));
        Self { opened: now, touched: now, launches: 0, estimate: 0, paid: 0, unknown, last, key }
    }

    /// Adds a launch; true if the epoch is full with it.
    pub(super) fn add(&mut self, now: u64, key: Key, estimate: Option<u64>) -> bool {
        self.touched = now;
        self.launches = self.launches.saturating_add(1);
        self.estimate = self.estimate.saturating_add(estimate.unwrap_or(tuning::FLIGHT));
        self.unknown |= estimate.is_none();
        self.last = key;
        if self.key != Some(key) {
            self.key = None;
        }
        self.unknown || self.estimate >= tuning::EPOCH || self.launches >= tuning::EPOCH_LAUNCHES
    }

    /// How far it runs past its estimate if the GPU has been at it since `began`.
    pub(super) fn overdue(&self, began: u64, now: u64) -> u64 {
        now.saturating_sub(began).saturating_sub(self.estimate)
    }
}
