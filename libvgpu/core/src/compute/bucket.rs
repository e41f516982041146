//! Credit of a share in GPU nanoseconds: refilled at its percentage, charged by the time its work covered.
//!
//! Debt has no floor, so a kernel of any length is paid for in full and the mean is exact.

use super::words::{Lease, Tenant};
use super::{Terms, tuning};
use crate::sync::Ordering;

/// A refill is a whole number of these, in nanoseconds of the clock, so that percents leave no remainder.
const GRAIN: u64 = 100;

/// Credit of so much time.
pub(super) fn refill(passed: u64, terms: Terms) -> i64 {
    i64::try_from((passed / GRAIN).saturating_mul(terms.cores.into())).unwrap_or(i64::MAX)
}

impl Tenant {
    /// Credit as of now. `contended`: another share wants the GPU.
    pub fn balance(&self, now: u64, terms: Terms, contended: bool) -> i64 {
        let account = &self.account;
        let then = account.refilled.load(Ordering::Acquire);
        let passed = now.saturating_sub(then) / GRAIN * GRAIN;
        let next = then.saturating_add(passed);
        let moved = passed != 0
            && account.refilled.compare_exchange(then, next, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if moved {
            let most = if self.is_idle() { tuning::SAVED_IDLE } else { tuning::SAVED_WAITING };
            let credit = refill(passed, terms);
            let borrows = !terms.is_capped() && !contended;
            let least = if borrows { tuning::DEBT_ALONE } else { i64::MIN };
            let filled = |balance: i64| Some(balance.saturating_add(credit).min(most).max(least));
            // The closure never refuses.
            let _ = account.balance.fetch_update(Ordering::AcqRel, Ordering::Relaxed, filled);
        }
        account.balance.load(Ordering::Acquire)
    }

    /// Credit as of now, without touching anything: for those who only look.
    pub fn balance_seen(&self, now: u64, terms: Terms) -> i64 {
        let passed = now.saturating_sub(self.account.refilled.load(Ordering::Acquire));
        let credit = refill(passed, terms);
        self.account.balance.load(Ordering::Acquire).saturating_add(credit).min(tuning::SAVED_WAITING)
    }

    /// Moves the balance: positive is credit.
    pub(super) fn credit(&self, nanos: i64) {
        let add = |balance: i64| Some(balance.saturating_add(nanos));
        let _ = self.account.balance.fetch_update(Ordering::AcqRel, Ordering::Relaxed, add);
    }

    /// Time up to `end` that the share has used and nobody has charged yet, if `slot` had work in flight from `start`.
    ///
    /// Several processes of a share take turns on the GPU, so their intervals overlap. The share is charged for their
    /// union: from where the last charge ended, or from when the oldest work still in flight began.
    pub(super) fn cover(&self, lease: &Lease, slot: u32, start: u64, end: u64) -> u64 {
        let since = self.busy_since(slot).map_or(start, |other| other.min(start));
        let reach = |covered: u64| (covered < end).then_some(end);
        let moved = self.account.covered.fetch_update(Ordering::AcqRel, Ordering::Acquire, reach);
        let Ok(covered) = moved else { return 0 };
        let used = lease.own_part(since.max(covered).min(end), end, self.busy.count());
        self.account.charged.fetch_add(used, Ordering::AcqRel);
        used
    }

    /// What was counted as charged by [`Tenant::cover`] is charged differently.
    pub(super) fn correct(&self, counted: u64, charged: u64) {
        if charged != counted {
            self.account.charged.fetch_add(charged.wrapping_sub(counted), Ordering::AcqRel);
        }
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::super::Enforcement;
    use super::*;

    const MS: u64 = 1_000_000;
    const TERMS: Terms =
        Terms { cores: 30, enforcement: Enforcement::Hard, priority: super::super::Priority::Normal };

    #[test]
    fn an_idle_share_saves_less_than_a_waiting_one() {
        let tenant = Tenant::default();
        assert_eq!(tenant.balance(3_600_000 * MS, TERMS, false), tuning::SAVED_IDLE);
        tenant.waiting.set(1, true);
        assert_eq!(tenant.balance(3_700_000 * MS, TERMS, false), tuning::SAVED_WAITING);
    }

    #[test]
    fn a_refill_leaves_no_remainder() {
        let tenant = Tenant::default();
        tenant.busy.set(0, true);
        tenant.account.refilled.store(1_000, Ordering::Relaxed);
        for now in 1_000..101_000 {
            tenant.balance(now, TERMS, false);
        }
        assert_eq!(tenant.balance(101_000, TERMS, false), 30_000);
    }

    #[test]
    fn a_new_percentage_changes_no_credit_from_before() {
        let tenant = Tenant::default();
        tenant.busy.set(0, true);
        tenant.account.refilled.store(MS, Ordering::Relaxed);
        assert_eq!(tenant.balance(11 * MS, TERMS, false), 3 * MS as i64);
        assert_eq!(tenant.balance(21 * MS, Terms { cores: 60, ..TERMS }, false), 9 * MS as i64);
    }

    #[test]
    fn processes_that_take_turns_are_charged_for_the_union() {
        let (tenant, lease) = (Tenant::default(), Lease::default());
        tenant.set_busy(0, Some(100));
        tenant.set_busy(1, Some(150));
        // The later one ends first.
        assert_eq!(tenant.cover(&lease, 1, 150, 170), 70);
        tenant.set_busy(1, None);
        assert_eq!(tenant.cover(&lease, 0, 100, 200), 30);
        assert_eq!(tenant.cover(&lease, 1, 160, 190), 0);
    }

    #[test]
    fn an_elastic_share_alone_runs_up_no_debt() {
        let tenant = Tenant::default();
        let terms = Terms { enforcement: Enforcement::Elastic, ..TERMS };
        tenant.credit(-1_000 * MS as i64);
        assert_eq!(tenant.balance(MS, terms, false), tuning::DEBT_ALONE);
    }
}
