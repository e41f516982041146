//! Undoes a claim: CDI spec, share files, checkpoint, in this order, so that a container started meanwhile fails for want of
//! its CDI device and never runs without its limits.

use super::State;
use crate::cdi;
use crate::checkpoint::Checkpoint;
use crate::claim::ClaimRef;
use crate::error::PrepareError;
use crate::share_files::{self, SharePaths};

impl State {
    /// Removes everything of a claim. One that was never prepared is fine: there may be files of a Prepare that was killed.
    pub fn unprepare(&self, claim: &ClaimRef) -> Result<(), PrepareError> {
        claim.check()?;
        let _held = self.held()?;
        let mut checkpoint = self.load()?;
        self.undo(&mut checkpoint, &claim.uid)
    }

    /// As [`State::unprepare`], but refuses while a process still holds a slot of one of its shares. Returns whether it is gone.
    pub fn unprepare_if_idle(&self, uid: &str) -> Result<bool, PrepareError> {
        let _held = self.held()?;
        let mut checkpoint = self.load()?;
        let Some(claim) = checkpoint.claims.get(uid) else { return Ok(true) };
        let busy = claim.shares.iter().filter(|s| !s.exclusive).any(|share| {
            let paths = SharePaths::new(&self.paths.share_dir, uid, &share.share_id);
            share_files::read_usage(&paths).is_ok_and(|usage| !usage.processes.is_empty())
        });
        if !busy {
            self.undo(&mut checkpoint, uid)?;
        }
        Ok(!busy)
    }

    /// Removes a claim's files and its entry. Call with the lock held.
    pub(super) fn undo(&self, checkpoint: &mut Checkpoint, uid: &str) -> Result<(), PrepareError> {
        let path = cdi::claim_path(&self.paths.cdi_dir, uid);
        if path.exists() {
            self.host.remove(&path).map_err(|source| PrepareError::Cdi { action: "remove", path, source })?;
        }
        share_files::remove_claim(&*self.host, &self.paths.share_dir, uid)?;
        let Some(gone) = checkpoint.claims.remove(uid) else { return Ok(()) };
        self.store(checkpoint)?;
        self.divide_again(checkpoint);
        self.drop_limiters(checkpoint, &gone.limiter);
        Ok(())
    }

    /// Removes versions of the limiter nobody uses, if `hash` is one. They only take room, so failing is no failure.
    fn drop_limiters(&self, checkpoint: &Checkpoint, hash: &str) {
        let current = self.discovery.borrow().limiter.as_ref().map(|i| i.hash.clone()).unwrap_or_default();
        if hash.is_empty() || hash == current || current.is_empty() {
            return;
        }
        let mut keep = Self::used_limiters(checkpoint);
        keep.insert(&current);
        if let Err(error) = self.limiter.remove_others(&*self.host, &keep) {
            tracing::warn!(%error, "an unused version of the limiter cannot be removed");
        }
    }
}
