//! The files of a share on the host, and its folder.
//!
//! ```text
//! <share-dir>/<claim UID>/<share ID>/limits       written here only, mounted read-only
//!                                   /bell         FIFO, mode 0666: the share's processes wake the arbiter by it
//!                                   /usage/       a tmpfs of this share alone: no tenant can fill another's
//!                                         /usage  mode 0666, mounted read-write; only ever read here
//! ```
//! Containers mount the files themselves, so once made they are never replaced: `limits` is rewritten in place, in the
//! version it was made with, and the others are left alone as long as they are there. After a reboot all are gone and are
//! made afresh.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use vgpu_core::limits::{self, Limits};
use vgpu_core::usage::{self, Usage, UsageError};
use vgpu_share::bell;

use crate::host::Host;

const PAGE: u64 = 4096;

/// Where the files of one share lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharePaths {
    /// Folder of the share.
    pub folder: PathBuf,
    /// Its limits.
    pub limits: PathBuf,
    /// Its bell.
    pub bell: PathBuf,
    /// Mount point of its tmpfs.
    pub mount: PathBuf,
    /// Its ledger and process slots.
    pub usage: PathBuf,
}

impl SharePaths {
    /// Names the files; `root` is the folder of all shares.
    pub fn new(root: &Path, claim_uid: &str, share_id: &str) -> Self {
        Self::at(root.join(claim_uid).join(share_id))
    }

    fn at(folder: PathBuf) -> Self {
        let mount = folder.join("usage");
        let (limits, bell) = (folder.join("limits"), folder.join(bell::NAME));
        Self { limits, bell, usage: mount.join("usage"), mount, folder }
    }
}

/// Folder of a claim.
pub fn claim_folder(root: &Path, claim_uid: &str) -> PathBuf {
    root.join(claim_uid)
}

/// A step on a share's files that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct ShareFileError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

fn step<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, ShareFileError> {
    result.map_err(|source| ShareFileError { action, path: path.to_owned(), source })
}

/// Makes the files, or whatever is missing of them. What the driver keeps for a process stays as it was told last.
pub fn ensure(host: &dyn Host, paths: &SharePaths, wanted: &Limits) -> Result<(), ShareFileError> {
    step("make folder", &paths.mount, host.make_folder(&paths.mount))?;
    let bytes = fs::read(&paths.limits).unwrap_or_default();
    match limits::decode(&bytes) {
        Err(_) => {
            step("write", &paths.limits, host.replace(&paths.limits, &limits::encode(wanted), 0o644))?;
        }
        Ok(found) => {
            let wanted = Limits { overhead: found.overhead, ..*wanted };
            if !limits::says(&bytes, &wanted) || is_half_rewritten(&bytes) {
                rewrite(host, paths, &wanted)?;
            }
        }
    }
    step("make", &paths.bell, host.make_fifo(&paths.bell))?;
    // Whole pages for the file, and one more for the temporary name it is written under.
    let size = (usage::SIZE as u64).div_ceil(PAGE) * PAGE + PAGE;
    step("mount a tmpfs on", &paths.mount, host.mount_tmpfs(&paths.mount, size))?;
    if !paths.usage.exists() {
        step("write", &paths.usage, host.replace(&paths.usage, &usage::empty(), 0o666))?;
    }
    Ok(())
}

fn rewrite(host: &dyn Host, paths: &SharePaths, wanted: &Limits) -> Result<(), ShareFileError> {
    let done = host.rewrite(&paths.limits, &|file| limits::rewrite(file, wanted));
    step("rewrite", &paths.limits, done)
}

/// What `limits` says; `None` without such a file.
pub fn told(paths: &SharePaths) -> Option<Limits> {
    limits::decode(&fs::read(&paths.limits).ok()?).ok()
}

/// Changes what it says that the driver keeps for a process. A share without a file is gone, or about to be made.
pub fn set_overhead(host: &dyn Host, paths: &SharePaths, bytes: u64) -> Result<(), ShareFileError> {
    match told(paths) {
        Some(told) => rewrite(host, paths, &Limits { overhead: bytes, ..told }),
        None => Ok(()),
    }
}

