//! What the stores hold, as the engine sees it. Built anew for each pass, with no memory of what changed: nothing to keep in
//! step, nothing to repair. What is kept from pass to pass only saves work ([`Kept`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::{Node as KubeNode, NodeSelector};
use kube::ResourceExt;
use vgpu_allocator::{Cluster, Exclusions, Node, Room, Share};

use crate::claim::{self, Claim};
use crate::facts::Facts;
use crate::pod::Pod;
use crate::preemption::ByNode;
use crate::quota::Quotas;
use crate::shapes::Shapes;
use crate::stores::Stores;
use crate::taint::Rule;
use crate::{node, pod};

/// What the next pass can use of this one.
#[derive(Default)]
pub struct Kept {
    cluster: Cluster,
    taught: bool,
    shares: Facts<Claim, Arc<[Share]>>,
    rooms: Facts<Pod, Room>,
}

/// Pods by what they name: namespace and name of a claim.
type Users = HashMap<(String, String), Vec<Arc<Pod>>>;

/// Everything a pass decides on.
pub struct Model {
    /// The engine's view.
    pub cluster: Cluster,
    /// Whether the cluster has been taught for LeastFragmentation.
    pub taught: bool,
    shares: Facts<Claim, Arc<[Share]>>,
    rooms: Facts<Pod, Room>,
    /// A node of each class: pods that name no node find the others of it alike.
    pub classes: Vec<Arc<KubeNode>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Arc<KubeNode>>,
    /// Claims by UID.
    pub claims: HashMap<String, Arc<Claim>>,
    /// Pods that have not ended.
    pub pods: Vec<Arc<Pod>>,
    users: OnceLock<Users>,
    /// What namespaces may hold, and hold.
    pub quotas: Quotas,
    /// Who is where, once somebody asked.
    pub tenants: Option<ByNode>,
    /// Places kept, by what they are held under.
    places: Vec<String>,
}

impl Model {
    /// Of what the stores hold now. `hami_quotas`: quotas limit by HAMi's keys too. What is held besides is to be said before
    /// [`Self::complete`].
    pub fn build(stores: &Stores, shapes: &mut Shapes, hami_quotas: bool, kept: Kept) -> Self {
        let Kept { mut cluster, taught, shares: mut held_by, mut rooms } = kept;
        cluster.begin_round();
        // The store's order is a hash map's; new shapes are numbered in the order of names.
        let mut slices = stores.slices.state();
        slices.sort_by_key(|s| s.name_any());
        let (classes, claims) = (stores.classes.state(), stores.claims.state());
        let of_classes = classes.iter().flat_map(|c| c.spec.selectors.iter().flatten());
        let requests = claims.iter().filter_map(|c| c.spec.devices.as_ref()?.requests.as_deref()).flatten();
        let of_requests = requests.flat_map(|request| {
            let exactly = request.exactly.iter().filter_map(|e| e.selectors.as_deref());
            exactly
                .chain(request.first_available.iter().flatten().filter_map(|s| s.selectors.as_deref()))
                .flatten()
        });
        let expressions =
            of_classes.chain(of_requests).filter_map(|s| Some(s.cel.as_ref()?.expression.as_str()));
        let rules = stores.taint_rules.iter().flat_map(|s| s.state());
        let mut rules: Vec<Rule> = rules.filter_map(|rule| Rule::read(&rule.data["spec"])).collect();
        rules.sort();
        let mut gpus = shapes.read(&slices, expressions, &rules);
        let quotas = stores.quotas.state();
        let memory = gpus.values().flatten().map(|g| (g.name.as_str(), g.memory));
        let mut quotas = Quotas::new(quotas.iter().map(|q| &**q), hami_quotas, memory);
        let nodes: BTreeMap<String, Arc<KubeNode>> =
            stores.nodes.state().into_iter().map(|n| (n.name_any(), n)).collect();
        let (mut classes, mut known) = (Vec::new(), HashMap::new());
        for (name, found) in &nodes {
            let gpus = gpus.remove(name).unwrap_or_default();
            let class = *known.entry(node::traits(found)).or_insert_with(|| {
                classes.push(found.clone());
                classes.len() as u32 - 1
            });
            cluster.set_node(name, Node { room: node::room(found), gpus, class });
        }
        held_by.update(&claims, |claim| claim::shares(claim).into());
        let mut by_uid = HashMap::with_capacity(claims.len());
        for claim in claims {
            let uid = claim.uid().unwrap_or_default();
            if let Some(held) = held_by.of(&claim).filter(|held| !held.is_empty()) {
                quotas.hold(claim.metadata.namespace.as_deref().unwrap_or_default(), held.iter());
                if !cluster.still_holds(&uid, held) {
                    cluster.hold_claim(&uid, held.clone());
                }
            }
            by_uid.insert(uid, claim);
        }
        let mut pods = stores.pods.state();
        pods.retain(|p| !pod::is_done(p));
        rooms.update(&pods, pod::room);
        for found in &pods {
            if let Some(node) = pod::bound_to(found) {
                let room = rooms.of(found).copied().unwrap_or_default();
                cluster.hold_pod(found.metadata.uid.as_deref().unwrap_or_default(), node, room);
            }
        }
        Self {
            cluster,
            taught,
            shares: held_by,
            rooms,
            classes,
            nodes,
            claims: by_uid,
            pods,
            users: OnceLock::new(),
            quotas,
            tenants: None,
            places: Vec::new(),
        }
    }

