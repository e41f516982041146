//! Prepare and Unprepare: share files, CDI spec, checkpoint.
//!
//! Everything is keyed by the claim's UID and made from its allocation alone, so doing it again gives the same. Prepare
//! writes share files, then the claim's spec, then the checkpoint; Unprepare removes spec, files, then the entry. Killed
//! between any two, the kubelet asks again, and what it never asks about again is removed when the plugin starts: files
//! and specs that no checkpoint entry names. One file lock lets two instances stand side by side during an update.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use rustix::fs::{FlockOperation, flock};
use vgpu_api::{Gpu, MIB};

use crate::cdi::{LimiterFiles, Specs, gpu_id, share_id};
use crate::checkpoint::{Checkpoint, Claim, Claims, Loaded};
use crate::claim::{self, Share};
use crate::driver_spec::DriverSpec;
use crate::error::PrepareError;
use crate::file;
use crate::share::Shares;

/// One device of the answer to the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Main request name.
    pub request: String,
    /// Device name.
    pub device: String,
    /// The share.
    pub share_id: String,
    /// CDI ids, the GPU's first.
    pub cdi_ids: Vec<String>,
}

/// What of the node may change while the plugin runs.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// What makes them usable; absent while there is no driver.
    pub driver: Option<DriverSpec>,
}

/// The node's claims.
pub struct Node {
    name: String,
    specs: Specs,
    shares: Shares,
    limiter: LimiterFiles,
    checkpoint: Checkpoint,
    lock: PathBuf,
    claims: Mutex<Claims>,
    hardware: Mutex<Hardware>,
}

/// What was found at the start that somebody should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The checkpoint was damaged: where it is now and why.
    pub damaged: Option<String>,
    /// Claims whose leftovers were removed.
    pub removed: Vec<String>,
}

