//! Binpack: the fullest that still fits. Keeps whole GPUs and nodes free for requests that need them.

use super::{Fullness, Rank};

/// Fuller is better, then more tenants.
pub(super) fn rank(fullness: Fullness) -> Rank {
    (fullness.used.0.into(), fullness.shares.into())
}
