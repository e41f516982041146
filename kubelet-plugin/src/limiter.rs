//! The limiter on the host: copies of its files, one folder per version and form.
//!
//! Containers mount the files of `<state-dir>/limiter/<hash>/`, and the plugin's own image goes away when it is upgraded, so
//! the copies must outlive it. A version stays as long as a prepared claim names it. Which form a folder holds is told from
//! its files, so a claim keeps the form it was prepared with when the plugin is told to use the other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cdi::driver::SHIMMED;
use crate::host::Host;

/// How the limiter gets between a container's programs and the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Under the names of the driver's libraries, which lie beside it under other names.
    #[default]
    Shim,
    /// As an object that the container's /etc/ld.so.preload names, for drivers that do not bear another name.
    Preload,
}

/// The object of [`Form::Preload`], and the list that names it.
pub const PRELOAD_OBJECT: &str = "libvgpu_preload.so";
/// See [`PRELOAD_OBJECT`].
pub const PRELOAD_LIST: &str = "ld.so.preload";
/// Folder in the container that the object is mounted into.
pub const PRELOAD_FOLDER: &str = "/usr/lib/vgpu-dra";

impl Form {
    const ALL: [Self; 2] = [Self::Shim, Self::Preload];

    /// Files a folder of this form holds.
    pub fn files(self) -> [&'static str; 2] {
        match self {
            Self::Shim => SHIMMED.map(|(soname, _)| soname),
            Self::Preload => [PRELOAD_OBJECT, PRELOAD_LIST],
        }
    }

    /// The form a folder holds, if it holds all of it.
    pub fn of(folder: &Path) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.files().iter().all(|file| folder.join(file).is_file()))
    }
}

/// The limiter of one plugin version.
#[derive(Debug, Clone)]
pub struct Limiter {
    source: PathBuf,
    store: PathBuf,
    form: Form,
}

/// An installed version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Folder name: start of the SHA-256 over its files.
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
    /// `source` holds the libraries of every form, `store` gets one folder per version.
    pub fn new(source: PathBuf, store: PathBuf, form: Form) -> Self {
        Self { source, store, form }
    }

    /// Folder of a version, installed or not.
    pub fn folder(&self, hash: &str) -> PathBuf {
        self.store.join(hash)
    }

    /// Whether a version's files are there; their content is checked by [`Limiter::install`].
    pub fn is_there(&self, hash: &str) -> bool {
        Form::of(&self.folder(hash)).is_some()
    }

    /// Copies the form's files unless they are there already, byte for byte.
    pub fn install(&self, host: &dyn Host) -> Result<Installed, LimiterError> {
        let mut hash = Sha256::new();
        let mut files = Vec::new();
        for name in self.form.files() {
            let bytes = if name == PRELOAD_LIST {
                format!("{PRELOAD_FOLDER}/{PRELOAD_OBJECT}\n").into_bytes()
            } else {
                let path = self.source.join(name);
                fs::read(&path).map_err(|source| LimiterError::Source { path, source })?
            };
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(&bytes);
            files.push((name, bytes));
        }
        let hash: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let folder = self.folder(&hash);
        for (name, bytes) in files {
            let path = folder.join(name);
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

    use super::*;
    use crate::host::LinuxHost;

    fn image(dir: &Path, content: &str) -> Limiter {
        let source = dir.join("image");
        fs::create_dir_all(&source).unwrap();
        for file in Form::Shim.files().into_iter().chain([PRELOAD_OBJECT]) {
            fs::write(source.join(file), content).unwrap();
        }
        Limiter::new(source, dir.join("limiter"), Form::Shim)
    }

    #[test]
    fn the_other_form_lies_beside_it_and_is_told_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let shim = image(dir.path(), "one");
        let preload = Limiter { form: Form::Preload, ..shim.clone() };
        let (shims, object) = (shim.install(&LinuxHost).unwrap(), preload.install(&LinuxHost).unwrap());
        assert_ne!(shims.hash, object.hash);
        assert_eq!(Form::of(&shims.folder), Some(Form::Shim));
        assert_eq!(Form::of(&object.folder), Some(Form::Preload));
        assert!(shim.is_there(&object.hash) && preload.is_there(&shims.hash));
        let list = fs::read_to_string(object.folder.join("ld.so.preload")).unwrap();
        assert_eq!(list, "/usr/lib/vgpu-dra/libvgpu_preload.so\n");
        fs::remove_file(object.folder.join("ld.so.preload")).unwrap();
        assert_eq!(Form::of(&object.folder), None);
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
        let message = Limiter::new(dir.path().into(), dir.path().into(), Form::Shim).install(&LinuxHost);
        let message = message.unwrap_err().to_string();
        assert!(message.contains("libcuda.so.1") && message.ends_with("check --limiter-dir"), "{message}");
    }
}
