//! How much of a share whose memory may lie in the host's is on the GPU.
//!
//! Shares that may not have theirs whole. The others divide what those leave, in proportion to their memory, and have all of
//! theirs while that is enough. So it changes whenever a share comes or goes, and `limits` of the others is rewritten: before
//! a new share gets its files, and after one that went has lost them.

use std::collections::BTreeMap;
use std::sync::Arc;

use vgpu_api::Oversubscription;
use vgpu_core::limits::Limits;

use super::State;
use super::prepare::{capacity, limits};
use crate::checkpoint::{Checkpoint, PreparedShare};
use crate::discovery::Discovery;
use crate::error::PrepareError;
use crate::share_files::{self, SharePaths};

/// The driver moves whole blocks of this size.
const BLOCK: u64 = 2 << 20;

/// What the shares of a GPU hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    /// Bytes that can be shared out.
    capacity: u64,
    /// Bytes of shares that are on the GPU whole.
    fixed: u64,
    /// Bytes of the others.
    movable: u64,
}

/// How the memory of each GPU is divided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Quotas(BTreeMap<String, Held>);

impl Quotas {
    /// As these shares divide it.
    pub(super) fn of<'a>(discovery: &Discovery, shares: impl Iterator<Item = &'a PreparedShare>) -> Self {
        let mut quotas = Self::default();
        for share in shares {
            let held = quotas.0.entry(share.uuid.clone()).or_default();
            match share.oversubscription {
                Oversubscription::Forbidden => held.fixed = held.fixed.saturating_add(share.memory),
                Oversubscription::Allowed => held.movable = held.movable.saturating_add(share.memory),
            }
        }
        for gpu in &discovery.gpus {
            if let Some(held) = quotas.0.get_mut(&gpu.uuid) {
                held.capacity = capacity(gpu);
            }
        }
        quotas
    }

    /// Of everything prepared.
    pub(super) fn of_all(discovery: &Discovery, checkpoint: &Checkpoint) -> Self {
        Self::of(discovery, checkpoint.claims.values().flat_map(|claim| &claim.shares))
    }

    /// Whether it is known what there is to divide: not while the driver is away.
    fn knows(&self, share: &PreparedShare) -> bool {
        self.0.get(&share.uuid).is_some_and(|held| held.capacity > 0)
    }

    /// Bytes of a share on the GPU; 0 for one that has all of its memory there for ever.
    pub(super) fn resident(&self, share: &PreparedShare) -> u64 {
        let held = self.0.get(&share.uuid).copied().unwrap_or_default();
        let rest = held.capacity.saturating_sub(held.fixed);
        match share.oversubscription {
            Oversubscription::Forbidden => 0,
            Oversubscription::Allowed if held.movable <= rest || held.capacity == 0 => share.memory,
            Oversubscription::Allowed => {
                let part = u128::from(rest) * u128::from(share.memory) / u128::from(held.movable);
                // Never 0, which would mean all of it.
                (u64::try_from(part).unwrap_or(u64::MAX) / BLOCK * BLOCK).max(BLOCK)
            }
        }
    }
}

impl State {
    /// What the limiter is told of a share. While nobody knows what the GPU has, its part stays as it was told last.
    pub(super) fn wanted(&self, paths: &SharePaths, share: &PreparedShare, quotas: &Quotas) -> Limits {
        let overhead = self.overhead_on(&share.uuid);
        let mut wanted = Limits { overhead, ..limits(share, quotas) };
        if wanted.is_movable()
            && !quotas.knows(share)
            && let Some(told) = share_files::told(paths).filter(Limits::is_movable)
        {
            wanted.resident = told.resident;
        }
        wanted
    }

    /// Rewrites `limits` of shares whose part has changed; those of claim `except` are made by the caller.
    pub(super) fn divide(
        &self,
        checkpoint: &Checkpoint,
        except: &str,
        quotas: &Quotas,
    ) -> Result<(), PrepareError> {
        for (uid, claim) in checkpoint.claims.iter().filter(|(uid, _)| *uid != except) {
            let movable = |share: &&PreparedShare| {
                !share.exclusive && share.oversubscription == Oversubscription::Allowed
            };
            for share in claim.shares.iter().filter(movable) {
                let paths = SharePaths::new(&self.paths.share_dir, uid, &share.share_id);
                // One without files gets them when it is repaired.
                if paths.limits.exists() {
                    share_files::ensure(&*self.host, &paths, &self.wanted(&paths, share, quotas))?;
                }
            }
        }
        Ok(())
    }

    /// The same when a claim has gone: what is left is divided among fewer. Failing to leaves them with less than could be.
    pub(super) fn divide_again(&self, checkpoint: &Checkpoint) {
        let discovery: Arc<Discovery> = self.discovery.borrow().clone();
        if let Err(error) = self.divide(checkpoint, "", &Quotas::of_all(&discovery, checkpoint)) {
            tracing::warn!(%error, "memory that became free is not divided among shares yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use vgpu_api::Gpu;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn share(memory: u64, oversubscription: Oversubscription) -> PreparedShare {
        PreparedShare { uuid: "GPU-1".into(), memory, oversubscription, ..PreparedShare::default() }
    }

    #[test]
    fn fixed_shares_come_first_and_the_others_divide_the_rest() {
        use Oversubscription::{Allowed, Forbidden};
        let gpu = Gpu { uuid: "GPU-1".into(), memory_mib: 16 << 10, ..Gpu::default() };
        let discovery = Discovery { gpus: vec![gpu], ..Discovery::default() };
        for (shares, want) in [
            (vec![(16, Forbidden)], vec![0]),
            (vec![(16, Allowed)], vec![16]),
            (vec![(4, Forbidden), (6, Allowed), (6, Allowed)], vec![0, 6, 6]),
            (vec![(4, Forbidden), (16, Allowed), (8, Allowed)], vec![0, 8, 4]),
            (vec![(20, Allowed)], vec![16]),
        ] {
            let shares: Vec<_> = shares.into_iter().map(|(gib, how)| share(gib * GIB, how)).collect();
            let quotas = Quotas::of(&discovery, shares.iter());
            let got: Vec<u64> = shares.iter().map(|share| quotas.resident(share) / GIB).collect();
            assert_eq!(got, want, "{shares:?}");
        }
        let all = [share(16 * GIB, Forbidden), share(GIB, Allowed)];
        assert_eq!(Quotas::of(&discovery, all.iter()).resident(&all[1]), BLOCK);
    }
}
