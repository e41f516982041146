//! What the arbiter sees of a share.

use super::bucket::refill;
use super::words::{BLOCKED, BUSY, CHANGED, CHARGED, GAP, REFILLED, SEEN, SLOTS, Tenant, WAITING};
use super::{Priority, Terms, tuning};
use crate::sync::Ordering;

/// What a share says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// What it is entitled to.
    pub terms: Terms,
    /// Others may have been promised the same time: not for the share to say, the node knows.
    pub oversubscribed: bool,
    /// Processes with work in flight.
    pub busy: u32,
    /// A process waits for the turn.
    pub waiting: bool,
    /// A process waits for credit.
    pub blocked: bool,
    /// GPU nanoseconds left.
    pub balance: i64,
    /// GPU nanoseconds charged so far.
    pub charged: u64,
    /// When it last had, or last ended, work in flight.
    pub changed: u64,
    /// Mean gap between two such.
    pub gap: u64,
}

impl View {
    /// As its words stand.
    pub fn of(tenant: &Tenant, terms: Terms, now: u64) -> Self {
        Self {
            terms,
            oversubscribed: false,
            busy: tenant.busy.count(),
            waiting: !tenant.waiting.is_empty(),
            blocked: !tenant.blocked.is_empty(),
            balance: tenant.balance_seen(now, terms),
            charged: tenant.account.charged.load(Ordering::Acquire),
            changed: tenant.activity.changed.load(Ordering::Acquire),
            gap: tenant.activity.gap.load(Ordering::Relaxed),
        }
    }

    /// What the processes of a share have written, as it lies in memory, where one that has ended cannot take its word back
    /// by itself: `is_dead` says who has. Whatever the bytes are, it is a view.
    pub fn read(bytes: &[u8; SEEN], terms: Terms, now: u64, is_dead: impl Fn(u32) -> bool) -> Self {
        let word =
            |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let count = |set: usize| slots(bytes, set).filter(|slot| !is_dead(*slot)).count();
        let credit = refill(now.saturating_sub(word(REFILLED)), terms);
        Self {
            terms,
            oversubscribed: false,
            busy: u32::try_from(count(BUSY)).unwrap_or(u32::MAX),
            waiting: count(WAITING) > 0,
            blocked: count(BLOCKED) > 0,
            balance: word(0).cast_signed().saturating_add(credit).min(tuning::SAVED_WAITING),
            charged: word(CHARGED),
            changed: word(CHANGED),
            gap: word(GAP),
        }
    }

    /// Wants the GPU, or did a moment ago.
    pub(super) fn wants(&self, now: u64) -> bool {
        self.is_asking() || now.saturating_sub(self.changed) < tuning::AWAY
    }

    pub(super) fn is_asking(&self) -> bool {
        self.busy > 0 || self.waiting || self.blocked
    }

    pub(super) fn has_credit(&self) -> bool {
        !self.terms.is_capped() || self.balance > 0
    }

    pub(super) fn is_eligible(&self) -> bool {
        self.waiting && self.has_credit()
    }

    pub(super) fn grace(&self) -> u64 {
        let short = self.gap > tuning::LONG_GAP && self.terms.priority != Priority::High;
        if short { tuning::GRACE_SHORT } else { tuning::GRACE }
    }
}

/// Slots of a set among the bytes of a [`Tenant`].
fn slots(bytes: &[u8; SEEN], set: usize) -> impl Iterator<Item = u32> + '_ {
    let bits = bytes.get(set..set + SLOTS / 8).unwrap_or_default();
    bits.iter().zip(0u32..).filter(|(byte, _)| **byte != 0).flat_map(|(byte, index)| {
        (0..8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| index * 8 + bit)
    })
}

/// Processes that have said anything: those whose slot locks are worth a look. One may come more than once.
pub fn present(bytes: &[u8; SEEN]) -> impl Iterator<Item = u32> + '_ {
    [BUSY, WAITING, BLOCKED].into_iter().flat_map(|set| slots(bytes, set))
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The first bytes of a share's words.
    fn bytes(tenant: &Tenant) -> [u8; SEEN] {
        let mut bytes = [0; SEEN];
        let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(0, tenant.account.balance.load(Ordering::Relaxed).cast_unsigned());
        put(REFILLED, tenant.account.refilled.load(Ordering::Relaxed));
        put(CHARGED, tenant.account.charged.load(Ordering::Relaxed));
        put(CHANGED, tenant.activity.changed.load(Ordering::Relaxed));
        put(GAP, tenant.activity.gap.load(Ordering::Relaxed));
        for (at, set) in [(BUSY, &tenant.busy), (WAITING, &tenant.waiting), (BLOCKED, &tenant.blocked)] {
            for slot in set.slots() {
                bytes[at + slot as usize / 8] |= 1 << (slot % 8);
            }
        }
        bytes
    }

    #[test]
    fn from_bytes_it_is_the_same_as_from_memory() {
        let terms = Terms { cores: 30, ..Terms::default() };
        let tenant = Tenant::default();
        tenant.account.balance.store(-7 * MS as i64, Ordering::Relaxed);
        tenant.account.refilled.store(3 * MS, Ordering::Relaxed);
        tenant.account.charged.store(41 * MS, Ordering::Relaxed);
        tenant.activity.changed.store(9 * MS, Ordering::Relaxed);
        tenant.activity.gap.store(77, Ordering::Relaxed);
        tenant.busy.set(511, true);
        tenant.busy.set(64, true);
        tenant.waiting.set(8, true);
        let seen = View::read(&bytes(&tenant), terms, 13 * MS, |_| false);
        assert_eq!(seen, View::of(&tenant, terms, 13 * MS));
        assert_eq!((seen.busy, seen.waiting, seen.blocked, seen.balance), (2, true, false, -4 * MS as i64));
        let mut found: Vec<u32> = present(&bytes(&tenant)).collect();
        found.sort_unstable();
        assert_eq!(found, [8, 64, 511]);
    }

    #[test]
    fn the_dead_say_nothing() {
        let tenant = Tenant::default();
        for set in [&tenant.busy, &tenant.waiting, &tenant.blocked] {
            set.set(3, true);
        }
        tenant.busy.set(4, true);
        let seen = View::read(&bytes(&tenant), Terms::default(), MS, |slot| slot == 3);
        assert_eq!((seen.busy, seen.waiting, seen.blocked), (1, false, false));
    }

    #[test]
    fn any_bytes_are_a_view() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let seen =
                View::read(&[byte; SEEN], Terms { cores: 100, ..Terms::default() }, u64::MAX, |_| false);
            assert!(seen.balance <= tuning::SAVED_WAITING && seen.busy <= 512);
        }
    }
}
