//! A checkpoint that is damaged or gone: what is prepared is found in the CDI specs of the claims and in the API.
//!
//! Every claim with a limited share has a spec with its entry in it, as of this boot. A claim of whole GPUs has none; it is
//! taken from the API when a pod of this node has it reserved ([`State::adopt`]), so that its GPUs stay taken. After a
//! reboot there are no specs, and nothing runs: the kubelet prepares again what its pods need.

use super::State;
use crate::cdi;
use crate::checkpoint::{Checkpoint, CheckpointError, set_aside_path};
use crate::claim::{ClaimRef, WantedShare};
use crate::error::PrepareError;

impl State {
    /// For a checkpoint whose bytes are not what was written: it is kept under another name, for a person to look at.
    pub(super) fn rebuild_damaged(&self, error: &CheckpointError) -> Result<Checkpoint, CheckpointError> {
        let path = self.paths.checkpoint();
        let aside = set_aside_path(&path);
        // A copy, then the new one over the old: killed in between, the old one is still there to be noticed.
        let copied = std::fs::read(&path).and_then(|bytes| self.host.replace(&aside, &bytes, 0o600));
        copied.map_err(|source| CheckpointError::Io { action: "set aside", path, source })?;
        self.rebuild(&format!("{error}; it is kept as {}", aside.display()))
    }

    /// For a checkpoint that is not there: on a new node nothing is prepared either.
    pub(super) fn rebuild_missing(&self) -> Result<Checkpoint, CheckpointError> {
        if cdi::claim::recorded(&self.paths.cdi_dir).is_empty() {
            return Ok(Checkpoint::default());
        }
        self.rebuild(&format!("{} is gone", self.paths.checkpoint().display()))
    }

    fn rebuild(&self, why: &str) -> Result<Checkpoint, CheckpointError> {
        let claims = cdi::claim::recorded(&self.paths.cdi_dir);
        let mut checkpoint = Checkpoint { claims, ..Checkpoint::default() };
        self.store(&mut checkpoint)?;
        let found = checkpoint.claims.len();
        let message = format!("{why}; {found} prepared claims were found again in their CDI specs");
        tracing::error!(message);
        // Nobody listening means that the plugin is going down; the log has it.
        let _ = self.damage.send(message);
        Ok(checkpoint)
    }

    /// Takes claims of whole GPUs into a rebuilt checkpoint, given what the API says pods of this node have reserved.
    /// Claims with a limited share are left out: without a spec they are not prepared. Returns how many were new.
    pub fn adopt(&self, reserved: &[(ClaimRef, Vec<WantedShare>)]) -> Result<usize, PrepareError> {
        let _held = self.held()?;
        let mut checkpoint = self.load()?;
        let discovery = self.discovery.borrow().clone();
        let before = checkpoint.claims.len();
        for (claim, wanted) in reserved {
            claim.check()?;
            if checkpoint.claims.contains_key(&claim.uid) {
                continue;
            }
            match Self::entry(claim, wanted, &discovery, &self.node) {
                Ok(entry) if entry.shares.iter().all(|s| s.exclusive) => {
                    checkpoint.claims.insert(claim.uid.clone(), entry);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%claim, %error, "a reserved claim cannot be taken over"),
            }
        }
        let adopted = checkpoint.claims.len() - before;
        if adopted > 0 {
            self.store(&mut checkpoint)?;
        }
        Ok(adopted)
    }
}