impl Node {
    /// Of a node, with nothing loaded yet.
    pub fn new(
        name: &str,
        specs: Specs,
        shares: Shares,
        limiter: LimiterFiles,
        checkpoint: Checkpoint,
        state: &std::path::Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            specs,
            shares,
            limiter,
            checkpoint,
            lock: state.join("lock"),
            claims: Mutex::default(),
            hardware: Mutex::new(Hardware { gpus: Vec::new(), driver: None }),
        }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hardware(&self) -> MutexGuard<'_, Hardware> {
        self.hardware.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock two instances share. It goes with the file, however this process ends.
    fn exclusive(&self) -> Result<File, PrepareError> {
        let file = File::create(&self.lock).map_err(PrepareError::io("open", &self.lock))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|e| PrepareError::io("lock", &self.lock)(e.into()))?;
        Ok(file)
    }

    /// Reads the checkpoint again: the other instance may have written it.
    fn reload(&self) -> Result<Option<String>, PrepareError> {
        match self.checkpoint.load()? {
            Loaded::Claims { claims, rebooted } => {
                if rebooted {
                    tracing::info!("the machine was started since the checkpoint was written");
                }
                *self.claims() = claims;
                Ok(None)
            }
            Loaded::SetAside { path, why } => {
                let found = self.specs.claims()?.into_iter().filter_map(|(uid, claim)| Some((uid, claim?)));
                *self.claims() = found.collect();
                self.checkpoint.store(&self.claims())?;
                Ok(Some(format!("the checkpoint was damaged ({why}) and is now {}", path.display())))
            }
        }
    }

    /// Takes over after a start: what is checkpointed is made whole, what is not is removed.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn recover(&self) -> Result<Findings, PrepareError> {
        let _lock = self.exclusive()?;
        let mut findings = Findings { damaged: self.reload()?, removed: Vec::new() };
        let claims = self.claims().clone();
        for (uid, claim) in &claims {
            self.make(uid, claim)?;
        }
        let left =
            self.shares.claims()?.into_iter().chain(self.specs.claims()?.into_iter().map(|(uid, _)| uid));
        for uid in left {
            if !claims.contains_key(&uid) && !findings.removed.contains(&uid) {
                self.specs.remove_claim(&uid)?;
                self.shares.remove(&uid)?;
                findings.removed.push(uid);
            }
        }
        Ok(findings)
    }

    /// Takes note of the hardware; the node's spec and the claims' follow the driver.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn set_hardware(&self, hardware: Hardware) -> Result<(), PrepareError> {
        let changed = hardware.driver != self.hardware().driver;
        let driver = hardware.driver.clone();
        *self.hardware() = hardware;
        if let Some(driver) = driver.filter(|_| changed) {
            self.specs.write_gpus(&driver)?;
            let _lock = self.exclusive()?;
            for (uid, claim) in &self.claims().clone() {
                self.make(uid, claim)?;
            }
        }
        Ok(())
    }

    /// Share files and spec of a claim. Doing it again changes nothing.
    fn make(&self, uid: &str, claim: &Claim) -> Result<(), PrepareError> {
        for share in claim.shares.iter().filter(|s| s.limited) {
            self.shares.create(uid, share)?;
        }
        let driver = self.hardware().driver.clone();
        match driver {
            Some(driver) => {
                let files = |share: &Share| self.shares.files(uid, &share.share_id);
                self.specs.write_claim(uid, claim, &driver, &self.limiter, &files)
            }
            // Without a driver nothing can start; the spec is written when it comes.
            None => Ok(()),
        }
    }

    /// Prepares an allocated claim.
    ///
    /// # Errors
    /// [`PrepareError`]; what was made is made again or removed later.
    pub fn prepare(&self, claim: &ResourceClaim) -> Result<Vec<Prepared>, PrepareError> {
        let uid = claim.uid().unwrap_or_default();
        let _lock = self.exclusive()?;
        self.reload()?;
        let known = self.claims().get(&uid).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => {
                let shares = claim::shares(claim, &self.name, &self.hardware().gpus)?;
                let entry = Claim {
                    namespace: claim.namespace().unwrap_or_default(),
                    name: claim.name_any(),
                    shares,
                };
                self.check_room(&entry)?;
                entry
            }
        };
        self.make(&uid, &entry)?;
        let mut claims = self.claims();
        if claims.get(&uid) != Some(&entry) {
            claims.insert(uid.clone(), entry.clone());
            self.checkpoint.store(&claims)?;
        }
        drop(claims);
        let prepared = |share: &Share| Prepared {
            request: share.request.clone(),
            device: share.device.clone(),
            share_id: share.share_id.clone(),
            cdi_ids: std::iter::once(gpu_id(share))
                .chain(share.limited.then(|| share_id(&uid, share)))
                .collect(),
        };
        Ok(entry.shares.iter().map(prepared).collect())
    }

    /// Last line of defence: two allocators may have promised one GPU twice.
    fn check_room(&self, claim: &Claim) -> Result<(), PrepareError> {
        let claims = self.claims();
        let gpus = self.hardware().gpus.clone();
        for share in &claim.shares {
            let on = |s: &&Share| s.device == share.device;
            let others = claims.values().flat_map(|c| &c.shares).filter(on);
            let (memory, cores) = others.fold((0u64, 0u32), |sum, s| (sum.0 + s.memory, sum.1 + s.cores));
            let own = claim
                .shares
                .iter()
                .filter(on)
                .fold((0u64, 0u32), |sum, s| (sum.0 + s.memory, sum.1 + s.cores));
            let gpu = gpus.iter().find(|g| g.uuid == share.uuid);
            let total = gpu.map_or(0, |g| u64::try_from(g.memory_mib).unwrap_or(0) * MIB);
            let over = |need: String, free: String| PrepareError::Overcommitted {
                claim: format!("{}/{}", claim.namespace, claim.name),
                device: share.device.clone(),
                need,
                free,
            };
            if memory + own.0 > total {
                let mib = |bytes: u64| format!("{} MiB", bytes / MIB);
                return Err(over(mib(own.0), mib(total.saturating_sub(memory))));
            }
            if cores + own.1 > 100 {
                return Err(over(
                    format!("{} cores", own.1),
                    format!("{} cores", 100u32.saturating_sub(cores)),
                ));
            }
        }
        Ok(())
    }

    /// Undoes a claim. An unknown one is fine.
    ///
    /// # Errors
    /// [`PrepareError::Io`]; the kubelet asks again.
    pub fn unprepare(&self, uid: &str) -> Result<(), PrepareError> {
        let _lock = self.exclusive()?;
        self.reload()?;
        self.specs.remove_claim(uid)?;
        self.shares.remove(uid)?;
        let mut claims = self.claims();
        if claims.remove(uid).is_some() {
            self.checkpoint.store(&claims)?;
        }
        Ok(())
    }

    /// Prepared claims, for metrics.
    pub fn prepared(&self) -> Claims {
        self.claims().clone()
    }

    /// The share files.
    pub fn share_files(&self) -> &Shares {
        &self.shares
    }
}

/// Makes the state folder.
///
/// # Errors
/// [`PrepareError::Io`].
pub fn make_state(folder: &std::path::Path) -> Result<(), PrepareError> {
    file::folder(folder)
}

#[cfg(test)]
mod tests;
