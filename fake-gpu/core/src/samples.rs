//! Utilisation as NVML gives it: the mean of the last whole second, in whole percent.
//!
//! Busy time is kept by intervals of a sixth of a second. A kernel under way is counted as far as it got, so its end may
//! lie far ahead, or be cut short by its process's death.

use crate::layout::{SAMPLE, SAMPLES, Samples};

/// Intervals utilisation is the mean of; together a second.
const WINDOW: u64 = 6;

impl Samples {
    /// A kernel runs from `from` until `until`. The one before has ended.
    pub(crate) fn begin(&mut self, from: u64, until: u64) {
        self.settle(from);
        (self.open_from, self.open_until) = (from, until);
    }

    /// The kernel under way, if any, ends now.
    pub(crate) fn cut(&mut self, now: u64) {
        self.open_until = self.open_until.min(now.max(self.open_from));
    }

    /// Counts the kernel under way up to `now`.
    fn settle(&mut self, now: u64) {
        let until = self.open_until.min(now);
        // Of a long kernel only the latest intervals are kept.
        let kept = (until / SAMPLE).saturating_sub(SAMPLES as u64 - 1) * SAMPLE;
        let mut from = self.open_from.max(kept);
        while from < until {
            let number = from / SAMPLE;
            let end = until.min((number + 1) * SAMPLE);
            let sample = &mut self.ring[number as usize % SAMPLES];
            if sample.number != number {
                (sample.number, sample.busy) = (number, 0);
            }
            sample.busy += end - from;
            from = end;
        }
        self.open_from = self.open_from.max(until);
    }

    /// Percent of the last whole second, 0..=100.
    pub fn percent(&mut self, now: u64) -> u32 {
        self.settle(now);
        let last = now / SAMPLE;
        let counts = |number: u64| number < last && number + WINDOW >= last;
        let busy: u64 = self.ring.iter().filter(|s| counts(s.number)).map(|s| s.busy).sum();
        (busy * 100 / (WINDOW * SAMPLE)).min(100) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Sample;

    const EMPTY: Samples =
        Samples { open_from: 0, open_until: 0, ring: [Sample { number: 0, busy: 0 }; SAMPLES] };
    const SECOND: u64 = WINDOW * SAMPLE;

    #[test]
    fn the_last_whole_second_counts_and_no_older_one() {
        let mut samples = EMPTY;
        samples.begin(10 * SECOND, 10 * SECOND + SECOND / 4);
        assert_eq!(samples.percent(11 * SECOND), 25);
        assert_eq!(samples.percent(12 * SECOND), 0);
    }

    #[test]
    fn a_kernel_under_way_counts_as_far_as_it_got() {
        let mut samples = EMPTY;
        samples.begin(10 * SECOND, 100 * SECOND);
        assert_eq!(samples.percent(10 * SECOND + SECOND / 2), 50);
        assert_eq!(samples.percent(60 * SECOND), 100);
        samples.cut(60 * SECOND);
        assert_eq!(samples.percent(60 * SECOND + SECOND / 2), 50);
    }

    #[test]
    fn short_kernels_add_up() {
        let mut samples = EMPTY;
        for n in 0..100 {
            let from = 10 * SECOND + n * SECOND / 100;
            samples.begin(from, from + SECOND / 200);
        }
        assert!((49..=50).contains(&samples.percent(11 * SECOND)));
    }
}
