//! The words tenants and arbiter share, as they lie in memory. Little endian; times in nanoseconds.
//!
//! [`Tenant`], written by the share's processes (part of `usage`):
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | balance: GPU nanoseconds left, signed |
//! | 8 | 8 | the moment up to which the balance is refilled |
//! | 16 | 8 | the moment up to which GPU time is charged |
//! | 24 | 8 | GPU nanoseconds charged so far |
//! | 64 | 8 | when the share last had, or last ended, work in flight |
//! | 72 | 8 | mean gap between two such |
//! | 128 | 64 | bitmap by slot: processes with work in flight |
//! | 192 | 64 | bitmap: processes waiting for their share's turn |
//! | 256 | 64 | bitmap: processes waiting for credit |
//! | 320 | 8 each | by slot: since when the process's oldest work is in flight |
//!
//! [`Lease`], written by the node (part of `limits`):
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | turn: generation (bits 31..2) and [`Turn`] (1..0); tenants wait on this word |
//! | 4 | 4 | 1: a share of higher priority uses this GPU |
//! | 8 | 8 | heartbeat |
//! | 16 | 4 | steps written so far |
//! | 24 | 8 each | ring of [`STEPS`] steps: moment in microseconds (bits 63..8), contexts of other shares busy from then on (7..0) |
//!
//! A process writes its own bits and slot only. Every word is whole by itself, so a process may die between any two.

use super::tuning;
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Processes of a share at once. Where interleavings are tried, made anew for each of them, no more than a set must have.
pub const SLOTS: usize = if cfg!(feature = "interleavings") { 64 } else { 512 };
/// Where in [`Tenant`] the moment of the last refill stands.
pub(super) const REFILLED: usize = 8;
/// Where in [`Tenant`] the GPU nanoseconds charged so far stand.
pub const CHARGED: usize = 24;
/// Where in [`Tenant`] it says when the share was busy last.
pub(super) const CHANGED: usize = 64;
/// Where in [`Tenant`] the mean gap stands.
pub(super) const GAP: usize = 72;
/// Where in [`Tenant`] the three sets stand.
pub(super) const BUSY: usize = 128;
/// See [`BUSY`].
pub(super) const WAITING: usize = 192;
/// See [`BUSY`].
pub(super) const BLOCKED: usize = 256;
/// Bytes of [`Tenant`] that the arbiter reads.
pub const SEEN: usize = 320;
/// Changes of the neighbours that are remembered.
pub const STEPS: usize = 32;

/// A set of processes, by slot.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Set([AtomicU64; SLOTS / 64]);

impl Set {
    /// Whether a process is in it.
    pub fn has(&self, slot: u32) -> bool {
        let word = self.0.get(slot as usize / 64);
        word.is_some_and(|w| w.load(Ordering::Acquire) & 1 << (slot % 64) != 0)
    }

    /// Puts a process in or takes it out, and writes nothing if that changes nothing.
    pub fn tell(&self, slot: u32, member: bool) {
        if self.has(slot) != member {
            self.set(slot, member);
        }
    }

    /// Puts a process in or takes it out.
    pub fn set(&self, slot: u32, member: bool) {
        let Some(word) = self.0.get(slot as usize / 64) else { return };
        let bit = 1 << (slot % 64);
        if member {
            word.fetch_or(bit, Ordering::AcqRel);
        } else {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|w| w.load(Ordering::Acquire).count_ones()).sum()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| w.load(Ordering::Acquire) == 0)
    }

    /// Who is in it.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.0.iter().zip(0u32..).flat_map(|(word, index)| {
            let mut bits = word.load(Ordering::Acquire);
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(index * 64 + bit)
            })
        })
    }
}

/// Credit of a share, on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Account {
    pub(super) balance: AtomicI64,
    pub(super) refilled: AtomicU64,
    pub(super) covered: AtomicU64,
    /// GPU nanoseconds charged so far.
    pub charged: AtomicU64,
}

/// When a share was busy.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Activity {
    pub(super) changed: AtomicU64,
    pub(super) gap: AtomicU64,
}

