//! Policies: how full candidates are ordered. One file each; all of them are listed here.

mod binpack;
mod spread;

use crate::placement::Score;

/// Order of candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Fullest first, the request included.
    Binpack,
    /// Emptiest first, the request included.
    Spread,
    /// Least loss for the mix of demands seen so far ([`crate::fragmentation`]); as Binpack until one is learnt.
    LeastFragmentation,
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
pub const POLICIES: [(&str, Policy); 3] = [
    ("Binpack", Policy::Binpack),
    ("Spread", Policy::Spread),
    ("LeastFragmentation", Policy::LeastFragmentation),
];

impl Policy {
    /// Ranks a candidate by how full it is; equal ranks are told apart by name.
    pub(crate) fn rank(self, fullness: Fullness) -> Rank {
        match self {
            Self::Binpack | Self::LeastFragmentation => binpack::rank(fullness),
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
