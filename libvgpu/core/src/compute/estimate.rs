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

    /// Takes in `launches` of one kind that took so long together.
    pub fn learn(&mut self, key: Key, launches: u32, nanos: u64) {
        let each = (nanos / u64::from(launches.max(1))).max(1);
        let estimate = self.0.entry(key).or_insert(Estimate { mean: each, seen: 0 });
        estimate.mean =
            estimate.mean.saturating_mul(tuning::LEARNING - 1).saturating_add(each) / tuning::LEARNING;
        estimate.seen = estimate.seen.saturating_add(launches);
    }
}

#[cfg(test)]
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
