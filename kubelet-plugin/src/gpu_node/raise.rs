//! When to ask for slices again.

use std::time::Duration;

use tokio::time::Instant;

/// After a registration or a deletion the kubelet may still be wiping; a moment saves publishing twice.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two asks without a slice in between: doubled each time, up to [`MOST`]. It only bounds a quarrel with whoever
/// keeps deleting, since asking again is right as long as the slices are missing.
const LEAST: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(300);
/// What an answer may take. A controller that took the ask for answered, because it had not yet seen the slices go, is
/// asked once more after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers the asks since slices were last seen.
#[derive(Debug, Clone, Default)]
pub struct RaiseRule {
    last: Option<Instant>,
    asks: u32,
}

impl RaiseRule {
    /// Slices are there.
    pub fn present(&mut self) {
        self.asks = 0;
    }

    /// The generation was raised.
    pub fn raised(&mut self, now: Instant) {
        self.last = Some(now);
        self.asks = self.asks.saturating_add(1);
    }

    /// When to raise the generation; `None`: not as things are.
    ///
    /// `owed`: the controller has not answered the current generation yet, so asking again soon would say nothing new.
    /// `offers`: there is something to publish. Generation 0 says "never registered" and is left at once.
    pub fn due(
        &self,
        registered_since: Option<Instant>,
        missing_since: Option<Instant>,
        generation: i64,
        owed: bool,
        offers: bool,
    ) -> Option<Instant> {
        let settled = registered_since?.max(missing_since?) + SETTLE;
        if generation == 0 {
            return Some(settled);
        }
        if !offers {
            return None;
        }
        if owed {
            let asked = self.last.map_or(settled, |last| last.max(settled));
            return Some(asked + PATIENCE.max(self.pause()));
        }
        let again = self.last.filter(|_| self.asks > 0).map(|last| last + self.pause());
        Some(again.map_or(settled, |again| settled.max(again)))
    }

    fn pause(&self) -> Duration {
        LEAST.saturating_mul(1 << self.asks.saturating_sub(1).min(16)).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_asked_for_before_the_registration_or_while_slices_are_there() {
        let (rule, t) = (RaiseRule::default(), Instant::now());
        assert_eq!(rule.due(None, Some(t), 0, false, true), None);
        assert_eq!(rule.due(Some(t), None, 1, false, true), None);
    }

    #[test]
    fn the_first_registration_is_told_even_without_gpus() {
        let t = Instant::now();
        assert_eq!(RaiseRule::default().due(Some(t), Some(t), 0, false, false), Some(t + SETTLE));
    }

    #[test]
    fn a_wipe_before_or_after_the_registration_is_answered_once_it_settles() {
        let (rule, t) = (RaiseRule::default(), Instant::now());
        // Wiped first, then registered; and the other way round.
        assert_eq!(rule.due(Some(t + 3 * SECOND), Some(t), 4, false, true), Some(t + 4 * SECOND));
        assert_eq!(rule.due(Some(t), Some(t + 3 * SECOND), 4, false, true), Some(t + 4 * SECOND));
    }

    #[test]
    fn a_controller_that_has_not_answered_yet_is_asked_again_after_a_while() {
        let (mut rule, t) = (RaiseRule::default(), Instant::now());
        let due = |rule: &RaiseRule| rule.due(Some(t), Some(t), 4, true, true);
        assert_eq!(due(&rule), Some(t + SETTLE + PATIENCE));
        rule.raised(t + 10 * SECOND);
        assert_eq!(due(&rule), Some(t + 10 * SECOND + PATIENCE));
        for _ in 0..40 {
            rule.raised(t + 10 * SECOND);
        }
        assert_eq!(due(&rule), Some(t + 10 * SECOND + MOST));
    }

    #[test]
    fn a_node_with_nothing_to_publish_asks_for_nothing() {
        let t = Instant::now();
        assert_eq!(RaiseRule::default().due(Some(t), Some(t), 4, false, false), None);
        assert_eq!(RaiseRule::default().due(Some(t), Some(t), 4, true, false), None);
    }

    #[test]
    fn asks_in_vain_grow_rarer_and_a_slice_forgets_them() {
        let (mut rule, t) = (RaiseRule::default(), Instant::now());
        let due = |rule: &RaiseRule| rule.due(Some(t), Some(t), 4, false, true).unwrap();
        rule.raised(t + 10 * SECOND);
        assert_eq!(due(&rule), t + 12 * SECOND);
        rule.raised(t + 12 * SECOND);
        assert_eq!(due(&rule), t + 16 * SECOND);
        for _ in 0..40 {
            rule.raised(t + 20 * SECOND);
        }
        assert_eq!(due(&rule), t + 20 * SECOND + MOST);
        rule.present();
        assert_eq!(due(&rule), t + SECOND);
    }
}
