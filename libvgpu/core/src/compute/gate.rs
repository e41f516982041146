//! What one process does around its launches: ask, launch, and take in what the events say.
//!
//! The caller owns the events and calls in this order, under one lock:
//!
//! 1. [`Gate::harvest`] for each epoch whose end event has been reached, oldest first
//! 2. [`Gate::ask`]; if it says wait: [`Gate::close`] and, if that says so, record the end event; wait; from 1 again
//! 3. [`Gate::plan`]: record the end of the epoch before and the start of a new one as it says
//! 4. [`Gate::launched`]
//! 5. the launch, for which the lock may be let go; then record the end event if 4 said so
//!
//! Before it waits for the GPU on the program's behalf it closes the epoch too. If an end event cannot be recorded where
//! the work was queued, or would be recorded after the work had ended ([`Gate::is_done`]), the epoch is closed all the
//! same and given up by [`Gate::lose`] when it is the oldest. Between calls somebody polls ([`Gate::poll_after`]): it
//! harvests, closes an epoch that got no launch for a while, and charges one that runs long.
//!
//! Words that processes share are written when an epoch begins and ends, not by every launch. After 4 a thread may be lent
//! the rest of the open epoch ([`Gate::lend`]): so many more launches of that kind it makes without asking, and whoever
//! closes the epoch records its end when the loan has ended ([`Gate::take_back`]). Epochs may end in another order than
//! they began then, so those in flight are told by their place.

use std::collections::VecDeque;

use super::epoch::Epoch;
pub use super::epoch::Loan;
use super::estimate::{Estimates, Key};
use super::words::{Lease, Tenant, Turn};
use super::{Terms, tuning};
use crate::sync::Ordering;

/// What a process sees of its share and GPU.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// What the share is entitled to, now.
    pub terms: Terms,
    /// Its words.
    pub tenant: &'a Tenant,
    /// What the node says of its GPU.
    pub lease: &'a Lease,
}

/// Whether a launch may go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Launch,
    /// Ask again at this moment, or as soon as an epoch ends.
    Wait(u64),
    /// Ask again at this moment, or as soon as [`Lease::word`] changes.
    WaitForTurn(u64),
}

/// Events to record before a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// The end of the epoch before.
    pub end: bool,
    /// The start of a new one.
    pub start: bool,
}

/// Metering of one GPU in one process.
#[derive(Debug)]
pub struct Gate {
    slot: u32,
    estimates: Estimates,
    open: Option<Epoch>,
    /// Closed and not harvested, oldest first.
    flight: VecDeque<Epoch>,
    /// Ran out of credit and waits for enough of it.
    dry: bool,
    /// Waits for its share's turn.
    queued: bool,
    /// End of the last harvested epoch.
    ended: u64,
    /// Of the share's credit, what the open epoch may use without looking again.
    granted: u64,
    /// Since when it has had nothing in flight and asked for nothing.
    idle_since: Option<u64>,
    ring: bool,
}

impl Gate {
    /// Of the process that holds a slot.
    pub fn new(slot: u32) -> Self {
        Self {
            slot,
            estimates: Estimates::default(),
            open: None,
            flight: VecDeque::new(),
            dry: false,
            queued: false,
            ended: 0,
            granted: 0,
            idle_since: Some(0),
            ring: false,
        }
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.flight.is_empty()
    }

    /// Epochs whose end event has been recorded and that are not harvested.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Whether the arbiter has to be told that something has changed; asking resets it.
    pub fn take_ring(&mut self) -> bool {
        std::mem::take(&mut self.ring)
    }