/// What the processes of a share tell each other and the arbiter.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Tenant {
    /// Credit.
    pub account: Account,
    /// When it was busy.
    pub activity: Activity,
    /// Processes with work in flight.
    pub busy: Set,
    /// Processes waiting for the share's turn.
    pub waiting: Set,
    /// Processes waiting for credit.
    pub blocked: Set,
    pub(super) since: [AtomicU64; SLOTS],
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            account: Account::default(),
            activity: Activity::default(),
            busy: Set::default(),
            waiting: Set::default(),
            blocked: Set::default(),
            since: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Tenant {
    /// Whether nothing is in flight and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.waiting.is_empty() && self.blocked.is_empty()
    }

    /// Processes that have said anything: those whose slot locks are worth a look.
    pub fn present(&self) -> impl Iterator<Item = u32> {
        self.busy.slots().chain(self.waiting.slots()).chain(self.blocked.slots())
    }

    /// Forgets a process that has ended, before its slot goes to another.
    pub fn forget(&self, slot: u32) {
        for set in [&self.busy, &self.waiting, &self.blocked] {
            set.set(slot, false);
        }
    }

    /// Says since when a process has work in flight, or that it has none.
    pub(super) fn set_busy(&self, slot: u32, since: Option<u64>) {
        if let (Some(since), Some(word)) = (since, self.since.get(slot as usize)) {
            word.store(since, Ordering::Release);
        }
        self.busy.tell(slot, since.is_some());
    }

    /// Since when any process but one has work in flight.
    pub(super) fn busy_since(&self, but: u32) -> Option<u64> {
        let others = self.busy.slots().filter(|slot| *slot != but);
        others.filter_map(|s| self.since.get(s as usize)).map(|w| w.load(Ordering::Acquire)).min()
    }
}

/// Whether a share may launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nobody else wants the GPU: launch.
    #[default]
    Open,
    /// It is the share's turn: launch.
    Held,
    /// It is another's turn: wait.
    Denied,
}

/// What the node tells the processes of a share about its GPU.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Lease {
    turn: AtomicU32,
    outranked: AtomicU32,
    heartbeat: AtomicU64,
    written: AtomicU32,
    steps: [AtomicU64; STEPS],
}

impl Lease {
    /// The share's turn; [`Turn::Open`] if the arbiter has gone.
    pub fn turn(&self, now: u64) -> Turn {
        let beaten = self.heartbeat.load(Ordering::Acquire);
        let turn = match self.turn.load(Ordering::Acquire) & 3 {
            1 => Turn::Held,
            2 => Turn::Denied,
            _ => Turn::Open,
        };
        if now.saturating_sub(beaten) > tuning::HEARTBEAT { Turn::Open } else { turn }
    }

    /// Whether an arbiter has ever looked at the share. Without one nobody has to be asked.
    pub fn is_served(&self) -> bool {
        self.heartbeat.load(Ordering::Relaxed) != 0
    }

    /// The word tenants wait on.
    pub fn word(&self) -> &AtomicU32 {
        &self.turn
    }

    /// Whether a share of higher priority uses the GPU.
    pub fn is_outranked(&self) -> bool {
        self.outranked.load(Ordering::Relaxed) != 0
    }

    /// Says what holds from now on. True if those who wait on [`Lease::word`] have to be woken.
    pub fn publish(&self, now: u64, turn: Turn, outranked: bool, neighbours: u32) -> bool {
        self.outranked.store(outranked.into(), Ordering::Relaxed);
        self.heartbeat.store(now, Ordering::Release);
        let written = self.written.load(Ordering::Relaxed);
        let step = (now / 1_000) << 8 | u64::from(neighbours.min(255));
        let last = self.step(written.wrapping_sub(1)).unwrap_or(0);
        if last & 255 != step & 255 {
            if let Some(word) = self.steps.get(written as usize % STEPS) {
                word.store(step, Ordering::Relaxed);
            }
            self.written.store(written.wrapping_add(1), Ordering::Release);
        }
        let word = self.turn.load(Ordering::Relaxed);
        let code = match turn {
            Turn::Open => 0,
            Turn::Held => 1,
            Turn::Denied => 2,
        };
        let changed = word & 3 != code;
        if changed {
            self.turn.store((word & !3).wrapping_add(4) | code, Ordering::Release);
        }
        changed
    }

    fn step(&self, index: u32) -> Option<u64> {
        self.steps.get(index as usize % STEPS).map(|w| w.load(Ordering::Relaxed))
    }

