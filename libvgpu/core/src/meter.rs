//! How long a kernel takes: estimates by (function, grid, block), kept up by measured launches.
//!
//! Every launch is charged its estimate at once and every measured one is corrected to what it took. A function that was
//! never measured is launched alone: nothing of its kind follows until the first measurement is in, or a program could
//! queue seconds of work at the price of a guess. Long kernels are all measured; short ones every [`SAMPLE`]th time,
//! because two events cost more than a short kernel is worth.

use std::collections::HashMap;

/// Of the kernels shorter than [`SHORT`], each how manyth is measured.
pub const SAMPLE: u32 = 8;
/// In nanoseconds.
pub const SHORT: u64 = 100_000;
/// Charged for a launch that was never measured, in nanoseconds.
pub const FIRST_SIGHT: u64 = 20_000;

/// What makes two launches alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// CUfunction.
    pub function: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
}

#[derive(Debug, Clone, Copy, Default)]
struct Estimate {
    nanos: u64,
    measured: bool,
    under_way: bool,
    since: u32,
}

/// What to do with a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Charge this; no events.
    Charge(u64),
    /// Charge this and measure it.
    Measure(u64),
    /// Its first measurement is under way: wait for it.
    Wait,
}

/// Estimates of one GPU in one process.
#[derive(Debug, Default)]
pub struct Meter {
    estimates: HashMap<Key, Estimate>,
}

impl Meter {
    /// For the next launch of a kind.
    pub fn plan(&mut self, key: Key) -> Plan {
        let estimate = self.estimates.entry(key).or_default();
        if !estimate.measured {
            if estimate.under_way {
                return Plan::Wait;
            }
            estimate.under_way = true;
            return Plan::Measure(FIRST_SIGHT);
        }
        estimate.since = estimate.since.wrapping_add(1);
        if estimate.nanos >= SHORT || estimate.since.is_multiple_of(SAMPLE) {
            Plan::Measure(estimate.nanos)
        } else {
            Plan::Charge(estimate.nanos)
        }
    }

    /// A measured launch: gives by how much its charge was too low (positive) or too high.
    pub fn measured(&mut self, key: Key, charged: u64, took: u64) -> i64 {
        let estimate = self.estimates.entry(key).or_default();
        let weighted = estimate.nanos.saturating_mul(7).saturating_add(took) / 8;
        estimate.nanos = if estimate.measured { weighted } else { took };
        estimate.measured = true;
        estimate.under_way = false;
        i64::try_from(took).unwrap_or(i64::MAX).saturating_sub(i64::try_from(charged).unwrap_or(i64::MAX))
    }

    /// A measurement that came to nothing (its context is gone).
    pub fn lost(&mut self, key: Key) {
        if let Some(estimate) = self.estimates.get_mut(&key) {
            estimate.under_way = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { function: 1, grid: [1; 3], block: [32, 1, 1] };

    #[test]
    fn the_second_launch_of_an_unknown_kind_waits_for_the_first() {
        let mut meter = Meter::default();
        assert_eq!(meter.plan(KEY), Plan::Measure(FIRST_SIGHT));
        assert_eq!(meter.plan(KEY), Plan::Wait);
        assert_eq!(meter.measured(KEY, FIRST_SIGHT, 5_000_000), 4_980_000);
        assert_eq!(meter.plan(KEY), Plan::Measure(5_000_000));
    }

    #[test]
    fn short_kernels_are_measured_now_and_then() {
        let mut meter = Meter::default();
        meter.plan(KEY);
        meter.measured(KEY, FIRST_SIGHT, 10_000);
        let plans: Vec<Plan> = (0..SAMPLE).map(|_| meter.plan(KEY)).collect();
        assert_eq!(plans.iter().filter(|p| matches!(p, Plan::Measure(_))).count(), 1);
    }

    #[test]
    fn a_lost_measurement_is_tried_again() {
        let mut meter = Meter::default();
        meter.plan(KEY);
        meter.lost(KEY);
        assert_eq!(meter.plan(KEY), Plan::Measure(FIRST_SIGHT));
    }
}