    /// Pods that have not ended and name a claim.
    pub fn users(&self, claim: &Claim) -> &[Arc<Pod>] {
        // Most passes ask of no claim.
        let users = self.users.get_or_init(|| {
            let mut users = Users::new();
            for pod in &self.pods {
                let namespace = pod.namespace().unwrap_or_default();
                for claim in pod::claims(pod).into_iter().filter_map(|c| c.claim) {
                    users.entry((namespace.clone(), claim)).or_default().push(pod.clone());
                }
            }
            users
        });
        let key = (claim.namespace().unwrap_or_default(), claim.name_any());
        users.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    /// All that is held was said: what the cluster knows besides is over.
    pub fn complete(&mut self) {
        self.cluster.end_round(|name| self.nodes.contains_key(name));
    }

    /// For the next pass.
    pub fn keep(self) -> Kept {
        Kept { cluster: self.cluster, taught: self.taught, shares: self.shares, rooms: self.rooms }
    }

    /// A pod takes room on a node.
    pub fn hold_pod(&mut self, pod: &Arc<Pod>, node: &str) {
        let room = self.rooms.of(pod).copied().unwrap_or_else(|| pod::room(pod));
        self.cluster.hold_pod(pod.metadata.uid.as_deref().unwrap_or_default(), node, room);
    }

    /// Holds a place for a pod (by UID) until [`Self::drop_places`], although others are still in it.
    pub fn keep_place(&mut self, pod: &str, node: &str, shares: Vec<Share>, room: Room) {
        let key = format!("place of {pod}");
        self.cluster.hold_claim(&key, shares);
        self.cluster.hold_pod(&key, node, room);
        self.places.push(key);
    }

    /// What is held after this is really held.
    pub fn drop_places(&mut self) {
        for key in std::mem::take(&mut self.places) {
            self.cluster.drop_claim(&key);
            self.cluster.drop_pod(&key);
        }
    }

    /// Nodes a pod may not go to, and why.
    pub fn excluded(&self, pod: &Pod, volumes: &[NodeSelector]) -> Exclusions {
        let reason = |node: &KubeNode| node::exclusion(node, pod, volumes);
        if node::asks_for_names(pod, volumes) {
            let nodes = self.nodes.iter().filter_map(|(name, node)| Some((name.clone(), reason(node)?)));
            return Exclusions { nodes: nodes.collect(), ..Exclusions::default() };
        }
        let classes = (0..).zip(&self.classes).filter_map(|(class, node)| Some((class, reason(node)?)));
        Exclusions { classes: classes.collect(), ..Exclusions::default() }
    }
}

/// Where the volumes a pod is bound to can be reached.
pub fn volume_affinity(stores: &Stores, pod: &Pod) -> Vec<NodeSelector> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let selector = |claim: &str| -> Option<NodeSelector> {
        let claim = stores.volume_claims.get_in(&namespace, claim)?;
        let volume = stores.volumes.get(claim.spec.as_ref()?.volume_name.as_deref()?)?;
        volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone()
    };
    let names =
        volumes.iter().filter_map(|v| v.persistent_volume_claim.as_ref()).map(|c| c.claim_name.as_str());
    names.filter_map(selector).collect()
}