    /// May this be launched?
    pub fn ask(&mut self, now: u64, share: &Share<'_>, key: &Key) -> Verdict {
        let turn = share.lease.turn(now);
        let contended = turn != Turn::Open;
        if let Some(since) = self.idle_since.take() {
            self.wake(now, since, share);
        }
        if let Some(wait) = self.room(now, share, key) {
            self.say(share, false, false);
            return Verdict::Wait(now.saturating_add(wait));
        }
        let estimate = self.estimates.get(key).unwrap_or(tuning::FLIGHT);
        if turn != Turn::Denied && self.open.is_some() && self.granted >= estimate {
            self.granted -= estimate;
            return Verdict::Launch;
        }
        let credit = share.tenant.balance(now, share.terms, contended);
        let mut left = i64::MAX;
        if share.terms.is_capped() {
            left = credit.saturating_sub(self.open.as_ref().map_or(0, |e| signed(e.estimate)));
            self.dry |= left <= 0;
            let enough = if contended { tuning::RESUME_CONTENDED } else { tuning::RESUME };
            if self.dry && left < enough {
                // With nothing in flight the turn is of no use: another may have it at once.
                self.ring |= contended && self.is_empty() && !share.tenant.blocked.has(self.slot);
                self.say(share, false, true);
                let missing = u64::try_from(enough.saturating_sub(left)).unwrap_or(0);
                let wait = missing.saturating_mul(100) / u64::from(share.terms.cores.max(1));
                return Verdict::Wait(now.saturating_add(wait.clamp(1, tuning::RECHECK)));
            }
        }
        self.dry = false;
        if turn == Turn::Denied {
            self.ring |= !self.queued;
            self.queued = true;
            self.say(share, true, false);
            return Verdict::WaitForTurn(now.saturating_add(tuning::RECHECK));
        }
        self.queued = false;
        self.say(share, false, false);
        self.granted = u64::try_from(left).unwrap_or(0).min(tuning::EPOCH).saturating_sub(estimate);
        Verdict::Launch
    }

    /// Another share pays for what this one was asked for: it waits for nothing any more.
    pub fn withdraw(&mut self, share: &Share<'_>) {
        self.queued = false;
        self.say(share, false, false);
    }

    /// The launch just granted: which events come before it.
    pub fn plan(&mut self, now: u64, share: &Share<'_>, key: &Key) -> Plan {
        // What is on trial has epochs of its own, or nothing would be learnt about it.
        let alone = |other: Key| self.estimates.trial(&other).is_some();
        let end = self
            .open
            .as_ref()
            .is_some_and(|e| e.key != Some(*key) && (alone(*key) || e.key.is_some_and(alone)))
            && self.close(share);
        let start = self.open.is_none();
        if start {
            if self.flight.is_empty() {
                share.tenant.set_busy(self.slot, Some(now));
            }
            self.open = Some(Epoch::open(now, *key));
        }
        Plan { end, start }
    }

    /// The launch is made. True: record the end event right behind it.
    pub fn launched(&mut self, now: u64, share: &Share<'_>, key: &Key) -> bool {
        let estimate = self.estimates.get(key);
        let Some(epoch) = &mut self.open else { return false };
        let is_full = epoch.add(now, *key, estimate);
        let is_watched = self.estimates.watch(key);
        // One with launches on loan has shown nothing before it is measured.
        let is_asked = epoch.lent == 0 && !epoch.unasked;
        if is_full && is_asked && !is_watched && estimate.is_some() {
            self.estimates.filled(key);
        }
        if is_full || is_watched { self.close(share) } else { false }
    }

    /// More launches of the kind just launched that may be made without asking, if its epoch is still open: as many as
    /// fit into the epoch, the credit that was granted and the bound on what is in flight. They are charged with the epoch.
    pub fn lend(&mut self, now: u64, share: &Share<'_>, key: &Key) -> Option<Loan> {
        let turn = share.lease.word().load(Ordering::Acquire);
        if share.lease.turn(now) == Turn::Denied {
            return None;
        }
        let each = self.estimates.steady(key)?.max(1);
        let room = bound(share).saturating_sub(self.left(now));
        let epoch = self.open.as_mut().filter(|e| e.key == Some(*key))?;
        let nanos = tuning::EPOCH.saturating_sub(epoch.estimate).min(self.granted).min(room);
        // The last launch of an epoch is asked for: it ends it.
        let most = tuning::EPOCH_LAUNCHES.saturating_sub(epoch.launches).saturating_sub(1);
        let launches = u32::try_from(nanos / each).unwrap_or(u32::MAX).min(most);
        let loan = Loan { launches, each, turn };
        if launches == 0 {
            return None;
        }
        epoch.lend(loan);
        self.granted = self.granted.saturating_sub(each.saturating_mul(launches.into()));
        Some(loan)
    }

    /// A loan has ended, of the open epoch or of one in flight, and so many of its launches were not made.
    pub fn take_back(&mut self, now: u64, place: Option<usize>, share: &Share<'_>, loan: Loan, unused: u32) {
        match place {
            None => {
                let Some(epoch) = &mut self.open else { return };
                self.granted = self.granted.saturating_add(epoch.take_back(now, loan, unused));
            }
            Some(place) => {
                let Some(epoch) = self.flight.get_mut(place) else { return };
                let nanos = epoch.take_back(now, loan, unused).min(epoch.paid);
                epoch.paid -= nanos;
                share.tenant.credit(signed(nanos));
            }
        }
    }

