//! What there is (nodes, GPUs) and what is taken (rooms of pods, shares of claims).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fragmentation::Fragmentation;
use crate::index::Index;
use crate::mix::Mix;
use crate::overcommit::{Overcommit, Oversubscribed};
use crate::taken::NodeTaken;
use crate::topology::Site;

/// What a node has for pods, or what a pod takes of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
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
    /// GPU time to share out, in percent.
    pub cores: u32,
    /// What may be promised of it to shares that let themselves be oversubscribed.
    pub overcommit: Overcommit,
    /// Most tenants.
    pub shares: u32,
    /// Whether it takes new shares.
    pub state: GpuState,
    /// Where it is in its node.
    pub site: Site,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Allocatable for pods. Pods on the node are held by [`Cluster::hold_pod`].
    pub room: Room,
    /// Its GPUs; order does not matter.
    pub gpus: Vec<Gpu>,
    /// Key of everything else pods choose nodes by (labels, taints, readiness): nodes of one class are ruled out
    /// together ([`crate::Exclusions::classes`]).
    pub class: u32,
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
    /// Which of both may be promised to others too.
    pub oversubscribed: Oversubscribed,
}

/// A GPU on which more is held firmly than it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overcommitted {
    /// Node name.
    pub node: String,
    /// Device name.
    pub gpu: String,
    /// Claims (UIDs) on it.
    pub claims: Vec<String>,
}

/// Nodes, and who takes what of them.
///
/// Holdings may name nodes or GPUs that are not (or no longer) there: they count again when those come back.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(crate) nodes: BTreeMap<String, Node>,
    taken: BTreeMap<String, NodeTaken>,
    // There may be dozens for each node, so that what a name takes counts.
    pods: BTreeMap<Box<str>, Held<(Box<str>, Room)>>,
    claims: BTreeMap<Box<str>, Held<Arc<[Share]>>>,
    round: u64,
    derived: Mutex<Derived>,
}

/// What a pod or a claim takes, and the round in which that was said last.
#[derive(Debug, Clone)]
struct Held<T> {
    what: T,
    round: u64,
}

/// What follows from the rest and is kept for speed. It is caught up when a decision needs it, so that changes are
/// cheap and many of one node cost as much as one.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    /// Nodes (by name) that changed since.
    stale: BTreeSet<String>,
    pub(crate) index: Index,
    pub(crate) fragmentation: Fragmentation,
}

impl Clone for Cluster {
    fn clone(&self) -> Self {
        let fragmentation = self.derived().fragmentation.fresh();
        let stale = self.nodes.keys().cloned().collect();
        Self {
            nodes: self.nodes.clone(),
            taken: self.taken.clone(),
            pods: self.pods.clone(),
            claims: self.claims.clone(),
            round: self.round,
            derived: Mutex::new(Derived { stale, index: Index::default(), fragmentation }),
        }
    }
}

impl Cluster {
    /// Adds a node or replaces what is known of it; holdings stay.
    pub fn set_node(&mut self, name: &str, mut node: Node) {
        node.gpus.sort_by(|a, b| a.name.cmp(&b.name));
        if self.nodes.get(name) != Some(&node) {
            self.nodes.insert(name.to_owned(), node);
            self.touch(name);
        }
    }

