//! Share files: `limits`, which only the plugin writes, and `usage` on a tmpfs of its own, so that one tenant can fill
//! nobody else's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vgpu_core::limits::{self, Limits};
use vgpu_core::usage::{self, Usage, UsageError};

use crate::claim::Share;
use crate::error::PrepareError;
use crate::file;

/// Mounts of small file systems.
pub trait Mounts: Send + Sync {
    /// Mounts a tmpfs of so many bytes.
    ///
    /// # Errors
    /// Of mount(2).
    fn tmpfs(&self, at: &Path, bytes: usize) -> io::Result<()>;
    /// Takes it away; nothing mounted is fine.
    ///
    /// # Errors
    /// Of umount(2).
    fn unmount(&self, at: &Path) -> io::Result<()>;
}

/// The kernel's.
#[derive(Debug, Clone, Copy)]
pub struct KernelMounts;

impl Mounts for KernelMounts {
    fn tmpfs(&self, at: &Path, bytes: usize) -> io::Result<()> {
        let options = std::ffi::CString::new(format!("size={bytes},nr_inodes=4,mode=755"))?;
        let flags = rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC;
        Ok(rustix::mount::mount("vgpu-dra", at, "tmpfs", flags, Some(options.as_c_str()))?)
    }

    fn unmount(&self, at: &Path) -> io::Result<()> {
        match rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH) {
            // Not a mount point, or not there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Where a share's files are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareFiles {
    /// Limits.
    pub limits: PathBuf,
    /// Usage.
    pub usage: PathBuf,
}

/// All share files of the node.
pub struct Shares {
    folder: PathBuf,
    mounts: Box<dyn Mounts>,
}

impl Shares {
    /// In a folder.
    pub fn new(folder: &Path, mounts: Box<dyn Mounts>) -> Self {
        Self { folder: folder.to_owned(), mounts }
    }

    fn folder(&self, claim: &str, share: &str) -> PathBuf {
        self.folder.join(claim).join(share)
    }

    /// Paths of a share's files.
    pub fn files(&self, claim: &str, share: &str) -> ShareFiles {
        let folder = self.folder(claim, share);
        ShareFiles { limits: folder.join("limits"), usage: folder.join("usage.d/usage") }
    }

    /// Makes a share's files, or leaves those that are there: a running tenant has them mapped.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn create(&self, claim: &str, share: &Share) -> Result<(), PrepareError> {
        let files = self.files(claim, &share.share_id);
        let mount = self.folder(claim, &share.share_id).join("usage.d");
        file::folder(&mount)?;
        let limits = Limits { memory: share.memory, cores: share.cores };
        let known = fs::read(&files.limits).ok().and_then(|bytes| limits::decode(&bytes).ok());
        if known != Some(limits) {
            file::write(&files.limits, &limits::encode(&limits))?;
        }
        if files.usage.exists() {
            return Ok(());
        }
        // A page more than the region: the kernel counts the folder too.
        let bytes = usage::SIZE.next_multiple_of(4096) + 4096;
        self.mounts.unmount(&mount).map_err(PrepareError::io("unmount", &mount))?;
        self.mounts.tmpfs(&mount, bytes).map_err(PrepareError::io("mount a tmpfs on", &mount))?;
        // Whole before it has its name: a plugin killed here starts over.
        let part = mount.join("part");
        let write = || -> io::Result<()> {
            fs::write(&part, usage::empty())?;
            fs::set_permissions(&part, fs::Permissions::from_mode(0o666))?;
            fs::rename(&part, &files.usage)
        };
        write().map_err(PrepareError::io("write", &files.usage))
    }

    /// Removes all files of a claim.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn remove(&self, claim: &str) -> Result<(), PrepareError> {
        let folder = self.folder.join(claim);
        for share in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let mount = share.path().join("usage.d");
            self.mounts.unmount(&mount).map_err(PrepareError::io("unmount", &mount))?;
        }
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PrepareError::io("remove", folder)(e)),
            _ => Ok(()),
        }
    }

    /// Claims with files.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn claims(&self) -> Result<Vec<String>, PrepareError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(PrepareError::io("read", &self.folder))?,
        };
        Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
    }

    /// What a share uses now.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn usage(&self, claim: &str, share: &str) -> Result<Usage, UsageError> {
        let file = File::open(self.files(claim, share).usage).map_err(UsageError::Io)?;
        usage::read(&file, &is_held)
    }
}

/// Whether a process keeps a slot's lock. Such locks show in /proc/locks by inode; asking for the lock itself would need
/// the file open for writing, which the plugin never does with a tenant's file.
fn is_held(file: &File, slot: u32) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let meta = file.metadata()?;
    let inode =
        format!("{:02x}:{:02x}:{}", rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()), meta.ino());
    let at = (usage::LOCKS + u64::from(slot)).to_string();
    let locks = fs::read_to_string("/proc/locks")?;
    Ok(locks.lines().any(|line| {
        let mut words = line.split_whitespace().skip_while(|w| !w.contains(&inode));
        words.next() == Some(&inode) && words.next() == Some(&at)
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Remembers mounts and makes none, so that tests need no root.
    #[derive(Clone, Default)]
    pub(crate) struct NoMounts(pub(crate) Arc<Mutex<Vec<PathBuf>>>);

    impl Mounts for NoMounts {
        fn tmpfs(&self, at: &Path, _bytes: usize) -> io::Result<()> {
            self.0.lock().unwrap().push(at.to_owned());
            Ok(())
        }
        fn unmount(&self, at: &Path) -> io::Result<()> {
            self.0.lock().unwrap().retain(|p| p != at);
            Ok(())
        }
    }

    fn share() -> Share {
        Share {
            request: "gpu".into(),
            device: "gpu-aa".into(),
            uuid: "GPU-AA".into(),
            share_id: "s".into(),
            memory: 1 << 30,
            cores: 30,
            limited: true,
        }
    }

    #[test]
    fn files_are_made_once_and_removed_with_their_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = NoMounts::default();
        let shares = Shares::new(dir.path(), Box::new(mounts.clone()));
        shares.create("u", &share()).unwrap();
        let files = shares.files("u", "s");
        let limits = limits::decode(&fs::read(&files.limits).unwrap()).unwrap();
        assert_eq!((limits.memory, limits.cores), (1 << 30, 30));
        assert_eq!(fs::metadata(&files.usage).unwrap().permissions().mode() & 0o777, 0o666);
        fs::write(&files.usage, "in use").unwrap();
        shares.create("u", &share()).unwrap();
        assert_eq!(fs::read_to_string(&files.usage).unwrap(), "in use");
        assert_eq!(mounts.0.lock().unwrap().len(), 1);
        shares.remove("u").unwrap();
        shares.remove("u").unwrap();
        assert!(mounts.0.lock().unwrap().is_empty() && shares.claims().unwrap().is_empty());
    }

    #[test]
    fn a_fresh_share_uses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let shares = Shares::new(dir.path(), Box::new(NoMounts::default()));
        shares.create("u", &share()).unwrap();
        assert_eq!(shares.usage("u", "s").unwrap(), Usage::default());
    }
}
