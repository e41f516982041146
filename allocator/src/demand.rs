//! What one pod asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::Room;
use crate::overcommit::Oversubscribed;
use crate::policy::Policy;
use crate::topology::Topology;

/// Memory of one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemoryAsk {
    /// All of the GPU.
    All,
    /// So many bytes.
    Bytes(u64),
    /// Percent of whichever GPU it lands on: floor(percent x capacity / 100) to 1 MiB, at least 1 MiB.
    Percent(u32),
    /// None, and neither cores nor a tenant's place: the share only looks at the GPU (`adminAccess`), whoever is on it and
    /// however it is.
    Nothing,
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
    /// Every GPU of the node that the selectors match, also those that are taken or unhealthy; they are `count` at least.
    pub all: bool,
    /// Memory on each.
    pub memory: MemoryAsk,
    /// Percent of GPU time on each, 0..=100.
    pub cores: u32,
    /// Which of both may be promised to others too, where a GPU is overcommitted.
    pub oversubscribed: Oversubscribed,
    /// GPUs the selectors match.
    pub shapes: Shapes,
    /// Shapes with a taint that the request does not tolerate.
    pub barred: BTreeSet<u32>,
    /// Order of GPUs inside the node.
    pub gpu_policy: Policy,
    /// Whether its GPUs are to be close to each other.
    pub topology: Topology,
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

/// What GPUs of several requests, or of one request for several, have to do with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Which of [`Demand::requests`], by place.
    pub requests: BTreeSet<usize>,
    /// What must hold.
    pub rule: Rule,
    /// What each GPU (by device name) has; one that is not in here is not chosen.
    pub values: Arc<BTreeMap<String, u32>>,
}

/// What a constraint demands of its GPUs' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// All are equal (`matchAttribute`).
    Match,
    /// No two are equal (`distinctAttribute`).
    Distinct,
}

/// All that one pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// CPU, memory and one pod.
    pub room: Room,
    /// The pod's requests that are not allocated yet.
    pub requests: Vec<Request>,
    /// All of them hold at once.
    pub constraints: Vec<Constraint>,
    /// Order of nodes.
    pub node_policy: Policy,
    /// The only candidate, if there is one (a claim of the pod is allocated there, or the pod is bound there).
    pub only_node: Option<String>,
    /// Nodes that are out, and why.
    pub excluded: Exclusions,
}

impl Demand {
    /// What a node's GPUs must answer.
    pub(crate) fn parts(&self) -> (&[Request], &[Constraint]) {
        (&self.requests, &self.constraints)
    }
}
