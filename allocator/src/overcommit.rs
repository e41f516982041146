//! Promising more of a GPU than it has, to those who let that happen to them.
//!
//! What firm shares hold is there for them alone. What they leave is promised to the others up to a factor: `hard` taken by
//! firm shares, `soft` promised to the others and a factor of `percent` / 100 fit a GPU of `capacity` if
//! `hard + soft x 100 / percent <= capacity`. So of every soft share at least 100 / `percent` is there in the worst case.

/// How much of a GPU may be promised, in percent of what it has; 100 is no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overcommit {
    /// Of its memory.
    pub memory: u16,
    /// Of its time.
    pub cores: u16,
}

/// Which amounts of a share may be promised more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oversubscribed {
    /// Its memory.
    pub memory: bool,
    /// Its cores.
    pub cores: bool,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { memory: 100, cores: 100 }
    }
}

impl Overcommit {
    /// Whether there is more to promise than there is.
    pub(crate) fn is_any(self) -> bool {
        self.memory > 100 || self.cores > 100
    }
}

impl Oversubscribed {
    pub(crate) fn is_any(self) -> bool {
        self.memory || self.cores
    }
}

/// What `soft` takes of a GPU, rounded up.
pub(crate) fn charge(soft: u64, percent: u16) -> u64 {
    narrow((u128::from(soft) * 100).div_ceil(percent.max(100).into()))
}

/// What can still be promised softly where firm shares leave `left` and `soft` is promised.
pub(crate) fn room(left: u64, soft: u64, percent: u16) -> u64 {
    narrow(u128::from(left) * u128::from(percent.max(100)) / 100).saturating_sub(soft)
}

fn narrow(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_softly_takes_its_part_and_no_rounding_is_lost() {
        assert_eq!((charge(150, 150), charge(50, 150), charge(7, 100)), (100, 34, 7));
        // Three halves of a GPU fit one and a half.
        assert_eq!([0, 50, 100, 150].map(|soft| room(100, soft, 150)), [150, 100, 50, 0]);
        assert_eq!((room(40, 30, 150), room(0, 0, 200), room(10, 90, 200)), (30, 0, 0));
    }
}
