//! Why a claim was not prepared or unprepared. Printed into the reply; the kubelet shows it on the pod, and it is all the
//! user sees: the claim, the cause, and what to do.

use std::io;
use std::path::PathBuf;

use vgpu_api::ShareConfigError;

use crate::checkpoint::CheckpointError;
use crate::claim::ClaimRef;
use crate::share_files::ShareFileError;

/// A claim's failure, with the claim it belongs to.
#[derive(Debug, thiserror::Error)]
#[error("claim {claim}: {cause}")]
pub struct ClaimError {
    /// The claim.
    pub claim: ClaimRef,
    /// The cause.
    #[source]
    pub cause: PrepareError,
}

/// The cause of a failure.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The kubelet sent something that is no UID.
    #[error("{value:?} is not a UID; the kubelet sent a malformed request")]
    MalformedUid {
        /// As sent.
        value: String,
    },
    /// The API server does not have it.
    #[error("it does not exist any more; delete the pod, its owner makes both anew")]
    Gone,
    /// The name now belongs to another object.
    #[error(
        "it was deleted and made anew (UID {found}, the pod's had {asked}); delete the pod, its owner makes it anew"
    )]
    Replaced {
        /// What the kubelet asked for.
        asked: String,
        /// What is there.
        found: String,
    },
    /// No allocation.
    #[error("it is not allocated; if it stays so, delete the pod to have it placed again")]
    NotAllocated,
    /// An allocation without a device of this driver.
    #[error(
        "its allocation has no device of driver {}; delete the pod to have it placed again",
        vgpu_api::names::DRIVER
    )]
    NothingOurs,
    /// Allocated on another node.
    #[error(
        "request {request} is allocated on node {allocated} (pool {pool}), but the pod runs on node {here}; delete the pod to have it placed again"
    )]
    OtherNode {
        /// Request.
        request: String,
        /// Pool of the result.
        pool: String,
        /// Node of that pool.
        allocated: String,
        /// This node.
        here: String,
    },
    /// A result that lacks something or holds nonsense.
    #[error(
        "status.allocation.devices.results, request {request}: {field} {problem}; delete the pod to have it placed again"
    )]
    Result {
        /// Request.
        request: String,
        /// Field of the result.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The opaque configuration is not understood.
    #[error(
        "status.allocation.devices.config[{index}].opaque.{source}; correct the {origin} and delete the pod"
    )]
    Config {
        /// Place in the list.
        index: usize,
        /// `DeviceClass` or `claim`.
        origin: &'static str,
        /// What is wrong.
        source: ShareConfigError,
    },
    /// The GPU is not there, or cannot be shared now.
    #[error("device {device} of node {node} cannot be used: {why}; delete the pod to have it placed again")]
    Device {
        /// Device name.
        device: String,
        /// This node.
        node: String,
        /// The reason.
        why: String,
    },
    /// Last line of defence: the shares prepared on the GPU and this one exceed it.
    #[error(
        "{device} has {free} of {what} left and the share needs {need}; the rest is held by {holders}; this one starts when they end"
    )]
    Overcommitted {
        /// Device name.
        device: String,
        /// `memory` or `cores`.
        what: &'static str,
        /// Asked for.
        need: String,
        /// Left.
        free: String,
        /// Claims prepared there, as `namespace/name`.
        holders: String,
    },
    /// Shares cannot be enforced.
    #[error("the limiter cannot be mounted: {why}")]
    Limiter {
        /// The reason and its cure.
        why: String,
    },
    /// The files of a share.
    #[error("{0}; look at the node's disk and at the plugin's mounts (privileged, Bidirectional)")]
    ShareFile(#[from] ShareFileError),
    /// A CDI spec.
    #[error("cannot {action} CDI spec {}: {source}; check --cdi-dir", path.display())]
    Cdi {
        /// `write` or `remove`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The lock.
    #[error("cannot lock {}: {source}; check that --state-dir is writable", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The API server was not reached or refused.
    #[error("cannot read it from the API server: {why}; the kubelet tries again")]
    Api {
        /// Its answer.
        why: String,
    },
    /// A bug.
    #[error("the plugin failed inside: {why}; see its log")]
    Internal {
        /// What happened.
        why: String,
    },
}

impl PrepareError {
    /// Every value [`PrepareError::reason`] can have.
    pub const REASONS: [&'static str; 16] = [
        "Api",
        "Cdi",
        "Checkpoint",
        "Config",
        "Device",
        "Gone",
        "Internal",
        "Limiter",
        "Lock",
        "MalformedUid",
        "NotAllocated",
        "OtherNode",
        "Overcommitted",
        "Replaced",
        "Result",
        "ShareFile",
    ];

    /// Metric label. Never the message: its values have no bound.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MalformedUid { .. } => "MalformedUid",
            Self::Gone => "Gone",
            Self::Replaced { .. } => "Replaced",
            Self::NotAllocated | Self::NothingOurs => "NotAllocated",
            Self::OtherNode { .. } => "OtherNode",
            Self::Result { .. } => "Result",
            Self::Config { .. } => "Config",
            Self::Device { .. } => "Device",
            Self::Overcommitted { .. } => "Overcommitted",
            Self::Limiter { .. } => "Limiter",
            Self::ShareFile(_) => "ShareFile",
            Self::Cdi { .. } => "Cdi",
            Self::Checkpoint(_) => "Checkpoint",
            Self::Lock { .. } => "Lock",
            Self::Api { .. } => "Api",
            Self::Internal { .. } => "Internal",
        }
    }
}
