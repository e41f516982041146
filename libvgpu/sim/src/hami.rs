//! HAMi-core's compute limiter, for comparison: a bucket of grid blocks, fed every 120 ms from NVML's utilisation.
//!
//! Re-implemented from its description: a launch takes its blocks from a bucket that a watcher of each process refills by
//! a share that grows while the container's utilisation is below the limit and shrinks while it is above. A launch with
//! an empty bucket sleeps 10 ms. Every process has its own, made with the limit
//! it finds when it starts: a limit that is changed later does not act.

use crate::{MS, Nanos};

/// Between two looks at the utilisation.
pub const WATCH: Nanos = 120 * MS;
/// Between two looks at an empty bucket.
pub const NAP: Nanos = 10 * MS;
/// GPU time of a block, which decides what the method makes of a kernel.
pub const BLOCK: Nanos = 450;

const PROCESSORS: i64 = 108;
const THREADS: i64 = 2_048;

/// One process's limiter.
#[derive(Debug)]
pub struct Hami {
    limit: i64,
    total: i64,
    tokens: i64,
    share: i64,
}

impl Hami {
    /// With a limit in percent; 0 or 100 is none.
    pub fn new(limit: u32) -> Self {
        let total = THREADS * PROCESSORS * 32;
        Self { limit: limit.into(), total, tokens: 0, share: 0 }
    }

    /// Whether a kernel may be launched; takes its blocks.
    pub fn draw(&mut self, length: Nanos) -> bool {
        if self.limit == 0 || self.limit >= 100 {
            return true;
        }
        if self.tokens < 0 {
            return false;
        }
        self.tokens -= i64::try_from((length / BLOCK).max(1)).unwrap_or(i64::MAX);
        true
    }

    /// The watcher's step, with the container's utilisation in percent as NVML has it.
    pub fn watch(&mut self, utilisation: i64) {
        if self.limit == 0 || self.limit >= 100 {
            return;
        }
        if self.share == self.total && self.tokens < 0 {
            self.total *= 2;
            self.share = self.total;
        }
        let distance = (self.limit - utilisation).abs().max(5);
        let mut step = PROCESSORS * PROCESSORS * THREADS * distance / 2_560;
        if distance > self.limit / 2 {
            step = step * distance * 2 / (self.limit + 1);
        }
        self.share = if utilisation <= self.limit {
            (self.share + step).min(self.total)
        } else {
            (self.share - step).max(0)
        };
        self.tokens = (self.tokens + self.share).min(self.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_below_the_limit_and_shrinks_above() {
        let mut hami = Hami::new(50);
        hami.watch(0);
        let grown = hami.share;
        assert!(grown > 0);
        hami.watch(90);
        assert!(hami.share < grown);
    }

    #[test]
    fn an_empty_bucket_holds_launches_back() {
        let mut hami = Hami::new(50);
        assert!(hami.draw(MS));
        assert!(!hami.draw(MS));
        hami.watch(0);
        assert!(hami.draw(MS));
    }
}
