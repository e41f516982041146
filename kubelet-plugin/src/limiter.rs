//! The limiter on the host: copies of the two shim libraries, one folder per version.
//!
//! Containers mount the files of `<state-dir>/limiter/<hash>/`, and the plugin's own image goes away when it is upgraded, so
//! the copies must outlive it. A version stays as long as a prepared claim names it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::cdi::driver::SHIMMED;
use crate::host::Host;

/// The limiter of one plugin version.
#[derive(Debug, Clone)]
pub struct Limiter {
    source: PathBuf,
    store: PathBuf,
}

/// An installed version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Folder name: start of the SHA-256 over both files.
    pub hash: String,
    /// The folder.
    pub folder: PathBuf,
}

/// Why the limiter cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum LimiterError {
    /// The image lacks a file.
    #[error("cannot read the limiter {}: {source}; check --limiter-dir", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The host refuses the copy.
    #[error("cannot write the limiter {}: {source}; check that --state-dir is writable and has room", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Limiter {
    /// `source` holds the two libraries, `store` gets one folder per version.
    pub fn new(source: PathBuf, store: PathBuf) -> Self {
        Self { source, store }
    }

    /// Folder of a version, installed or not.
    pub fn folder(&self, hash: &str) -> PathBuf {
        self.store.join(hash)
    }

    /// Whether a version's files are there; their content is checked by [`Limiter::install`].
    pub fn is_there(&self, hash: &str) -> bool {
        let folder = self.folder(hash);
        SHIMMED.iter().all(|(soname, _)| folder.join(soname).is_file())
    }

    /// Copies the libraries unless they are there already, byte for byte.
    pub fn install(&self, host: &dyn Host) -> Result<Installed, LimiterError> {
        let mut hash = Sha256::new();
        let mut files = Vec::new();
        for (soname, _) in SHIMMED {
            let path = self.source.join(soname);
            let bytes = fs::read(&path).map_err(|source| LimiterError::Source { path, source })?;
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(&bytes);
            files.push((soname, bytes));
        }
        let hash: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let folder = self.folder(&hash);
        for (soname, bytes) in files {
            let path = folder.join(soname);
            if fs::read(&path).is_ok_and(|old| old == bytes) {
                continue;
            }
            // A file that is mapped by containers is never changed: the new one takes its name.
            host.make_folder(&folder)
                .and_then(|()| host.store(&path, &bytes, 0o755))
                .map_err(|source| LimiterError::Write { path, source })?;
        }
        Ok(Installed { hash, folder })
    }

    /// Removes versions nobody names. Failing to is no harm beyond the room they take.
    pub fn remove_others(&self, host: &dyn Host, keep: &BTreeSet<&str>) -> io::Result<()> {
        let entries = match fs::read_dir(&self.store) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !keep.contains(entry.file_name().to_string_lossy().as_ref()) {
                host.remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::host::LinuxHost;

    fn image(dir: &Path, content: &str) -> Limiter {
        let source = dir.join("image");
        fs::create_dir_all(&source).unwrap();
        for (soname, _) in SHIMMED {
            fs::write(source.join(soname), content).unwrap();
        }
        Limiter::new(source, dir.join("limiter"))
    }

    #[test]
    fn versions_lie_side_by_side_until_nobody_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let old = image(dir.path(), "one").install(&LinuxHost).unwrap();
        let limiter = image(dir.path(), "two");
        let new = limiter.install(&LinuxHost).unwrap();
        assert_ne!(old.hash, new.hash);
        assert_eq!(new.hash.len(), 16);
        let mode = fs::metadata(new.folder.join("libcuda.so.1")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        limiter.remove_others(&LinuxHost, &BTreeSet::from([old.hash.as_str(), new.hash.as_str()])).unwrap();
        assert!(old.folder.exists());
        limiter.remove_others(&LinuxHost, &BTreeSet::from([new.hash.as_str()])).unwrap();
        assert!(!old.folder.exists() && new.folder.exists());
    }

    #[test]
    fn a_damaged_copy_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let limiter = image(dir.path(), "one");
        let installed = limiter.install(&LinuxHost).unwrap();
        fs::write(installed.folder.join("libcuda.so.1"), "cut").unwrap();
        assert_eq!(limiter.install(&LinuxHost).unwrap(), installed);
        assert_eq!(fs::read(installed.folder.join("libcuda.so.1")).unwrap(), b"one");
    }

    #[test]
    fn an_image_without_limiter_says_which_flag_to_check() {
        let dir = tempfile::tempdir().unwrap();
        let message =
            Limiter::new(dir.path().into(), dir.path().into()).install(&LinuxHost).unwrap_err().to_string();
        assert!(message.contains("libcuda.so.1") && message.ends_with("check --limiter-dir"), "{message}");
    }
}
