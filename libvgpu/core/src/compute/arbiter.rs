//! Whose turn it is on one GPU while two or more shares want it.
//!
//! Pure: [`Arbiter::evaluate`] is given what the tenants say, and answers what each is to be told and when to look again.
//! Called at that moment and whenever a tenant rings. The order is priority, then who has something reserved, then the
//! least *virtual time*: GPU time charged, divided by weight. A turn that was held and not used counts in this order, and
//! not against the cap.
//!
//! A share's weight is what it has reserved, as long as that of all who want the GPU is 100 percent at most. Where an admin
//! let more be promised, those who let themselves be oversubscribed divide what the firm ones among them leave, in
//! proportion to what they have reserved. Should the firm ones alone have more than 100 percent, everybody has the GPU in
//! proportion; the others their least. Nobody's cap changes by it, and nobody waits for ever: the least weight is not 0.

use std::collections::BTreeMap;

use super::view::View;
use super::words::Turn;
use super::{Priority, tuning};

/// Names a share on this GPU; ties break by it.
pub type Id = u64;

/// What a share is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Which share.
    pub id: Id,
    /// Its turn.
    pub turn: Turn,
    /// The GPU has a share of higher priority, active or not: it may come any moment.
    pub outranked: bool,
    /// Busy contexts of the others.
    pub neighbours: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    view: View,
    /// In thousandths of a percent.
    weight: u64,
    /// Virtual time.
    time: u64,
    /// Of the charge, what is in `time`.
    counted: u64,
    asked_at: u64,
}

/// Weight of a percent.
const PERCENT: u64 = 1_000;

impl Member {
    /// Virtual time of GPU time.
    fn virtual_time(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(100 * PERCENT) / self.weight.max(tuning::LEAST_WEIGHT)
    }
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    id: Id,
    since: u64,
    /// The holder's charge when it began.
    charged: u64,
    /// Another's work was still in flight at some time of it.
    shared: bool,
    draining: Option<u64>,
}

/// The turns of one GPU.
#[derive(Debug, Default)]
pub struct Arbiter {
    members: BTreeMap<Id, Member>,
    hold: Option<Hold>,
    contended: bool,
    notices: Vec<Notice>,
}

impl Arbiter {
    /// Takes in what the shares of the GPU say, all of them each time; gives what each is to be told, and when to look
    /// again at the latest (`u64::MAX`: when somebody rings).
    pub fn evaluate(&mut self, now: u64, views: &[(Id, View)]) -> (&[Notice], u64) {
        self.take_in(now, views);
        let wanting = self.members.values().filter(|m| m.view.wants(now)).count();
        self.contended = wanting >= 2;
        if self.contended {
            self.pass_on(now, wanting);
        } else {
            self.end_hold(now);
        }
        self.notify();
        (&self.notices, if self.contended { self.deadline(now) } else { u64::MAX })
    }

    fn take_in(&mut self, now: u64, views: &[(Id, View)]) {
        self.members.retain(|id, _| views.iter().any(|(known, _)| known == id));
        if self.hold.is_some_and(|h| !self.members.contains_key(&h.id)) {
            self.hold = None;
        }
        for (id, view) in views {
            let fresh = Member { counted: view.charged, ..Member::default() };
            let member = self.members.entry(*id).or_insert(fresh);
            let used = view.charged.saturating_sub(member.counted);
            member.time = member.time.saturating_add(member.virtual_time(used));
            member.counted = view.charged;
            member.view = *view;
        }
        self.weigh(now);
        let woke: Vec<Id> = self
            .members
            .iter()
            .filter(|(_, m)| m.view.is_asking() && now.saturating_sub(m.asked_at) > tuning::AWAY)
            .map(|(id, _)| *id)
            .collect();
        for id in woke {
            let others = self.members.iter().filter(|(o, m)| **o != id && m.view.wants(now));
            let least = others.map(|(_, m)| m.time).min();
            if let (Some(least), Some(member)) = (least, self.members.get_mut(&id)) {
                let saved = member.virtual_time(tuning::SAVED_IDLE.unsigned_abs());
                member.time = member.time.max(least.saturating_sub(saved));
            }
        }
        for member in self.members.values_mut().filter(|m| m.view.is_asking()) {
            member.asked_at = now;
        }
    }

    /// Gives each its weight beside those who want the GPU now.
    fn weigh(&mut self, now: u64) {
        let (mut firm, mut oversubscribed) = (0u64, 0u64);
        for view in self.members.values().map(|m| &m.view).filter(|view| view.wants(now)) {
            let sum = if view.oversubscribed { &mut oversubscribed } else { &mut firm };
            *sum = sum.saturating_add(view.terms.reserved().into());
        }
        let rest = 100u64.saturating_sub(firm);
        for member in self.members.values_mut() {
            let reserved = u64::from(member.view.terms.reserved()).saturating_mul(PERCENT);
            let scaled = reserved.saturating_mul(rest).checked_div(oversubscribed);
            let shrinks = member.view.oversubscribed && oversubscribed > rest;
            let weight = scaled.filter(|_| shrinks).unwrap_or(reserved);
            member.weight = weight.max(tuning::LEAST_WEIGHT);
        }
    }

