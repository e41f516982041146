//! The engine's answers.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::Share;
use crate::demand::NodeExclusion;
use crate::overcommit::Oversubscribed;

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
    /// Which of both may be promised to others too.
    pub oversubscribed: Oversubscribed,
}

impl PlacedShare {
    /// What is held for it on the placement's node.
    pub fn on(&self, node: &str) -> Share {
        Share {
            node: node.to_owned(),
            gpu: self.gpu.clone(),
            memory: self.memory,
            cores: self.cores,
            oversubscribed: self.oversubscribed,
        }
    }

    /// Whether it takes nothing of the GPU: only [`crate::MemoryAsk::Nothing`] takes no memory.
    pub fn looks_only(&self) -> bool {
        self.memory == 0
    }
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
    /// It has a taint that the request does not tolerate.
    Tainted,
    /// Unhealthy.
    Unhealthy,
    /// It fits alone, but the pod's requests together do not fit its node.
    NotEnoughGpus,
    /// The same, where a request wants GPUs that reach each other without the host ([`crate::Topology::Require`]).
    NotEnoughJoinedGpus,
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
    /// GPUs of the cluster.
    pub gpus: u32,
    /// Reasons on GPUs of nodes that were not out.
    pub gpu_reasons: BTreeMap<GpuReason, u32>,
    /// Reasons for whole nodes.
    pub node_reasons: BTreeMap<NodeReason, u32>,
    /// Largest free memory among GPUs that lacked it, and what was asked, in bytes.
    pub memory: Option<(u64, u64)>,
    /// Largest free GPU time among GPUs that lacked it, and what was asked, in percent.
    pub cores: Option<(u32, u32)>,
}

impl GpuReason {
    /// Every reason, in order.
    pub const ALL: [Self; 8] = [
        Self::InsufficientMemory,
        Self::InsufficientCores,
        Self::NoSharesLeft,
        Self::ModelMismatch,
        Self::Tainted,
        Self::Unhealthy,
        Self::NotEnoughGpus,
        Self::NotEnoughJoinedGpus,
    ];

    /// As refusals print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InsufficientMemory => "InsufficientMemory",
            Self::InsufficientCores => "InsufficientCores",
            Self::NoSharesLeft => "NoSharesLeft",
            Self::ModelMismatch => "ModelMismatch",
            Self::Tainted => "Tainted",
            Self::Unhealthy => "Unhealthy",
            Self::NotEnoughGpus => "NotEnoughGpus",
            Self::NotEnoughJoinedGpus => "NotEnoughJoinedGpus",
        }
    }
}

impl fmt::Display for NodeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded(NodeExclusion(reason)) => f.write_str(reason),
            Self::InsufficientCpu => f.write_str("InsufficientCpu"),
            Self::InsufficientHostMemory => f.write_str("InsufficientHostMemory"),
            Self::TooManyPods => f.write_str("TooManyPods"),
            Self::NotTheNode => f.write_str("NotTheNode"),
        }
    }
}

/// Tenths of Gi from 1Gi on, else whole Mi. What is free is rounded down and what is asked up, so that a number never
/// looks enough when it is not.
fn short(bytes: u64, up: bool) -> String {
    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    if bytes < GIB {
        let mib = if up { bytes.div_ceil(MIB) } else { bytes / MIB };
        return format!("{mib}Mi");
    }
    let tenths = u128::from(bytes) * 10;
    let tenths = if up { tenths.div_ceil(GIB.into()) } else { tenths / u128::from(GIB) };
    if tenths.is_multiple_of(10) {
        format!("{}Gi", tenths / 10)
    } else {
        format!("{}.{}Gi", tenths / 10, tenths % 10)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{} GPUs", self.gpus)?;
        // The most frequent reason first; equal ones in the order of the type.
        let mut reasons: Vec<_> = self.gpu_reasons.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), **reason));
        let mut words: Vec<String> = Vec::new();
        for (reason, count) in reasons {
            let detail = match (reason, self.memory, self.cores) {
                (GpuReason::InsufficientMemory, Some((free, asked)), _) => {
                    format!(" (largest free {}, asked {})", short(free, false), short(asked, true))
                }
                (GpuReason::InsufficientCores, _, Some((free, asked))) => {
                    format!(" (most free {free} %, asked {asked} %)")
                }
                _ => String::new(),
            };
            words.push(format!("{count} {}{detail}", reason.name()));
        }
        for (reason, count) in &self.node_reasons {
            let nodes = if *count == 1 { "node" } else { "nodes" };
            words.push(format!("{count} {nodes} {reason}"));
        }
        if words.is_empty() {
            words.push("no node has a GPU of this driver".to_owned());
        }
        write!(f, ": {}", words.join(", "))
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_never_look_enough_when_they_are_not() {
        let mib = |n: u64| n << 20;
        assert_eq!(short(mib(7_500), true), "7.4Gi");
        assert_eq!(short(mib(7_500), false), "7.3Gi");
        assert_eq!(short(mib(500), true), "500Mi");
        assert_eq!(short(8 << 30, true), "8Gi");
    }
}