    /// Forgets a node; holdings on it stay known.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
        self.touch(name);
    }

    fn touch(&mut self, node: &str) {
        let derived = self.derived.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !derived.stale.contains(node) {
            derived.stale.insert(node.to_owned());
        }
    }

    /// Takes over what a mix drew, and prices what is free now, for LeastFragmentation. Without it that policy is
    /// Binpack. Call it now and then, off the path of decisions: it scores the nodes anew for the pods that come often,
    /// and the first decision for another kind of pod scores them for that one.
    pub fn learn(&mut self, mix: &Mix) {
        self.derived().fragmentation.learn(mix, self);
    }

    /// What follows, caught up.
    pub(crate) fn derived(&self) -> MutexGuard<'_, Derived> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        for name in std::mem::take(&mut derived.stale) {
            let node = self.nodes.get(&name).map(|node| (node, self.taken.get(&name)));
            derived.index.set(&name, node);
            derived.fragmentation.set(&name, node);
        }
        derived
    }

    /// Names of the nodes there are.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Begins a round: who still takes something says so again before [`Self::end_round`]. So a cluster can be kept in
    /// step with a list of everything that is held, at little more than the cost of what has changed.
    pub fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Drops everything that was not held again since [`Self::begin_round`], and the nodes that `is_there` denies.
    pub fn end_round(&mut self, is_there: impl Fn(&str) -> bool) {
        let round = self.round;
        let old = |held: u64| held != round;
        let pods: Vec<Box<str>> =
            self.pods.iter().filter(|(_, h)| old(h.round)).map(|(uid, _)| uid.clone()).collect();
        pods.iter().for_each(|uid| self.drop_pod(uid));
        let claims: Vec<Box<str>> =
            self.claims.iter().filter(|(_, h)| old(h.round)).map(|(uid, _)| uid.clone()).collect();
        claims.iter().for_each(|uid| self.drop_claim(uid));
        let nodes: Vec<String> = self.nodes.keys().filter(|name| !is_there(name)).cloned().collect();
        nodes.iter().for_each(|name| self.remove_node(name));
    }

    /// A pod (by UID) takes room on a node; replaces what that pod held before.
    pub fn hold_pod(&mut self, pod: &str, node: &str, room: Room) {
        let round = self.round;
        if let Some(held) = self.pods.get_mut(pod).filter(|h| *h.what.0 == *node && h.what.1 == room) {
            held.round = round;
            return;
        }
        self.drop_pod(pod);
        let taken = &mut self.taken.entry(node.to_owned()).or_default().room;
        taken.cpu_milli = taken.cpu_milli.saturating_add(room.cpu_milli);
        taken.memory = taken.memory.saturating_add(room.memory);
        taken.pods = taken.pods.saturating_add(room.pods);
        self.pods.insert(pod.into(), Held { what: (node.into(), room), round });
        self.touch(node);
    }

    /// Node and room a pod takes.
    pub fn pod(&self, pod: &str) -> Option<(&str, Room)> {
        self.pods.get(pod).map(|held| (&*held.what.0, held.what.1))
    }

    /// The pod takes nothing any more.
    pub fn drop_pod(&mut self, pod: &str) {
        let Some(Held { what: (node, room), .. }) = self.pods.remove(pod) else { return };
        if let Some(taken) = self.taken.get_mut(&*node) {
            taken.room.cpu_milli = taken.room.cpu_milli.saturating_sub(room.cpu_milli);
            taken.room.memory = taken.room.memory.saturating_sub(room.memory);
            taken.room.pods = taken.room.pods.saturating_sub(room.pods);
            self.forget_empty(&node);
        }
        self.touch(&node);
    }

    /// A claim (by UID) holds these shares; replaces what that claim held before.
    pub fn hold_claim(&mut self, claim: &str, shares: impl Into<Arc<[Share]>>) {
        let shares = shares.into();
        if self.still_holds(claim, &shares) {
            return;
        }
        self.drop_claim(claim);
        for share in &*shares {
            let node = self.taken.entry(share.node.clone()).or_default();
            node.change(&share.gpu, |gpu| gpu.add((share.memory, share.cores), share.oversubscribed));
            self.touch(&share.node);
        }
        self.claims.insert(claim.into(), Held { what: shares, round: self.round });
    }

    /// Whether the claim holds just these shares; if so, that was said in this round.
    pub fn still_holds(&mut self, claim: &str, shares: &[Share]) -> bool {
        let round = self.round;
        let same = self.claims.get_mut(claim).filter(|held| *held.what == *shares);
        same.map(|held| held.round = round).is_some()
    }

    /// The claim holds nothing any more.
    pub fn drop_claim(&mut self, claim: &str) {
        let held = self.claims.remove(claim);
        for share in held.iter().flat_map(|held| held.what.iter()) {
            let Some(taken) = self.taken.get_mut(&share.node) else { continue };
            taken.change(&share.gpu, |gpu| gpu.sub((share.memory, share.cores), share.oversubscribed));
            self.forget_empty(&share.node);
            self.touch(&share.node);
        }
    }

    /// What a claim holds.
    pub fn claim(&self, claim: &str) -> Option<&[Share]> {
        self.claims.get(claim).map(|held| &*held.what)
    }

    fn forget_empty(&mut self, node: &str) {
        if self.taken.get(node).is_some_and(|t| *t == NodeTaken::default()) {
            self.taken.remove(node);
        }
    }

    pub(crate) fn taken(&self, node: &str) -> Option<&NodeTaken> {
        self.taken.get(node)
    }

    /// GPUs on which more is held firmly, or by more tenants, than they have. It cannot happen, so it is checked. How much is
    /// promised beyond that is the admin's to say, and nobody is turned out who came before it was said.
    pub fn overcommitted(&self) -> Vec<Overcommitted> {
        let mut found = Vec::new();
        for (name, node) in &self.nodes {
            let Some(taken) = self.taken.get(name) else { continue };
            for gpu in &node.gpus {
                let Some(t) = taken.gpu(&gpu.name) else { continue };
                if t.exceeds(gpu) {
                    let is_here = |s: &Share| s.node == *name && s.gpu == gpu.name;
                    let claims = self.claims.iter().filter(|(_, held)| held.what.iter().any(is_here));
                    found.push(Overcommitted {
                        node: name.clone(),
                        gpu: gpu.name.clone(),
                        claims: claims.map(|(uid, _)| uid.to_string()).collect(),
                    });
                }
            }
        }
        found
    }
}