    /// Whether all that is in flight should have ended by now and an epoch is still open: if the GPU has really run dry,
    /// an end event would come too late.
    pub fn is_done(&self, now: u64) -> bool {
        self.flight.is_empty()
            && self.open.as_ref().is_some_and(|e| now.saturating_sub(e.opened.max(self.ended)) >= e.estimate)
    }

    /// Whether the open epoch got no launch for a while.
    pub fn is_quiet(&self, now: u64) -> bool {
        self.open.as_ref().is_some_and(|e| now.saturating_sub(e.touched) >= tuning::EPOCH_IDLE)
    }

    /// Ends the open epoch, if there is one. True: record the end event now.
    pub fn close(&mut self, share: &Share<'_>) -> bool {
        let Some(mut epoch) = self.open.take() else { return false };
        self.granted = 0;
        epoch.paid = epoch.estimate;
        share.tenant.credit(signed(epoch.estimate).saturating_neg());
        self.flight.push_back(epoch);
        true
    }

    /// Ends the open epoch if it got no launch for a while. True: record the end event now.
    pub fn close_idle(&mut self, now: u64, share: &Share<'_>) -> bool {
        if self.is_quiet(now) { self.close(share) } else { false }
    }

    /// The oldest closed epoch has ended; its events were reached at these moments.
    pub fn harvest(&mut self, now: u64, share: &Share<'_>, start: u64, end: u64) {
        self.harvest_at(0, now, share, (start, end), false);
    }

    /// The same of a later one, if those before it are on loan. `crowded`: epochs of other streams ran beside it, whose work
    /// lies between its events too.
    pub fn harvest_at(
        &mut self,
        place: usize,
        now: u64,
        share: &Share<'_>,
        (start, end): (u64, u64),
        crowded: bool,
    ) {
        self.flight.iter_mut().take(place).for_each(|older| older.overtaken = true);
        let Some(epoch) = self.flight.remove(place) else { return };
        let start = start.max(self.ended);
        let end = end.max(start);
        let own = share.lease.own_part(start, end, 1);
        let covered = share.tenant.cover(share.lease, self.slot, start, end);
        let alone = !crowded && share.tenant.busy_since(self.slot).is_none();
        let used = epoch.charge(own, covered, alone);
        share.tenant.correct(covered, used);
        share.tenant.credit(signed(epoch.paid).saturating_sub(signed(used)));
        if epoch.is_late(own) {
            self.estimates.lost(&epoch.last);
        } else if let Some(key) = epoch.key.filter(|_| !epoch.overtaken) {
            self.estimates.learn(key, epoch.launches, own);
            if epoch.unasked {
                self.estimates.filled(&key);
            }
        }
        self.ended = end;
        let next = self.flight.front().or(self.open.as_ref()).map(|e| e.opened.max(end));
        share.tenant.set_busy(self.slot, next);
        if next.is_none() {
            share.tenant.activity.changed.store(now, Ordering::Release);
            self.idle_since = Some(now);
            self.ring |= share.lease.turn(now) == Turn::Denied;
        }
    }

    /// The oldest closed epoch cannot be measured: what was paid for it stays paid.
    pub fn lose(&mut self, now: u64, share: &Share<'_>) {
        self.lose_at(0, now, share);
    }

    /// The same of a later one, if those before it are on loan.
    pub fn lose_at(&mut self, place: usize, now: u64, share: &Share<'_>) {
        let Some(epoch) = self.flight.remove(place) else { return };
        if epoch.unasked {
            self.estimates.skipped(&epoch.last);
        } else {
            self.estimates.lost(&epoch.last);
        }
        // What nobody ever measured is not charged as if it had filled all that was waited for.
        let passed = now.saturating_sub(epoch.opened.max(self.ended));
        let used = if epoch.unknown { epoch.paid.min(passed) } else { epoch.paid };
        share.tenant.credit(signed(epoch.paid.saturating_sub(used)));
        share.tenant.account.charged.fetch_add(used, Ordering::AcqRel);
        if self.is_empty() {
            share.tenant.set_busy(self.slot, None);
            share.tenant.activity.changed.store(now, Ordering::Release);
            self.idle_since = Some(now);
            self.ring |= share.lease.turn(now) == Turn::Denied;
        }
    }

