//! Utilisation as NVML gives it: the mean of the last whole second, in whole percent.
//!
//! Busy time is kept by intervals of a sixth of a second.

use crate::layout::{SAMPLE, SAMPLES, Samples};

/// Intervals utilisation is the mean of; together a second.
const WINDOW: u64 = 6;

/// A kernel ran from `from` until `until`.
pub(crate) fn add(samples: &mut Samples, from: u64, until: u64) {
    // Of a long run only the latest intervals are kept.
    let kept = (until / SAMPLE).saturating_sub(SAMPLES as u64 - 1) * SAMPLE;
    let mut from = from.max(kept);
    while from < until {
        let number = from / SAMPLE;
        let end = until.min((number + 1) * SAMPLE);
        let sample = &mut samples[number as usize % SAMPLES];
        if sample.number != number {
            (sample.number, sample.busy) = (number, 0);
        }
        sample.busy += end - from;
        from = end;
    }
}

/// Percent of the last whole second, 0..=100.
pub(crate) fn percent(samples: &Samples, now: u64) -> u32 {
    let last = now / SAMPLE;
    let counts = |number: u64| number < last && number + WINDOW >= last;
    let busy: u64 = samples.iter().filter(|s| counts(s.number)).map(|s| s.busy).sum();
    (busy * 100 / (WINDOW * SAMPLE)).min(100) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Sample;

    const EMPTY: Samples = [Sample { number: 0, busy: 0 }; SAMPLES];
    const SECOND: u64 = WINDOW * SAMPLE;

    #[test]
    fn the_last_whole_second_counts_and_no_older_one() {
        let mut samples = EMPTY;
        add(&mut samples, 10 * SECOND, 10 * SECOND + SECOND / 4);
        assert_eq!(percent(&samples, 11 * SECOND), 25);
        assert_eq!(percent(&samples, 12 * SECOND), 0);
    }

    #[test]
    fn of_a_long_run_the_end_counts() {
        let mut samples = EMPTY;
        add(&mut samples, 10 * SECOND, 60 * SECOND);
        assert_eq!(percent(&samples, 60 * SECOND), 100);
        assert_eq!(percent(&samples, 60 * SECOND + SECOND / 2), 50);
    }

    #[test]
    fn short_kernels_add_up() {
        let mut samples = EMPTY;
        for n in 0..100 {
            let from = 10 * SECOND + n * SECOND / 100;
            add(&mut samples, from, from + SECOND / 200);
        }
        assert!((49..=50).contains(&percent(&samples, 11 * SECOND)));
    }
}
