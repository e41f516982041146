//! What one pod asks for.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Room;
use crate::policy::Policy;

/// Memory of one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemoryAsk {
    /// All of the GPU.
    All,
    /// So many bytes.
    Bytes(u64),
    /// Percent of whichever GPU it lands on: floor(percent x capacity / 100) to 1 MiB, at least 1 MiB.
    Percent(u32),
}

/// GPU shapes a request's selectors match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shapes {
    /// Every shape.
    Any,
    /// These.
    Of(BTreeSet<u32>),
}

impl Shapes {
    pub(crate) fn contains(&self, shape: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Of(shapes) => shapes.contains(&shape),
        }
    }
}

/// One request of one claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The claim's UID.
    pub claim: String,
    /// Name of the request in the claim.
    pub name: String,
    /// GPUs wanted, at least 1; always different ones.
    pub count: u32,
    /// Memory on each.
    pub memory: MemoryAsk,
    /// Percent of GPU time on each, 0..=100.
    pub cores: u32,
    /// GPUs the selectors match.
    pub shapes: Shapes,
    /// Order of GPUs inside the node.
    pub gpu_policy: Policy,
    /// Containers (by index) that use the request. Requests of one container go to different GPUs where possible.
    pub containers: BTreeSet<u32>,
}

/// Why the caller rules a node out before GPUs are looked at. The text stands in refusals, so it is CamelCase.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeExclusion(pub String);

/// Nodes that are out, and why. A name's reason is said before its class's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Every node of a class ([`crate::Node::class`]): NotReady, Tainted, NodeAffinityMismatch, ...
    pub classes: BTreeMap<u32, NodeExclusion>,
    /// Single nodes, by name: a penalty, an affinity to names. Costs time for each.
    pub nodes: BTreeMap<String, NodeExclusion>,
}

impl Exclusions {
    pub(crate) fn of(&self, name: &str, class: u32) -> Option<&NodeExclusion> {
        self.nodes.get(name).or_else(|| self.classes.get(&class))
    }
}

/// All that one pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// CPU, memory and one pod.
    pub room: Room,
    /// The pod's requests that are not allocated yet.
    pub requests: Vec<Request>,
    /// Order of nodes.
    pub node_policy: Policy,
    /// The only candidate, if there is one (a claim of the pod is allocated there, or the pod is bound there).
    pub only_node: Option<String>,
    /// Nodes that are out, and why.
    pub excluded: Exclusions,
}
