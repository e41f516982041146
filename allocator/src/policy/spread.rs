//! Spread: the one that stays emptiest. For tenants that must not slow each other down; it breaks up free space.

use super::{Fullness, Rank};

/// Emptier is better, then fewer tenants.
pub(super) fn rank(fullness: Fullness) -> Rank {
    (-i64::from(fullness.used.0), -i64::from(fullness.shares))
}