    /// Charges what an epoch has used so far if it runs long past its estimate.
    pub fn settle(&mut self, now: u64, share: &Share<'_>) {
        let ended = self.ended;
        let Some(epoch) = self.flight.front_mut().filter(|e| e.lent == 0) else { return };
        let began = epoch.opened.max(ended);
        if epoch.overdue(began, now) < tuning::OVERDUE {
            return;
        }
        let used = share.tenant.cover(share.lease, self.slot, began, now);
        let beforehand = used.min(epoch.paid);
        epoch.paid -= beforehand;
        share.tenant.credit(signed(used - beforehand).saturating_neg());
    }

    /// When to poll next while work is in flight.
    pub fn poll_after(&self, now: u64, share: &Share<'_>) -> u64 {
        match share.lease.turn(now) {
            Turn::Open => tuning::POLL,
            Turn::Held => tuning::POLL_CONTENDED,
            Turn::Denied => tuning::POLL_DRAINING,
        }
    }

    /// The first launch after a time with nothing in flight.
    fn wake(&mut self, now: u64, since: u64, share: &Share<'_>) {
        let activity = &share.tenant.activity;
        let gap = now.saturating_sub(since);
        if gap < tuning::AWAY && share.tenant.is_idle() {
            let mean = activity.gap.load(Ordering::Relaxed);
            let mean = mean.saturating_mul(tuning::LEARNING - 1).saturating_add(gap) / tuning::LEARNING;
            activity.gap.store(mean, Ordering::Relaxed);
        }
        let changed = activity.changed.swap(now, Ordering::AcqRel);
        self.ring |= now.saturating_sub(changed) > tuning::AWAY && share.tenant.busy.is_empty();
    }

    /// Estimated work in flight: its estimates less the time since the oldest of it began. If that has run past its
    /// estimate by some time, as much again is to be expected; but not of one that may not be all launched yet.
    fn left(&self, now: u64) -> u64 {
        let Some(front) = self.flight.front().or(self.open.as_ref()) else { return 0 };
        let began = front.opened.max(self.ended);
        let sum = self.flight.iter().chain(&self.open).fold(0u64, |sum, e| sum.saturating_add(e.estimate));
        let overdue = if front.lent == 0 { front.overdue(began, now) } else { 0 };
        sum.saturating_sub(now.saturating_sub(began)).max(overdue)
    }

    /// How long until there is room for a launch; `None`: there is. Behind what was never measured there is none.
    fn room(&self, now: u64, share: &Share<'_>, key: &Key) -> Option<u64> {
        let estimate = self.estimates.get(key).unwrap_or(tuning::FLIGHT);
        let bound = bound(share);
        let front = self.flight.front().or(self.open.as_ref())?;
        let began = front.opened.max(self.ended);
        let left = self.left(now);
        if front.unknown {
            // As patient as it has been so far.
            return Some((now.saturating_sub(began) / 4).clamp(POLL_LEAST, tuning::POLL));
        }
        let low = tuning::FLIGHT_LOW.min(bound / 2);
        if let Some(most) = self.estimates.trial(key) {
            let alike = self.flight.iter().chain(&self.open).filter(|e| e.key == Some(*key));
            if alike.fold(0u32, |sum, e| sum.saturating_add(e.launches)) >= most {
                return Some(left.clamp(POLL_LEAST, tuning::POLL));
            }
        }
        if left <= low || left.saturating_add(estimate) <= bound {
            return None;
        }
        let target = bound.saturating_sub(estimate).max(low);
        Some(left.saturating_sub(target).clamp(POLL_LEAST, tuning::POLL))
    }

    fn say(&self, share: &Share<'_>, waiting: bool, blocked: bool) {
        share.tenant.waiting.tell(self.slot, waiting);
        share.tenant.blocked.tell(self.slot, blocked);
    }
}

/// Most estimated work in flight.
fn bound(share: &Share<'_>) -> u64 {
    if share.lease.is_outranked() { tuning::FLIGHT_BELOW } else { tuning::FLIGHT }
}

/// Shortest wait for room: a poll costs about a microsecond.
const POLL_LEAST: u64 = 20_000;

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests;
