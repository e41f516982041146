//! The engine's answers.

use std::collections::BTreeMap;
use std::fmt;

use crate::demand::NodeExclusion;

/// Parts per million, 0..=1_000_000: integers only, so ties are real ties. Prints as `0.497`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(pub u32);

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000_000, self.0 % 1_000_000 / 1_000)
    }
}

/// One share of a placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedShare {
    /// The claim's UID.
    pub claim: String,
    /// Name of the request in the claim.
    pub request: String,
    /// Device name.
    pub gpu: String,
    /// Bytes.
    pub memory: u64,
    /// Percent of GPU time.
    pub cores: u32,
}

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Node name.
    pub node: String,
    /// In the order of the demand's requests.
    pub shares: Vec<PlacedShare>,
    /// The node's score under the node policy, the pod included.
    pub score: Score,
}

/// Why a GPU does not take a request. Counted per GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GpuReason {
    /// Free memory is less than asked.
    InsufficientMemory,
    /// Free GPU time is less than asked.
    InsufficientCores,
    /// Every tenant's place is taken.
    NoSharesLeft,
    /// The selectors do not match it.
    ModelMismatch,
    /// Unhealthy.
    Unhealthy,
    /// It fits alone, but the pod's requests together do not fit its node.
    NotEnoughGpus,
}

/// Why a whole node is out. Counted per node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeReason {
    /// Ruled out by the caller.
    Excluded(NodeExclusion),
    /// Its CPU is taken.
    InsufficientCpu,
    /// Its host memory is taken.
    InsufficientHostMemory,
    /// It runs as many pods as it may.
    TooManyPods,
    /// It is not the only candidate.
    NotTheNode,
}

/// Why a pod fits nowhere, in words one can act on:
/// `0/8 GPUs: 4 InsufficientMemory (largest free 3.2Gi, asked 7.5Gi), 3 ModelMismatch, 1 Unhealthy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// GPUs looked at.
    pub gpus: u32,
    /// Reasons on GPUs of nodes that were not out.
    pub gpu_reasons: BTreeMap<GpuReason, u32>,
    /// Reasons for whole nodes, with the GPUs on them.
    pub node_reasons: BTreeMap<NodeReason, u32>,
    /// Largest free memory among GPUs that lacked it, and what was asked, in bytes.
    pub memory: Option<(u64, u64)>,
    /// Largest free GPU time among GPUs that lacked it, and what was asked, in percent.
    pub cores: Option<(u32, u32)>,
}
