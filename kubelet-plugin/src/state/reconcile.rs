//! At start: what the checkpoint says is made so, and what it does not know is removed.
//!
//! CDI specs and share files lie on a tmpfs and are gone after a reboot; their claims are prepared again by the kubelet or
//! unprepared, and meanwhile their capacity stays taken. Files of running containers are left exactly as they are.

use std::collections::BTreeSet;

use super::State;
use super::quota::Quotas;
use crate::cdi;
use crate::error::PrepareError;
use crate::host;
use crate::share_files;

impl State {
    /// Repairs. A claim that cannot be repaired now is logged and repaired by its next Prepare.
    pub fn reconcile(&self) -> Result<(), PrepareError> {
        let _held = self.held()?;
        let mut checkpoint = self.load()?;
        let before = checkpoint.clone();
        let discovery = self.discovery.borrow().clone();
        let quotas = Quotas::of_all(&discovery, &checkpoint);
        let booted =
            host::boot_id().is_ok_and(|id| !checkpoint.boot_id.is_empty() && id != checkpoint.boot_id);
        if booted {
            tracing::info!(
                claims = checkpoint.claims.len(),
                "the node was rebooted: share files are made anew"
            );
        }
        for (uid, entry) in &mut checkpoint.claims {
            if let Err(error) = self.realise(uid, entry, &discovery, &quotas) {
                let claim = format!("{}/{}", entry.namespace, entry.name);
                tracing::warn!(claim, uid, %error, "a prepared claim cannot be repaired yet");
            }
        }
        for uid in self.claim_folders().iter().filter(|uid| !checkpoint.claims.contains_key(*uid)) {
            tracing::info!(uid, "removing share files of a claim that is not prepared");
            if let Err(error) = share_files::remove_claim(&*self.host, &self.paths.share_dir, uid) {
                tracing::warn!(uid, %error, "share files nobody uses cannot be removed");
            }
        }
        if let Err(error) = self.host.remove(&host::temporary(&self.paths.checkpoint())) {
            tracing::warn!(%error, "a half-written checkpoint cannot be removed");
        }
        self.remove_orphan_specs(&checkpoint.claims.keys().map(String::as_str).collect())?;
        // Written even when nothing is prepared: from now on a checkpoint that is not there was lost.
        if checkpoint != before || booted || !self.paths.checkpoint().exists() {
            self.store(&mut checkpoint)?;
        }
        if let Some(current) = &discovery.limiter {
            let mut keep = Self::used_limiters(&checkpoint);
            keep.insert(&current.hash);
            if let Err(error) = self.limiter.remove_others(&*self.host, &keep) {
                tracing::warn!(%error, "an unused version of the limiter cannot be removed");
            }
        }
        Ok(())
    }

    /// Specs of claims that are not prepared, and what a killed write left behind. Other drivers' files are not touched.
    fn remove_orphan_specs(&self, claims: &BTreeSet<&str>) -> Result<(), PrepareError> {
        for entry in std::fs::read_dir(&self.paths.cdi_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let half = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
            let orphan = match (half, cdi::claim_of(&name)) {
                (Some(whole), _) => cdi::claim_of(whole).is_some(),
                (None, Some(uid)) => !claims.contains(uid),
                (None, None) => false,
            };
            if orphan {
                let path = entry.path();
                tracing::info!(path = %path.display(), "removing a CDI spec of a claim that is not prepared");
                self.host.remove(&path).map_err(|source| PrepareError::Cdi {
                    action: "remove",
                    path,
                    source,
                })?;
            }
        }
        Ok(())
    }
}
