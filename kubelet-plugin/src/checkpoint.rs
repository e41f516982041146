//! What is prepared on this node, kept on disk.
//!
//! `<state-dir>/checkpoint` is a line with the SHA-256 of everything after it, then JSON, its version first. The checksum
//! covers raw bytes, so any damage shows. The file is read anew under the lock for every call: two instances may run side by
//! side, and neither trusts its memory. The CDI spec of every claim carries its entry too ([`crate::cdi::claim`]): what a
//! damaged checkpoint is rebuilt from.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vgpu_api::{Enforcement, Oversubscription, Priority};

use crate::host::Host;

/// Version this program writes. Unknown fields are ignored, so additions need no new one.
pub const VERSION: u32 = 1;

/// Everything prepared, by claim UID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Boot in which it was written; after another boot no container of it runs any more.
    #[serde(default)]
    pub boot_id: String,
    /// By UID.
    #[serde(default)]
    pub claims: BTreeMap<String, PreparedClaim>,
}

/// One prepared claim. Its ids never change until it is unprepared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedClaim {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// In the order of the allocation.
    pub shares: Vec<PreparedShare>,
    /// Folder name of the limiter its containers use; empty when it has none (exclusive GPUs).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub limiter: String,
}

/// One allocation result of a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedShare {
    /// Main request name.
    pub request: String,
    /// Device name in the slice.
    pub device: String,
    /// NVML UUID as NVML prints it.
    pub uuid: String,
    /// UUID of the share; empty for a look (`adminAccess`).
    pub share_id: String,
    /// Bytes; 0 for a look alone.
    pub memory: u64,
    /// Percent of GPU time; 0 or 100: no cap.
    #[serde(default)]
    pub cores: u32,
    /// What `cores` means.
    #[serde(default, skip_serializing_if = "is_default")]
    pub enforcement: Enforcement,
    /// Who goes first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Whether all of its memory is on the GPU.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oversubscription: Oversubscription,
    /// Whether its cores are booked for it alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cores_oversubscription: Oversubscription,
    /// The GPU without a limiter: all of it, or a look at it (`adminAccess`).
    #[serde(default)]
    pub exclusive: bool,
    /// As answered to the kubelet.
    pub cdi_ids: Vec<String>,
}

impl PreparedShare {
    /// Whether it takes nothing of the GPU.
    pub fn looks_only(&self) -> bool {
        self.memory == 0
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why the checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Read or write failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Its bytes are not what was written.
    #[error("{} is damaged: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Parse error or checksum.
        why: String,
    },
    /// Written by a newer program.
    #[error("{} has version {found}, this program knows {VERSION}: run the newer plugin again, or drain the node", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
    },
}

/// As stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<T> {
    version: u32,
    #[serde(flatten)]
    checkpoint: T,
}

/// What every version has.
#[derive(Deserialize)]
struct Any {}

fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Checkpoint {
    /// Bytes of all shares on a GPU but those of `except`, with the claims that hold them.
    pub fn shares_on<'a>(
        &'a self,
        uuid: &'a str,
        except: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a PreparedClaim, &'a PreparedShare)> {
        self.claims.iter().filter(move |(uid, _)| *uid != except).flat_map(move |(uid, claim)| {
            claim.shares.iter().filter(move |s| s.uuid == uuid).map(move |s| (uid.as_str(), claim, s))
        })
    }

    /// The stored state; `None` when there is none yet.
    pub fn load(path: &Path) -> Result<Option<Self>, CheckpointError> {
        let corrupt = |why: String| CheckpointError::Corrupt { path: path.to_owned(), why };
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|source| CheckpointError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })?,
        };
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            return Err(corrupt("it has no checksum".to_owned()));
        };
        let (written, body) = (&bytes[..end], &bytes[end + 1..]);
        let found = checksum(body);
        if found.as_bytes() != written {
            return Err(corrupt(format!("the checksum of its contents is {found}")));
        }
        // After the checksum: a version that was damaged must not look like an upgrade.
        let any: Stored<Any> = serde_json::from_slice(body).map_err(|e| corrupt(e.to_string()))?;
        if any.version > VERSION {
            return Err(CheckpointError::Version { path: path.to_owned(), found: any.version });
        }
        let stored: Stored<Self> = serde_json::from_slice(body).map_err(|e| corrupt(e.to_string()))?;
        Ok(Some(stored.checkpoint))
    }

    /// Stores the state durably.
    pub fn store(&self, path: &Path, host: &dyn Host) -> Result<(), CheckpointError> {
        let io = |source| CheckpointError::Io { action: "write", path: path.to_owned(), source };
        let stored = Stored { version: VERSION, checkpoint: self };
        let body = serde_json::to_vec(&stored).map_err(|e| io(e.into()))?;
        let bytes = [checksum(&body).as_bytes(), b"\n", &body].concat();
        host.store(path, &bytes, 0o600).map_err(io)
    }
}

/// Name under which a damaged checkpoint is kept for a person to look at; the last one only.
pub fn set_aside_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::LinuxHost;

    fn sample() -> Checkpoint {
        let share = PreparedShare {
            request: "gpu".into(),
            device: "gpu-1".into(),
            uuid: "GPU-1".into(),
            share_id: "s".into(),
            memory: 3 << 30,
            cores: 30,
            enforcement: Enforcement::Elastic,
            priority: Priority::High,
            oversubscription: Oversubscription::Allowed,
            cores_oversubscription: Oversubscription::Allowed,
            exclusive: false,
            cdi_ids: vec!["vgpu-dra.io/gpu=GPU-1".into()],
        };
        let claim = PreparedClaim {
            namespace: "ns".into(),
            name: "c".into(),
            shares: vec![share],
            limiter: "aa".into(),
        };
        Checkpoint { boot_id: "b".into(), claims: BTreeMap::from([("uid".to_owned(), claim)]) }
    }

    fn stored() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        sample().store(&path, &LinuxHost).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let (_dir, path) = stored();
        assert_eq!(Checkpoint::load(&path).unwrap(), Some(sample()));
    }

    #[test]
    fn no_file_is_no_state() {
        assert!(Checkpoint::load(Path::new("/nowhere/checkpoint")).unwrap().is_none());
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (_dir, path) = stored();
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x02;
            fs::write(&path, &damaged).unwrap();
            match Checkpoint::load(&path) {
                Ok(_) => panic!("byte {at} was taken as good"),
                Err(CheckpointError::Corrupt { .. }) => {}
                Err(e) => panic!("byte {at}: {e}"),
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let (_dir, path) = stored();
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(
                matches!(Checkpoint::load(&path), Err(CheckpointError::Corrupt { .. })),
                "{length} bytes"
            );
        }
    }

    fn write(path: &Path, body: &str) {
        fs::write(path, format!("{}\n{body}", checksum(body.as_bytes()))).unwrap();
    }

    #[test]
    fn fields_of_a_later_program_are_ignored() {
        let (_dir, path) = stored();
        write(&path, r#"{"version":1,"bootId":"b","claims":{},"later":1}"#);
        assert_eq!(Checkpoint::load(&path).unwrap().unwrap().boot_id, "b");
    }

    #[test]
    fn a_newer_version_is_refused_with_the_cure() {
        let (_dir, path) = stored();
        write(&path, r#"{"version":9,"claims":[]}"#);
        let message = Checkpoint::load(&path).unwrap_err().to_string();
        assert!(
            message.ends_with(
                "has version 9, this program knows 1: run the newer plugin again, or drain the node"
            ),
            "{message}"
        );
    }
}
