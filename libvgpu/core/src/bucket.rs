//! The compute bucket of a share: GPU nanoseconds, refilled at the share's percentage.
//!
//! One word: the moment, in nanoseconds of the monotonic clock, at which everything charged so far is paid for. A charge
//! of *c* GPU nanoseconds at *p* percent moves it on by *c x 100 / p*. It never lies further back than [`BURST`], so an
//! idle share saves up no more than that. A share may launch while the moment is past: a long kernel goes into debt and
//! the debt is waited out, which makes the mean exact whatever the kernels' length.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an idle share can save up, in wall nanoseconds.
pub const BURST: u64 = 40_000_000;

/// Charges if the share may launch now; otherwise gives the moment to ask again.
///
/// # Errors
/// Nanoseconds of the clock that `now` is of.
pub fn draw(bucket: &AtomicU64, now: u64, gpu_nanos: u64, percent: u32) -> Result<(), u64> {
    let mut paid = bucket.load(Ordering::Relaxed);
    loop {
        if paid > now {
            return Err(paid);
        }
        let next = paid.max(now.saturating_sub(BURST)).saturating_add(wall(gpu_nanos, percent));
        match bucket.compare_exchange_weak(paid, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(found) => paid = found,
        }
    }
}

/// Corrects an earlier charge by what was measured: positive is more.
pub fn correct(bucket: &AtomicU64, gpu_nanos: i64, percent: u32) {
    let by = wall(gpu_nanos.unsigned_abs(), percent);
    let moved =
        |paid: u64| Some(if gpu_nanos < 0 { paid.saturating_sub(by) } else { paid.saturating_add(by) });
    // The closure never refuses.
    let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
}

/// Wall time in which a share of so many percent earns so much GPU time.
fn wall(gpu_nanos: u64, percent: u32) -> u64 {
    gpu_nanos.saturating_mul(100) / u64::from(percent.clamp(1, 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_mean_is_the_share_whatever_the_kernels_length() {
        for length in [MS / 10, 5 * MS, 300 * MS] {
            let bucket = AtomicU64::new(0);
            let (mut now, mut used) = (1_000 * MS, 0);
            while now < 61_000 * MS {
                match draw(&bucket, now, length, 30) {
                    Ok(()) => used += length,
                    Err(again) => now = again,
                }
            }
            let percent = used as f64 / 60_000.0 / MS as f64 * 100.0;
            assert!((29.7..30.6).contains(&percent), "{length} ns kernels: {percent}");
        }
    }

    #[test]
    fn an_idle_share_saves_up_no_more_than_the_burst() {
        let bucket = AtomicU64::new(0);
        let now = 3_600_000 * MS;
        let mut free = 0;
        while draw(&bucket, now, MS, 50).is_ok() {
            free += 1;
        }
        assert_eq!(free, BURST / 2 / MS + 1);
    }

    #[test]
    fn a_correction_moves_the_moment_both_ways() {
        let bucket = AtomicU64::new(1_000);
        correct(&bucket, 30, 30);
        assert_eq!(bucket.load(Ordering::Relaxed), 1_100);
        correct(&bucket, -60, 30);
        assert_eq!(bucket.load(Ordering::Relaxed), 900);
    }
}
