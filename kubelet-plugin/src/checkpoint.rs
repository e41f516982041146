//! What is prepared, kept over restarts: a checksum line, then JSON with a version.
//!
//! A file that cannot be read is set aside and what is prepared is found in the claims' CDI specs, each of which carries
//! its entry. The kubelet asks again for every running pod after its own restart, which fills what is still missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::claim::Share;
use crate::error::PrepareError;
use crate::file;

const VERSION: u32 = 1;

/// A prepared claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its shares, in the order of the allocation.
    pub shares: Vec<Share>,
}

/// Prepared claims by UID.
pub type Claims = BTreeMap<String, Claim>;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    boot: String,
    claims: Claims,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    boot: String,
}

/// What was in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// These claims; `rebooted` says that it is of an earlier boot, so nothing of them runs.
    Claims {
        /// By UID.
        claims: Claims,
        /// Whether the machine was started since.
        rebooted: bool,
    },
    /// It could not be read and was moved there.
    SetAside {
        /// The new name.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
}

impl Checkpoint {
    /// In a folder. `boot` tells one start of the machine from another.
    pub fn new(folder: &Path, boot: &str) -> Self {
        Self { path: folder.join("checkpoint"), boot: boot.to_owned() }
    }

    /// Reads it; a missing one is empty.
    ///
    /// # Errors
    /// [`PrepareError::Io`] if it cannot be read or set aside.
    pub fn load(&self) -> Result<Loaded, PrepareError> {
        let bytes = match std::fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Loaded::Claims { claims: Claims::new(), rebooted: false });
            }
            other => other.map_err(PrepareError::io("read", &self.path))?,
        };
        match parse(&bytes) {
            Ok(stored) => Ok(Loaded::Claims { rebooted: stored.boot != self.boot, claims: stored.claims }),
            Err(why) => {
                let path = self.path.with_extension("corrupt");
                std::fs::rename(&self.path, &path).map_err(PrepareError::io("set aside", &self.path))?;
                Ok(Loaded::SetAside { path, why })
            }
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`PrepareError::Io`].
    pub fn store(&self, claims: &Claims) -> Result<(), PrepareError> {
        let stored = Stored { version: VERSION, boot: self.boot.clone(), claims: claims.clone() };
        let body = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        let mut bytes = checksum(&body).into_bytes();
        bytes.push(b'\n');
        bytes.extend(body);
        file::write(&self.path, &bytes)
    }
}

fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn parse(bytes: &[u8]) -> Result<Stored, String> {
    let line = bytes.iter().position(|b| *b == b'\n').ok_or("it has no checksum line")?;
    let (sum, body) = (&bytes[..line], &bytes[line + 1..]);
    if checksum(body).as_bytes() != sum {
        return Err("its checksum does not fit its contents".into());
    }
    let stored: Stored = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if stored.version != VERSION {
        return Err(format!("it is of version {}, not {VERSION}", stored.version));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let claim = Claim { namespace: "ns".into(), name: "c".into(), shares: vec![] };
        Claims::from([("u".to_owned(), claim)])
    }

    #[test]
    fn what_is_stored_is_loaded_and_another_boot_is_told() {
        let dir = tempfile::tempdir().unwrap();
        Checkpoint::new(dir.path(), "boot-1").store(&claims()).unwrap();
        let load = |boot| Checkpoint::new(dir.path(), boot).load().unwrap();
        assert_eq!(load("boot-1"), Loaded::Claims { claims: claims(), rebooted: false });
        assert_eq!(load("boot-2"), Loaded::Claims { claims: claims(), rebooted: true });
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(dir.path(), "b");
        checkpoint.store(&claims()).unwrap();
        let mut bytes = std::fs::read(&checkpoint.path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&checkpoint.path, &bytes).unwrap();
        let Loaded::SetAside { path, why } = checkpoint.load().unwrap() else {
            panic!("it was taken as good")
        };
        assert_eq!(why, "its checksum does not fit its contents");
        assert_eq!(std::fs::read(path).unwrap(), bytes);
        assert_eq!(checkpoint.load().unwrap(), Loaded::Claims { claims: Claims::new(), rebooted: false });
    }
}
