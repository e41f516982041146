//! Policies: how full candidates are ordered. One file each; all of them are listed here.

mod binpack;
mod spread;

use crate::placement::Score;

/// Order of candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Fullest first, the request included.
    Binpack,
    /// Emptiest first, the request included.
    Spread,
}

/// How full a node or GPU is with the request on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fullness {
    /// Mean of memory and cores in use.
    pub(crate) used: Score,
    /// Tenants.
    pub(crate) shares: u32,
}

/// What candidates are compared by: greater is better.
pub(crate) type Rank = (i64, i64);

/// Every policy by the name users write.
pub const POLICIES: [(&str, Policy); 2] = [("Binpack", Policy::Binpack), ("Spread", Policy::Spread)];

impl Policy {
    /// Ranks a candidate; equal ranks are told apart by name.
    pub(crate) fn rank(self, fullness: Fullness) -> Rank {
        match self {
            Self::Binpack => binpack::rank(fullness),
            Self::Spread => spread::rank(fullness),
        }
    }
}

impl Fullness {
    /// From what is used of what there is.
    pub(crate) fn new(memory: (u64, u64), cores: (u64, u64), shares: u32) -> Self {
        let part = |(used, total): (u64, u64)| {
            if total == 0 {
                0
            } else {
                (u128::from(used) * 1_000_000 / u128::from(total)).min(1_000_000) as u32
            }
        };
        Self { used: Score((part(memory) + part(cores)) / 2), shares }
    }
}
