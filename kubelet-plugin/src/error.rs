//! Why a claim was not prepared. Printed with its causes into the reply; the kubelet shows it on the pod.

use std::io;
use std::path::PathBuf;

/// One claim's failure.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The API server.
    #[error("claim {claim}: cannot be read from the API server: {message}")]
    Read {
        /// Namespace and name.
        claim: String,
        /// What it said.
        message: String,
    },
    /// Another claim of that name.
    #[error(
        "claim {claim}: the API server has UID {found}, the kubelet asks for {asked}; the pod is waiting for a claim that was replaced"
    )]
    OtherClaim {
        /// Namespace and name.
        claim: String,
        /// UID stored.
        found: String,
        /// UID asked for.
        asked: String,
    },
    /// It is not allocated, or not by this driver.
    #[error(
        "claim {claim}: nothing of driver {driver} is allocated; the controller allocates it before the pod is bound"
    )]
    NotAllocated {
        /// Namespace and name.
        claim: String,
        /// This driver.
        driver: &'static str,
    },
    /// The pod runs on one node and its shares are on another.
    #[error(
        "claim {claim}: its shares are on node {allocated}, the pod is on {own}; delete the pod, it will be placed again"
    )]
    OtherNode {
        /// Namespace and name.
        claim: String,
        /// Node of the allocation.
        allocated: String,
        /// This node.
        own: String,
    },
    /// The GPU is not here.
    #[error(
        "claim {claim}: this node has no usable GPU {device}; if it broke, delete the pod and it will be placed elsewhere"
    )]
    UnknownGpu {
        /// Namespace and name.
        claim: String,
        /// Device name.
        device: String,
    },
    /// What stands in the allocation cannot be understood.
    #[error("claim {claim}: status.allocation.devices.results: {message}")]
    BadAllocation {
        /// Namespace and name.
        claim: String,
        /// What is wrong.
        message: String,
    },
    /// Last line of defence: the shares prepared on the GPU and this one exceed it.
    #[error(
        "claim {claim}: {device} has {free} left and the share needs {need}; the GPU was promised twice, delete the pod"
    )]
    Overcommitted {
        /// Namespace and name.
        claim: String,
        /// Device name.
        device: String,
        /// What the share takes.
        need: String,
        /// What is left.
        free: String,
    },
    /// A file, folder or mount.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl PrepareError {
    /// Event reason and metric label. Never the message: its values have no bound.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "Read",
            Self::OtherClaim { .. } => "OtherClaim",
            Self::NotAllocated { .. } => "NotAllocated",
            Self::OtherNode { .. } => "OtherNode",
            Self::UnknownGpu { .. } => "UnknownGpu",
            Self::BadAllocation { .. } => "BadAllocation",
            Self::Overcommitted { .. } => "Overcommitted",
            Self::Io { .. } => "Io",
        }
    }

    /// Every reason, so that each has its metric from the start.
    pub const REASONS: [&'static str; 8] = [
        "Read",
        "OtherClaim",
        "NotAllocated",
        "OtherNode",
        "UnknownGpu",
        "BadAllocation",
        "Overcommitted",
        "Io",
    ];

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
