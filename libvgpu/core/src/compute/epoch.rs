//! Launches between two events.
//!
//! A pair of events must not hold time in which the process let the GPU idle, so an epoch ends before every wait. A
//! launch that was never measured ends it too: nobody knows how long that will take.
//!
//! Launches may be lent: they count as made from then on, and those that were not made are taken off when the loan ends.

use super::estimate::Key;
use super::tuning;

/// Launches of one kind that a thread may make without asking, as part of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// How many.
    pub launches: u32,
    /// What each is estimated at, in nanoseconds.
    pub each: u64,
    /// What [`super::words::Lease::word`] says: another value ends the loan.
    pub turn: u32,
}

impl Loan {
    fn nanos(self, launches: u32) -> u64 {
        self.each.saturating_mul(launches.into())
    }
}

/// Launches of one process between two events.
#[derive(Debug)]
pub(super) struct Epoch {
    /// When it was opened.
    pub(super) opened: u64,
    /// When its last launch was, or the end of a loan.
    pub(super) touched: u64,
    pub(super) launches: u32,
    /// Sum of its launches' estimates.
    pub(super) estimate: u64,
    /// Of the estimate, what the share has been charged and not yet used.
    pub(super) paid: u64,
    /// Holds a launch that was never measured.
    pub(super) unknown: bool,
    /// Launches that are lent: some of them may not be made yet.
    pub(super) lent: u32,
    /// Whether any of its launches was made on loan.
    pub(super) unasked: bool,
    /// A later one was taken in before it, and with that time of its own.
    pub(super) overtaken: bool,
    /// What its last launch was.
    pub(super) last: Key,
    /// What all its launches were; `None`: of several kinds, and nothing can be learnt from it.
    pub(super) key: Option<Key>,
}

impl Epoch {
    pub(super) fn open(now: u64, key: Key) -> Self {
        Self {
            opened: now,
            touched: now,
            launches: 0,
            estimate: 0,
            paid: 0,
            unknown: false,
            lent: 0,
            unasked: false,
            overtaken: false,
            last: key,
            key: Some(key),
        }
    }

    /// Counts launches as made that will be, or will be given back.
    pub(super) fn lend(&mut self, loan: Loan) {
        self.launches = self.launches.saturating_add(loan.launches);
        self.estimate = self.estimate.saturating_add(loan.nanos(loan.launches));
        self.lent = self.lent.saturating_add(loan.launches);
    }

    /// A loan has ended; gives what those of its launches that were not made had been estimated at.
    pub(super) fn take_back(&mut self, now: u64, loan: Loan, unused: u32) -> u64 {
        let unused = unused.min(loan.launches);
        let nanos = loan.nanos(unused);
        self.lent = self.lent.saturating_sub(loan.launches);
        self.launches = self.launches.saturating_sub(unused);
        self.estimate = self.estimate.saturating_sub(nanos);
        self.unasked |= unused < loan.launches;
        self.touched = self.touched.max(now);
        nanos
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

    /// What it is charged if its events are so far apart, and so much of that nobody else has paid for.
    ///
    /// On loan a program may pause, and the GPU idle, between the two. How long is not known, but it was no longer than
    /// the program took to launch it all; what the events are apart beyond that, the GPU was busy. That holds for a stream
    /// that is `alone` in its share: work of others lies between the events too, and is charged with them.
    pub(super) fn charge(&self, apart: u64, unpaid: u64, alone: bool) -> u64 {
        if self.overtaken {
            return unpaid.max(self.estimate);
        }
        if !alone || !self.is_late(apart) {
            return unpaid;
        }
        let busy = unpaid.saturating_sub(self.touched.saturating_sub(self.opened));
        busy.max(self.estimate).min(unpaid)
    }

    /// Whether it took so much longer than its estimate that it may hold idle time.
    pub(super) fn is_late(&self, apart: u64) -> bool {
        self.unasked && apart > self.estimate.saturating_add(self.estimate / tuning::SLACK)
    }

    /// How far it runs past its estimate if the GPU has been at it since `began`.
    pub(super) fn overdue(&self, began: u64, now: u64) -> u64 {
        now.saturating_sub(began).saturating_sub(self.estimate)
    }
}
