//! What is prepared on this node, kept on disk.
//!
//! `<state-dir>/checkpoint.json` is `{"version":1,"checksum":"<sha256>","data":{...}}`; the checksum covers the raw bytes
//! of `data`, so any damage shows. The file is read anew under the lock for every call: two instances may run side by
//! side, and neither trusts its memory. Beside it every claim has a record of its own in its share folder
//! (`<share-dir>/<claim UID>/claim.json`, on the tmpfs of this boot), which is what a damaged checkpoint is rebuilt from:
//! whatever has no folder there has been unprepared, or died with the last boot and is prepared again by the kubelet.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

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
    /// UUID of the share.
    pub share_id: String,
    /// Bytes.
    pub memory: u64,
    /// Percent of GPU time; 0 or 100: no cap.
    #[serde(default)]
    pub cores: u32,
    /// The whole GPU without a limiter.
    #[serde(default)]
    pub exclusive: bool,
    /// As answered to the kubelet.
    pub cdi_ids: Vec<String>,
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

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    version: u32,
    checksum: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn checksum(bytes: &str) -> String {
    Sha256::digest(bytes.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
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
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
        let found = checksum(envelope.data.get());
        if found != envelope.checksum {
            return Err(corrupt(format!("its checksum is {found}, not {}", envelope.checksum)));
        }
        // After the checksum: a version that was damaged must not look like an upgrade.
        if envelope.version > VERSION {
            return Err(CheckpointError::Version { path: path.to_owned(), found: envelope.version });
        }
        serde_json::from_str(envelope.data.get()).map(Some).map_err(|e| corrupt(e.to_string()))
    }

    /// Stores the state durably.
    pub fn store(&self, path: &Path, host: &dyn Host) -> Result<(), CheckpointError> {
        let io = |source| CheckpointError::Io { action: "write", path: path.to_owned(), source };
        let data = serde_json::value::to_raw_value(self).map_err(|e| io(e.into()))?;
        let envelope = Envelope { version: VERSION, checksum: checksum(data.get()), data: &data };
        let mut bytes = serde_json::to_vec(&envelope).map_err(|e| io(e.into()))?;
        bytes.push(b'\n');
        host.replace(path, &bytes, 0o600).map_err(io)
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
        let path = dir.path().join("checkpoint.json");
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
        assert!(Checkpoint::load(Path::new("/nowhere/checkpoint.json")).unwrap().is_none());
    }

    #[test]
    fn every_flipped_byte_is_noticed_or_changes_nothing() {
        let (_dir, path) = stored();
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x02;
            fs::write(&path, &damaged).unwrap();
            match Checkpoint::load(&path) {
                Ok(state) => assert_eq!(state, Some(sample()), "byte {at}"),
                Err(CheckpointError::Corrupt { .. } | CheckpointError::Version { .. }) => {}
                Err(e) => panic!("byte {at}: {e}"),
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let (_dir, path) = stored();
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() - 1 {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(
                matches!(Checkpoint::load(&path), Err(CheckpointError::Corrupt { .. })),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn fields_of_a_later_program_are_ignored() {
        let (_dir, path) = stored();
        let data = r#"{"bootId":"b","claims":{},"later":1}"#;
        fs::write(&path, format!(r#"{{"version":1,"checksum":"{}","data":{data}}}"#, checksum(data)))
            .unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap().unwrap().boot_id, "b");
    }

    #[test]
    fn a_newer_version_is_refused_with_the_cure() {
        let (_dir, path) = stored();
        let data = "{}";
        fs::write(&path, format!(r#"{{"version":9,"checksum":"{}","data":{data}}}"#, checksum(data)))
            .unwrap();
        let message = Checkpoint::load(&path).unwrap_err().to_string();
        assert!(
            message.ends_with(
                "has version 9, this program knows 1: run the newer plugin again, or drain the node"
            )
        );
    }
}