    /// The part of [from, to) that belongs to a share with `own` busy contexts: contexts take turns, so each has its part
    /// of the time in which others are busy too. Where nobody has said how many those are, all of it is the share's.
    pub fn own_part(&self, from: u64, to: u64, own: u32) -> u64 {
        let written = self.written.load(Ordering::Acquire);
        // An arbiter that has gone says nothing of the time after it.
        let told = self.heartbeat.load(Ordering::Acquire).saturating_add(tuning::HEARTBEAT).clamp(from, to);
        let (mut end, mut sum) = (told, to.saturating_sub(told));
        // Latest first. What is older than the ring is taken for the share's own.
        for back in 1..=STEPS as u32 {
            let Some(step) = self.step(written.wrapping_sub(back)).filter(|s| *s != 0) else { break };
            let start = (step >> 8).saturating_mul(1_000).clamp(from, end);
            sum = sum.saturating_add(part(end.saturating_sub(start), own, (step & 255) as u32));
            end = start;
            if end <= from {
                return sum;
            }
        }
        sum.saturating_add(end.saturating_sub(from))
    }
}

fn part(nanos: u64, own: u32, others: u32) -> u64 {
    let own = u64::from(own.max(1));
    nanos.saturating_mul(own) / own.saturating_add(others.into())
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_words_are_the_tables_above() {
        assert_eq!((offset_of!(Account, balance), offset_of!(Account, refilled)), (0, REFILLED));
        assert_eq!((offset_of!(Account, covered), offset_of!(Account, charged)), (16, CHARGED));
        assert_eq!((offset_of!(Tenant, account), offset_of!(Tenant, activity)), (0, CHANGED));
        assert_eq!((offset_of!(Activity, changed), offset_of!(Activity, gap)), (0, GAP - CHANGED));
        assert_eq!((offset_of!(Tenant, busy), offset_of!(Tenant, waiting)), (BUSY, WAITING));
        assert_eq!((offset_of!(Tenant, blocked), offset_of!(Tenant, since)), (BLOCKED, SEEN));
        assert_eq!(
            (REFILLED, CHARGED, CHANGED, GAP, BUSY, WAITING, BLOCKED, SEEN),
            (8, 24, 64, 72, 128, 192, 256, 320)
        );
        assert_eq!(size_of::<Tenant>(), 320 + 8 * SLOTS);
        assert_eq!((offset_of!(Lease, outranked), offset_of!(Lease, heartbeat)), (4, 8));
        assert_eq!((offset_of!(Lease, written), offset_of!(Lease, steps)), (16, 24));
    }

    #[test]
    fn a_set_knows_its_members() {
        let set = Set::default();
        for slot in [3, 64, 511] {
            set.set(slot, true);
        }
        set.set(64, false);
        assert_eq!(set.slots().collect::<Vec<_>>(), [3, 511]);
        assert_eq!(set.count(), 2);
    }

    #[test]
    fn time_beside_busy_neighbours_is_shared_by_contexts() {
        let lease = Lease::default();
        lease.publish(1_000_000, Turn::Open, false, 3);
        lease.publish(2_000_000, Turn::Open, false, 0);
        assert_eq!(lease.own_part(500_000, 2_500_000, 1), 500_000 + 250_000 + 500_000);
        assert_eq!(lease.own_part(1_200_000, 1_600_000, 1), 100_000);
        assert_eq!(lease.own_part(2_000_000, 2_600_000, 1), 600_000);
    }

    #[test]
    fn neighbours_are_forgotten_with_the_arbiter_that_counted_them() {
        let lease = Lease::default();
        lease.publish(1_000_000, Turn::Held, false, 1);
        let gone = 1_000_000 + tuning::HEARTBEAT;
        assert_eq!(lease.own_part(gone - 1_000_000, gone + 1_000_000, 1), 500_000 + 1_000_000);
    }

    #[test]
    fn without_a_heartbeat_every_turn_is_open() {
        let lease = Lease::default();
        assert!(lease.publish(1_000, Turn::Denied, false, 0));
        assert!(!lease.publish(2_000, Turn::Denied, false, 0));
        assert_eq!(lease.turn(2_000 + tuning::HEARTBEAT), Turn::Denied);
        assert_eq!(lease.turn(2_001 + tuning::HEARTBEAT), Turn::Open);
    }
}
