//! How long a launch is thought to take, by what is launched in which shape: a moving mean of what was measured.
//!
//! Never a minimum: a function with two lengths would then always be charged the short one.

use std::collections::HashMap;

use super::tuning;

/// What makes two launches alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// CUfunction or CUgraphExec.
    pub function: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
}

#[derive(Debug, Clone, Copy)]
struct Estimate {
    mean: u64,
    seen: u32,
    /// Launches still to be measured one by one, and how many the next loss makes of it.
    watched: u32,
    losses: u32,
    /// Epochs with launches on loan that were charged by estimate since the last that was measured.
    skipped: u32,
}

/// Estimates of one process, in nanoseconds.
#[derive(Debug, Default)]
pub struct Estimates(HashMap<Key, Estimate>);

impl Estimates {
    /// `None`: never measured.
    pub fn get(&self, key: &Key) -> Option<u64> {
        self.0.get(key).map(|e| e.mean)
    }

    /// How many launches of a kind may be in flight, if there is not yet reason to trust its estimate: as many as were
    /// measured. A function whose first launch happened to be short may be long the next time.
    pub fn trial(&self, key: &Key) -> Option<u32> {
        let seen = self.0.get(key).map_or(0, |e| e.seen);
        (seen < tuning::TRIAL).then_some(seen.max(1))
    }

    /// What a launch takes, if that is known well enough to lend some: not on trial and not watched.
    pub fn steady(&self, key: &Key) -> Option<u64> {
        self.0.get(key).filter(|e| e.seen >= tuning::TRIAL && e.watched == 0).map(|e| e.mean)
    }

    /// Whether a launch is to be measured by itself, because epochs that ended with its kind were lost.
    pub fn watch(&mut self, key: &Key) -> bool {
        let Some(estimate) = self.0.get_mut(key).filter(|e| e.watched > 0) else { return false };
        estimate.watched -= 1;
        true
    }

    /// An epoch that ended with this kind was never measured: the program let the GPU run dry before the epoch was full,
    /// as one does that waits for each launch. The more often that happens, the longer the kind is watched.
    pub fn lost(&mut self, key: &Key) {
        let Some(estimate) = self.0.get_mut(key) else { return };
        estimate.losses = estimate.losses.saturating_mul(2).clamp(tuning::WATCHED_MIN, tuning::WATCHED_MAX);
        estimate.watched = estimate.losses;
    }

    /// An epoch of this kind with launches on loan was charged by estimate: the GPU had run dry before it was full, or the
    /// program turned to something else. That is cheap and may go on for a while.
    pub fn skipped(&mut self, key: &Key) {
        let Some(estimate) = self.0.get_mut(key) else { return };
        estimate.skipped = estimate.skipped.saturating_add(1);
        if estimate.skipped >= tuning::SKIPPED {
            (estimate.skipped, estimate.watched) = (0, tuning::WATCHED_MIN);
        }
    }

    /// An epoch of this kind became full.
    pub fn filled(&mut self, key: &Key) {
        if let Some(estimate) = self.0.get_mut(key) {
            estimate.losses = 0;
        }
    }

    /// Takes in `launches` of one kind that took so long together.
    pub fn learn(&mut self, key: Key, launches: u32, nanos: u64) {
        let each = (nanos / u64::from(launches.max(1))).max(1);
        if self.0.len() >= tuning::KINDS && !self.0.contains_key(&key) {
            self.0.clear();
        }
        let fresh = Estimate { mean: each, seen: 0, watched: 0, losses: 0, skipped: 0 };
        let estimate = self.0.entry(key).or_insert(fresh);
        estimate.mean =
            estimate.mean.saturating_mul(tuning::LEARNING - 1).saturating_add(each) / tuning::LEARNING;
        estimate.seen = estimate.seen.saturating_add(launches);
        estimate.skipped = 0;
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    #[test]
    fn the_first_measurement_counts_whole_and_later_ones_a_part() {
        let (mut estimates, key) =
            (Estimates::default(), Key { function: 1, grid: [1; 3], block: [32, 1, 1] });
        estimates.learn(key, 10, 1_000);
        assert_eq!(estimates.get(&key), Some(100));
        estimates.learn(key, 1, 200);
        assert_eq!(estimates.get(&key), Some(120));
    }

    #[test]
    fn a_kind_is_watched_longer_with_every_loss_until_its_epochs_fill() {
        let (mut estimates, key) =
            (Estimates::default(), Key { function: 1, grid: [1; 3], block: [32, 1, 1] });
        estimates.learn(key, 1, 100);
        assert!(!estimates.watch(&key));
        let mut watched = || {
            estimates.lost(&key);
            std::iter::from_fn(|| estimates.watch(&key).then_some(())).count()
        };
        let (first, second) = (watched(), watched());
        assert_eq!((first, second), (tuning::WATCHED_MIN as usize, 2 * tuning::WATCHED_MIN as usize));
        estimates.filled(&key);
        estimates.lost(&key);
        assert_eq!(
            std::iter::from_fn(|| estimates.watch(&key).then_some(())).count(),
            tuning::WATCHED_MIN as usize
        );
    }

    #[test]
    fn no_more_kinds_are_remembered_than_there_is_room_for() {
        let mut estimates = Estimates::default();
        let key = |function| Key { function, grid: [1; 3], block: [32, 1, 1] };
        (0..=tuning::KINDS).for_each(|function| estimates.learn(key(function), 1, 100));
        assert_eq!((estimates.get(&key(tuning::KINDS)), estimates.0.len()), (Some(100), 1));
    }

    #[test]
    fn trust_grows_with_what_was_measured() {
        let (mut estimates, key) =
            (Estimates::default(), Key { function: 1, grid: [1; 3], block: [32, 1, 1] });
        assert_eq!(estimates.trial(&key), Some(1));
        estimates.learn(key, 3, 300);
        assert_eq!(estimates.trial(&key), Some(3));
        estimates.learn(key, tuning::TRIAL, 300);
        assert_eq!(estimates.trial(&key), None);
    }
}