    /// Smaller goes first.
    fn rank(&self, id: Id, now: u64) -> Option<(std::cmp::Reverse<Priority>, bool, u64, Id)> {
        let member = self.members.get(&id)?;
        let terms = member.view.terms;
        let time = member.time.saturating_add(self.unused(id, now));
        Some((std::cmp::Reverse(terms.priority), terms.reserved() == 0, time, id))
    }

    /// Virtual time of what a holder has held and not used.
    fn unused(&self, id: Id, now: u64) -> u64 {
        let Some((hold, member)) = self.hold.filter(|h| h.id == id).zip(self.members.get(&id)) else {
            return 0;
        };
        if hold.shared {
            return 0;
        }
        let used = member.view.charged.saturating_sub(hold.charged);
        member.virtual_time(now.saturating_sub(hold.since).saturating_sub(used))
    }

    fn best(&self, now: u64, but: Option<Id>) -> Option<Id> {
        let eligible = self.members.iter().filter(|(id, m)| Some(**id) != but && m.view.is_eligible());
        eligible.map(|(id, _)| *id).min_by_key(|id| self.rank(*id, now))
    }

    fn end_hold(&mut self, now: u64) {
        let Some(hold) = self.hold else { return };
        let unused = self.unused(hold.id, now);
        if let Some(member) = self.members.get_mut(&hold.id) {
            member.time = member.time.saturating_add(unused);
        }
        self.hold = None;
    }

    fn begin_hold(&mut self, now: u64, id: Id) {
        self.end_hold(now);
        let charged = self.members.get(&id).map_or(0, |m| m.view.charged);
        self.hold = Some(Hold { id, since: now, charged, shared: false, draining: None });
    }

    fn pass_on(&mut self, now: u64, wanting: usize) {
        if self.hold.is_none() {
            // Two were at it when it began: the one that goes first stays at it.
            let busy = self.members.iter().filter(|(_, m)| m.view.busy > 0 && m.view.has_credit());
            let first =
                busy.map(|(id, _)| *id).chain(self.best(now, None)).min_by_key(|id| self.rank(*id, now));
            let Some(first) = first else { return };
            self.begin_hold(now, first);
        }
        let Some(mut hold) = self.hold else { return };
        let Some(holder) = self.members.get(&hold.id).map(|m| m.view) else { return };
        hold.shared |= self.members.iter().any(|(id, m)| *id != hold.id && m.view.busy > 0);
        self.hold = Some(hold);
        let Some(next) = self.best(now, Some(hold.id)) else {
            hold.draining = None;
            self.hold = Some(hold);
            return;
        };
        let Some(waiter) = self.members.get(&next).map(|m| m.view) else { return };
        let outranked = waiter.terms.priority > holder.terms.priority;
        if hold.draining.is_none() {
            let used_up = now.saturating_sub(hold.since) >= self.quantum(now, wanting, hold.id);
            let still_first = holder.is_asking() && self.rank(hold.id, now) < self.rank(next, now);
            let idle = holder.busy == 0 && !holder.waiting;
            let gone = idle && (holder.blocked || now.saturating_sub(holder.changed) >= holder.grace());
            if outranked || !holder.has_credit() || gone || (used_up && !still_first) {
                hold.draining = Some(now);
            } else if used_up {
                self.begin_hold(now, hold.id);
                return;
            }
        }
        self.hold = Some(hold);
        let Some(since) = hold.draining else { return };
        if holder.busy == 0 || outranked || now.saturating_sub(since) >= tuning::PATIENCE {
            self.begin_hold(now, next);
            if let Some(hold) = &mut self.hold {
                hold.shared = holder.busy > 0;
            }
        }
    }

    fn quantum(&self, now: u64, wanting: usize, holder: Id) -> u64 {
        let time = |id: Id| self.rank(id, now).map_or(0, |(_, _, time, _)| time);
        let own = time(holder);
        let behind = self.members.iter().any(|(id, m)| {
            let margin = m.virtual_time(tuning::BEHIND);
            *id != holder && m.view.is_eligible() && time(*id).saturating_add(margin) < own
        });
        if behind {
            return tuning::TURN_MIN;
        }
        let wanting = u64::try_from(wanting).unwrap_or(u64::MAX).max(1);
        (tuning::ROUND / wanting).clamp(tuning::TURN_MIN, tuning::TURN_MAX)
    }

    fn notify(&mut self) {
        let all: u32 = self.members.values().map(|m| m.view.busy).sum();
        let highest = self.members.values().map(|m| m.view.terms.priority).max();
        self.notices.clear();
        for (id, member) in &self.members {
            let turn = match self.hold {
                _ if !self.contended => Turn::Open,
                Some(hold) if hold.id == *id && hold.draining.is_none() => Turn::Held,
                _ => Turn::Denied,
            };
            self.notices.push(Notice {
                id: *id,
                turn,
                outranked: highest.is_some_and(|h| h > member.view.terms.priority),
                neighbours: all.saturating_sub(member.view.busy),
            });
        }
    }

    fn deadline(&self, now: u64) -> u64 {
        let somebody_waits = self.members.values().any(|m| m.view.waiting);
        now.saturating_add(if somebody_waits { tuning::WATCH } else { tuning::RECHECK })
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests;
