//! What the plugin changes on its node: small files, folders, and one tmpfs per share.
//!
//! Every change goes through [`Host`], one call per step, so that a test can stop after each of them, or in the middle of
//! one, and show that what is left can be repaired. Reading needs no such seam and uses `std::fs`.
//!
//! Only what must outlive a power cut is synced ([`Host::store`]). Share files and CDI specs are of this boot: what a power
//! cut leaves of them is compared with what it should be and written anew when the plugin starts.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Steps. Each may be repeated, and a reader sees each file whole or not at all.
pub trait Host: Send + Sync {
    /// Replaces the file at `path` by `bytes`: a temporary file beside it, then a rename. Whoever has the old file open
    /// or mounted keeps the old one.
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// As [`Host::replace`], and the bytes are on the disk before the name is. After a power cut the file is the old one
    /// or the new one, never a damaged one.
    fn store(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Rewrites an open file in place by `change`, for files that containers have mounted.
    fn rewrite(&self, path: &Path, change: &dyn Fn(&File) -> io::Result<()>) -> io::Result<()>;
    /// Removes a file; one that is not there is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a FIFO for everybody, and makes one that is there so; the file stays the same.
    fn make_fifo(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it; one that is there is fine.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with what is in it; one that is not there is fine. Refuses to cross into mounts.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Mounts a tmpfs of `size` bytes on a folder, or does nothing if one is there.
    fn mount_tmpfs(&self, path: &Path, size: u64) -> io::Result<()>;
    /// Unmounts what is mounted on a folder, or does nothing.
    fn unmount(&self, path: &Path) -> io::Result<()>;
    /// Whether something is mounted on a folder. False for what does not exist.
    fn is_mounted(&self, path: &Path) -> bool;
}

/// The temporary name of a file that is being replaced: hidden, and the same each time so that none is left behind.
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Id of the running boot, from the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The node itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxHost;

impl Host for LinuxHost {
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        write_temporary(path, bytes, mode)?;
        fs::rename(temporary(path), path)
    }

    fn store(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        // The folder is not synced: a rename that a power cut takes back leaves the old file, which is a whole one.
        write_temporary(path, bytes, mode)?.sync_data()?;
        fs::rename(temporary(path), path)
    }

    fn rewrite(&self, path: &Path, change: &dyn Fn(&File) -> io::Result<()>) -> io::Result<()> {
        change(&OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_file(path))
    }

    fn make_fifo(&self, path: &Path) -> io::Result<()> {
        let mode = 0o666;
        match rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) if fs::symlink_metadata(path)?.file_type().is_fifo() => {}
            other => other?,
        }
        // The mode above is cut by the umask.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        if self.is_mounted(path) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted on it"));
        }
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.remove_folder(&entry.path())?;
            } else {
                absent_is_fine(fs::remove_file(entry.path()))?;
            }
        }
        absent_is_fine(fs::remove_dir(path))
    }

    fn mount_tmpfs(&self, path: &Path, size: u64) -> io::Result<()> {
        if self.is_mounted(path) {
            return Ok(());
        }
        // Two inodes hold the folder and its one file; a few more cost nothing and nobody else can make any.
        let data = std::ffi::CString::new(format!("size={size},nr_inodes=8,mode=0755"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("vgpu-dra", path, "tmpfs", flags, data.as_c_str())?;
        Ok(())
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        while self.is_mounted(path) {
            rustix::mount::unmount(path, UnmountFlags::DETACH)?;
        }
        Ok(())
    }

    fn is_mounted(&self, path: &Path) -> bool {
        let device = |p: &Path| fs::symlink_metadata(p).map(|m| m.dev()).ok();
        let parent = path.parent().and_then(device);
        parent.is_some() && device(path).is_some_and(|own| Some(own) != parent)
    }
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(temporary(path))?;
    // The mode above is cut by the umask, and an old temporary file keeps its own.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    Ok(file)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
pub(crate) mod test;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_mode_asked_for_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage");
        fs::write(temporary(&path), "left by a kill").unwrap();
        LinuxHost.replace(&path, b"new", 0o666).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_fifo_that_is_there_stays_the_same_and_another_file_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bell");
        LinuxHost.make_fifo(&path).unwrap();
        let before = fs::metadata(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        LinuxHost.make_fifo(&path).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.permissions().mode()), (after.ino(), after.permissions().mode()));
        assert_eq!(after.permissions().mode() & 0o777, 0o666);
        fs::write(dir.path().join("file"), "").unwrap();
        LinuxHost.make_fifo(&dir.path().join("file")).unwrap_err();
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        LinuxHost.remove(&dir.path().join("gone")).unwrap();
        LinuxHost.remove(&dir.path().join("no/folder")).unwrap();
        LinuxHost.remove_folder(&dir.path().join("gone")).unwrap();
        LinuxHost.unmount(&dir.path().join("gone")).unwrap();
    }

    #[test]
    fn a_link_in_a_removed_folder_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, gone) = (dir.path().join("kept"), dir.path().join("gone"));
        fs::create_dir_all(&kept).unwrap();
        fs::create_dir_all(gone.join("deep")).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, gone.join("deep/link")).unwrap();
        LinuxHost.remove_folder(&gone).unwrap();
        assert!(kept.join("file").exists() && !gone.exists());
    }
}
