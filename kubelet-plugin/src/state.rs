//! The node's prepared claims: one lock, one checkpoint, and the order of steps that makes a kill at any line harmless.
//!
//! | killed in          | after                         | what is left            | what repairs it                        |
//! |---|---|---|---|
//! | Prepare            | share files, CDI spec         | files nobody knows      | Prepare again; Unprepare; start-up     |
//! | Prepare            | the checkpoint                | all of it, unanswered   | Prepare again: the same answer         |
//! | Unprepare          | the CDI spec or the files     | an entry without files  | Unprepare again; start-up makes them   |
//! | a reboot           |                               | entries without files   | start-up makes them                    |
//! | damage             |                               | an unreadable file      | set aside; rebuilt ([`rebuild`])       |
//!
//! Every step may be repeated. The kubelet repeats Prepare and Unprepare until they succeed, so a failure in the middle
//! leaves what it has done for the next attempt. Parts: [`prepare`], [`quota`], [`unprepare`], [`reconcile`],
//! [`rebuild`].

mod prepare;
mod quota;
mod rebuild;
mod reconcile;
mod unprepare;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::discovery::Discovery;
use crate::error::PrepareError;
use crate::host::{self, Host};
use crate::limiter::Limiter;
use crate::lock::{FileLock, Held};
use crate::share_files::{self, SharePaths};

/// Folders of the plugin on its node; the container runtime and the kubelet see the same paths.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Survives reboots: checkpoint, limiter copies, lock.
    pub state_dir: PathBuf,
    /// Share files, one folder per claim; gone after a reboot.
    pub share_dir: PathBuf,
    /// CDI specs; gone after a reboot.
    pub cdi_dir: PathBuf,
}

impl Paths {
    /// The three folders.
    pub fn all(&self) -> [&Path; 3] {
        [&self.state_dir, &self.share_dir, &self.cdi_dir]
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.state_dir.join("checkpoint")
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.state_dir.join("lock")
    }

    /// The lock file of the instance that arbitrates.
    pub fn arbiter_lock(&self) -> PathBuf {
        self.state_dir.join("arbiter.lock")
    }

    /// Folder of the limiter's versions.
    pub fn limiter(&self) -> PathBuf {
        self.state_dir.join("limiter")
    }
}

/// See the module.
pub struct State {
    node: String,
    paths: Paths,
    host: Arc<dyn Host>,
    limiter: Limiter,
    lock: FileLock,
    discovery: watch::Receiver<Arc<Discovery>>,
    /// Told when a damaged checkpoint was set aside.
    damage: mpsc::UnboundedSender<String>,
    /// Least bytes the driver was seen to keep for a process, by GPU.
    overheads: Mutex<BTreeMap<String, u64>>,
}

impl State {
    /// Touches nothing yet.
    pub fn new(
        node: String,
        paths: Paths,
        host: Arc<dyn Host>,
        limiter: Limiter,
        discovery: watch::Receiver<Arc<Discovery>>,
        damage: mpsc::UnboundedSender<String>,
    ) -> Self {
        let lock = FileLock::new(paths.lock());
        Self { node, paths, host, limiter, lock, discovery, damage, overheads: Mutex::default() }
    }

    /// Folders.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What is prepared now, for reports. Does not wait for the lock: the file is always whole.
    pub fn prepared(&self) -> Checkpoint {
        Checkpoint::load(&self.paths.checkpoint()).ok().flatten().unwrap_or_default()
    }

    /// Says what the driver keeps for each process of a share that has a context. A share that is gone is fine.
    ///
    /// # Errors
    /// Its `limits` cannot be rewritten.
    pub fn set_overhead(&self, uid: &str, share_id: &str, bytes: u64) -> Result<(), PrepareError> {
        let paths = SharePaths::new(&self.paths.share_dir, uid, share_id);
        if share_files::told(&paths).is_none_or(|told| told.overhead == bytes) {
            return Ok(());
        }
        let _held = self.held()?;
        Ok(share_files::set_overhead(&*self.host, &paths, bytes)?)
    }

    /// Says what the driver keeps at least for a process on a GPU: where the next shares on it begin.
    pub fn estimate_overhead(&self, uuid: &str, bytes: u64) {
        self.overheads.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid.to_owned(), bytes);
    }

    fn overhead_on(&self, uuid: &str) -> u64 {
        self.overheads.lock().unwrap_or_else(PoisonError::into_inner).get(uuid).copied().unwrap_or(0)
    }

    fn held(&self) -> Result<Held, PrepareError> {
        self.lock.lock().map_err(|source| PrepareError::Lock { path: self.lock.path().to_owned(), source })
    }

    /// The stored state; a damaged or missing one is rebuilt. Call with the lock held.
    fn load(&self) -> Result<Checkpoint, CheckpointError> {
        match Checkpoint::load(&self.paths.checkpoint()) {
            Ok(Some(checkpoint)) => Ok(checkpoint),
            Ok(None) => self.rebuild_missing(),
            Err(error @ CheckpointError::Corrupt { .. }) => self.rebuild_damaged(&error),
            Err(error) => Err(error),
        }
    }

    fn store(&self, checkpoint: &mut Checkpoint) -> Result<(), CheckpointError> {
        if let Ok(id) = host::boot_id() {
            checkpoint.boot_id = id;
        }
        checkpoint.store(&self.paths.checkpoint(), &*self.host)
    }

    /// UIDs that have a folder of share files.
    fn claim_folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.paths.share_dir).into_iter().flatten().flatten();
        let mut uids: Vec<String> =
            entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect();
        uids.sort();
        uids
    }
}
