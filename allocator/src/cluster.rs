//! What there is (nodes, GPUs) and what is taken (rooms of pods, shares of claims).

use std::collections::BTreeMap;

/// What a node has for pods, or what a pod takes of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// CPU in thousandths of a core.
    pub cpu_milli: u64,
    /// Host memory in bytes.
    pub memory: u64,
    /// Pods; 1 for a pod.
    pub pods: u32,
}

/// Whether a GPU takes new shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GpuState {
    /// It does.
    #[default]
    Healthy,
    /// The driver lost it.
    Unhealthy,
}

/// One GPU that can be shared out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Device name, unique in the node.
    pub name: String,
    /// Key of everything selectors can see of it. Requests name the shapes they match ([`crate::Shapes`]).
    pub shape: u32,
    /// Memory to share out, in bytes.
    pub memory: u64,
    /// GPU time to share out, in percent; 100 without overcommit.
    pub cores: u32,
    /// Most tenants.
    pub shares: u32,
    /// Whether it takes new shares.
    pub state: GpuState,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Allocatable for pods. Pods on the node are held by [`Cluster::hold_pod`].
    pub room: Room,
    /// Its GPUs; order does not matter.
    pub gpus: Vec<Gpu>,
}

/// What one allocation result takes of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Node name.
    pub node: String,
    /// Device name.
    pub gpu: String,
    /// Bytes.
    pub memory: u64,
    /// Percent of GPU time.
    pub cores: u32,
}

/// Nodes, and who takes what of them.
///
/// Holdings may name nodes or GPUs that are not (or no longer) there: they count again when those come back.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    #[expect(dead_code, reason = "the engine is next")]
    nodes: BTreeMap<String, Node>,
}

impl Cluster {
    /// Adds a node or replaces what is known of it; holdings stay.
    pub fn set_node(&mut self, _name: &str, _node: Node) {
        unimplemented!()
    }

    /// Forgets a node; holdings on it stay known.
    pub fn remove_node(&mut self, _name: &str) {
        unimplemented!()
    }

    /// A pod (by UID) takes room on a node; replaces what that pod held before.
    pub fn hold_pod(&mut self, _pod: &str, _node: &str, _room: Room) {
        unimplemented!()
    }

    /// The pod takes nothing any more.
    pub fn drop_pod(&mut self, _pod: &str) {
        unimplemented!()
    }

    /// A claim (by UID) holds these shares; replaces what that claim held before.
    pub fn hold_claim(&mut self, _claim: &str, _shares: Vec<Share>) {
        unimplemented!()
    }

    /// The claim holds nothing any more.
    pub fn drop_claim(&mut self, _claim: &str) {
        unimplemented!()
    }

    /// GPUs on which more is held than they have, with the claims (UIDs) on them. It cannot happen, so it is checked.
    pub fn overcommitted(&self) -> Vec<(String, String, Vec<String>)> {
        unimplemented!()
    }

    /// Where the pod goes, or why nowhere. Changes nothing.
    ///
    /// # Errors
    /// [`crate::Refusal`] with every reason and how many GPUs or nodes it holds for.
    pub fn plan(&self, _demand: &crate::Demand) -> Result<crate::Placement, crate::Refusal> {
        unimplemented!()
    }
}