/// Whether a kill left the sequence odd, which sends every reader to its slow path.
fn is_half_rewritten(limits: &[u8]) -> bool {
    limits.get(16).is_some_and(|low| low & 1 == 1)
}

/// Removes everything of a claim, whatever shares its folder holds.
pub fn remove_claim(host: &dyn Host, root: &Path, claim_uid: &str) -> Result<(), ShareFileError> {
    let folder = claim_folder(root, claim_uid);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => step("read folder", &folder, entries)?,
    };
    for entry in entries.flatten().filter(|e| e.path().is_dir()) {
        let paths = SharePaths::at(entry.path());
        if host.is_mounted(&paths.mount) {
            step("unmount", &paths.mount, host.unmount(&paths.mount))?;
        }
    }
    step("remove folder", &folder, host.remove_folder(&folder))
}

/// What a share uses now. Nothing in the file is trusted: it is the tenants' to write.
pub fn read_usage(paths: &SharePaths) -> Result<Usage, UsageError> {
    let file = File::open(&paths.usage).map_err(UsageError::Io)?;
    usage::read(&file, &vgpu_share::is_held)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::host::test::TestHost;

    #[test]
    fn making_them_again_keeps_what_containers_have_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let paths = SharePaths::new(dir.path(), "claim", "share");
        let limits = Limits { memory: 1 << 30, cores: 30, ..Limits::default() };
        ensure(&TestHost::default(), &paths, &limits).unwrap();
        let inode = |p: &Path| fs::metadata(p).unwrap().ino();
        let inodes = || [&paths.limits, &paths.usage, &paths.bell].map(|path| inode(path));
        let before = inodes();
        ensure(&TestHost::default(), &paths, &Limits { memory: 2 << 30, ..limits }).unwrap();
        assert_eq!(inodes(), before);
        let now = limits::decode(&fs::read(&paths.limits).unwrap()).unwrap();
        assert_eq!((now.memory, now.cores), (2 << 30, 30));
        assert_eq!(read_usage(&paths).unwrap(), Usage::default());
    }

    #[test]
    fn limits_a_kill_left_half_rewritten_are_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let paths = SharePaths::new(dir.path(), "claim", "share");
        let limits = Limits { memory: 1 << 30, cores: 30, ..Limits::default() };
        ensure(&TestHost::default(), &paths, &limits).unwrap();
        let mut bytes = fs::read(&paths.limits).unwrap();
        bytes[16] = 3;
        fs::write(&paths.limits, &bytes).unwrap();
        ensure(&TestHost::default(), &paths, &limits).unwrap();
        assert_eq!(fs::read(&paths.limits).unwrap()[16], 4);
    }

    #[test]
    fn limits_of_the_oldest_version_stay_so_for_the_programs_that_have_them_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let paths = SharePaths::new(dir.path(), "claim", "share");
        let wanted = Limits { memory: 1 << 30, cores: 30, ..Limits::default() };
        ensure(&TestHost::default(), &paths, &wanted).unwrap();
        let mut bytes = fs::read(&paths.limits).unwrap();
        bytes[8] = 1;
        fs::write(&paths.limits, &bytes).unwrap();
        ensure(&TestHost::default(), &paths, &wanted).unwrap();
        assert_eq!(fs::read(&paths.limits).unwrap(), bytes, "nothing was to be changed");
        ensure(&TestHost::default(), &paths, &Limits { cores: 60, ..wanted }).unwrap();
        let bytes = fs::read(&paths.limits).unwrap();
        assert_eq!((bytes[8], bytes[20]), (1, 60));
    }

    #[test]
    fn a_claim_goes_with_all_its_shares() {
        let dir = tempfile::tempdir().unwrap();
        for share in ["a", "b"] {
            let paths = SharePaths::new(dir.path(), "claim", share);
            ensure(&TestHost::default(), &paths, &Limits { memory: 1, ..Limits::default() }).unwrap();
        }
        remove_claim(&TestHost::default(), dir.path(), "claim").unwrap();
        remove_claim(&TestHost::default(), dir.path(), "claim").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
