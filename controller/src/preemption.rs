//! Pure: who has to go so that a pod of higher priority finds a place.
//!
//! On each node everybody of lower priority is taken away in thought; if the pod fits then, as many as can stay are put
//! back. Who is on the way out already is free of charge. Of all nodes the one wins where the fewest pods go, then where
//! they have the lowest priority, then where they are the youngest, then by name.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use vgpu_allocator::{Cluster, Demand, Placement, Room, Share};

use crate::claim;
use crate::model::Model;
use crate::pod::{self, Pod};

/// Nodes with a solution after which no further one is looked at, as kube-scheduler does in large clusters.
const ENOUGH_NODES: usize = 20;

/// Pods of one node that can only go together, because they share claims. Mostly it is one pod.
#[derive(Debug, Clone)]
pub struct Tenants {
    /// Who; nobody if they are gone and only their claims are left.
    pub pods: Vec<Arc<Pod>>,
    /// What they hold, by UID.
    claims: Vec<String>,
    /// Highest of them.
    priority: i32,
    /// Of the oldest.
    created: Option<Timestamp>,
    /// Bytes of GPU memory.
    memory: u64,
}

/// Tenants by node.
pub type ByNode = BTreeMap<String, Vec<Tenants>>;

/// A place, and who is in it.
#[derive(Debug)]
pub struct Found {
    /// Where the pod would go.
    pub placed: Placement,
    /// Who has to go first; empty if all of them are on their way.
    pub victims: Vec<Arc<Pod>>,
    /// Who is on the way out of that node.
    pub going: Vec<Arc<Pod>>,
}

/// Priority of a pod.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

/// Whether a pod wants nobody to go for it.
pub fn never(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never")
}

/// A PodDisruptionBudget, reduced to what counts here.
pub struct Budget {
    namespace: Option<String>,
    selector: Selector,
    /// Pods of it that may go now.
    allowed: i32,
}

impl Budget {
    /// `None` for one that selects nothing.
    pub fn read(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref()?.selector.clone()?.try_into().ok()?;
        let allowed = budget.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0).max(0);
        Some(Self { namespace: budget.namespace(), selector, allowed })
    }

    fn guards(&self, pod: &Pod) -> bool {
        self.namespace == pod.namespace() && self.selector.matches(pod.labels())
    }
}

/// Who of a node may go for a pod of this priority, all of them together: a budget lets only so many pods go, and those of
/// the lowest priority, then the youngest, are its first.
fn may_go<'a>(
    tenants: &'a [Tenants],
    priority: i32,
    budgets: &[Budget],
    may: &dyn Fn(&Pod) -> bool,
) -> Vec<&'a Tenants> {
    let is_lower = |t: &&Tenants| !t.is_going() && t.priority < priority && t.pods.iter().all(|p| may(p));
    let mut lower: Vec<&Tenants> = tenants.iter().filter(is_lower).collect();
    lower.sort_by_key(|t| (t.priority, Reverse(t.created)));
    let mut left: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    lower.retain(|tenants| {
        let guarded = |b: &Budget| tenants.pods.iter().filter(|p| b.guards(p)).count() as i32;
        let after: Vec<i32> = budgets.iter().zip(&left).map(|(b, left)| left - guarded(b)).collect();
        let fits = after.iter().all(|left| *left >= 0);
        if fits {
            left = after;
        }
        fits
    });
    lower
}

impl Tenants {
    fn of(pods: Vec<Arc<Pod>>, claims: Vec<String>, cluster: &Cluster) -> Self {
        let memory = claims.iter().filter_map(|uid| cluster.claim(uid)).flatten().map(|s| s.memory).sum();
        Self {
            priority: pods.iter().map(|p| priority(p)).max().unwrap_or(i32::MAX),
            created: pods.iter().filter_map(|p| p.creation_timestamp().map(|t| t.0)).min(),
            pods,
            claims,
            memory,
        }
    }

    fn is_going(&self) -> bool {
        self.pods.iter().all(|p| pod::is_going(p))
    }
}

/// Node, pods and claims (UIDs) of pods that share claims.
type Group = (String, Vec<Arc<Pod>>, Vec<String>);

/// Who is where: pods that are bound, or that hold claims of ours.
pub fn tenants(model: &Model) -> ByNode {
    // Pods that share a claim have one root.
    let mut roots: HashMap<String, String> = HashMap::new();
    fn root(roots: &HashMap<String, String>, pod: &str) -> String {
        let mut at = pod;
        while let Some(next) = roots.get(at).filter(|n| n.as_str() != at) {
            at = next;
        }
        at.to_owned()
    }
    let mut nodes: HashMap<String, String> = HashMap::new();
    let mut by_node = ByNode::new();
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (uid, claim) in &model.claims {
        let Some(node) = claim::node_of(claim) else { continue };
        let mut first: Option<String> = None;
        for user in model.users(claim) {
            let user = user.uid().unwrap_or_default();
            nodes.entry(user.clone()).or_insert_with(|| node.clone());
            let of = root(&roots, &user);
            match &first {
                Some(first) => drop(roots.insert(of, root(&roots, first))),
                None => first = Some(of),
            }
        }
        match first {
            Some(first) => held.entry(first).or_default().push(uid.clone()),
            // Its pods are gone, and it is about to be.
            None => by_node.entry(node).or_default().push(Tenants::of(
                Vec::new(),
                vec![uid.clone()],
                &model.cluster,
            )),
        }
    }
    let mut groups: HashMap<String, Group> = HashMap::new();
    for found in &model.pods {
        let uid = found.uid().unwrap_or_default();
        let Some(node) = pod::bound_to(found).map(str::to_owned).or_else(|| nodes.get(&uid).cloned()) else {
            continue;
        };
        let group = groups.entry(root(&roots, &uid)).or_insert_with(|| (node, Vec::new(), Vec::new()));
        group.1.push(found.clone());
    }
    for (pod, claims) in held {
        if let Some(group) = groups.get_mut(&root(&roots, &pod)) {
            group.2.extend(claims);
        }
    }
    for (_, (node, mut pods, mut claims)) in groups {
        pods.sort_by(|a, b| pod::order(a, b));
        claims.sort();
        by_node.entry(node).or_default().push(Tenants::of(pods, claims, &model.cluster));
    }
    by_node.values_mut().for_each(|list| {
        list.sort_by(|a, b| match (a.pods.first(), b.pods.first()) {
            (Some(x), Some(y)) => pod::order(x, y),
            (x, y) => x.is_some().cmp(&y.is_some()).then_with(|| a.claims.cmp(&b.claims)),
        })
    });
    by_node
}

/// What was taken away in thought, to put it back.
struct Out {
    claims: Vec<(String, Vec<Share>)>,
    pods: Vec<(String, Room)>,
}

fn take(cluster: &mut Cluster, tenants: &Tenants) -> Out {
    let mut claims = Vec::new();
    for uid in &tenants.claims {
        claims.extend(cluster.claim(uid).map(|shares| (uid.clone(), shares.to_vec())));
        cluster.drop_claim(uid);
    }
    let mut pods = Vec::new();
    for uid in tenants.pods.iter().filter_map(|p| p.uid()) {
        pods.extend(cluster.pod(&uid).map(|(_, room)| (uid.clone(), room)));
        cluster.drop_pod(&uid);
    }
    Out { claims, pods }
}

fn put_back(cluster: &mut Cluster, node: &str, out: Out) {
    for (uid, shares) in out.claims {
        cluster.hold_claim(&uid, shares);
    }
    for (uid, room) in out.pods {
        cluster.hold_pod(&uid, node, room);
    }
}

/// The best place for a pod of this priority that fits nowhere as things are. Nobody goes that `may` does not let go, and
/// no more than the budgets allow. The cluster is as before when it returns.
pub fn find(
    cluster: &mut Cluster,
    demand: &Demand,
    by_node: &ByNode,
    priority: i32,
    budgets: &[Budget],
    may: &dyn Fn(&Pod) -> bool,
) -> Option<Found> {
    let mut best: Option<(Key, Found)> = None;
    let mut solutions = 0;
    for (node, tenants) in
        by_node.iter().filter(|(n, _)| demand.only_node.as_ref().is_none_or(|only| only == *n))
    {
        let going: Vec<&Tenants> = tenants.iter().filter(|t| t.is_going()).collect();
        let lower = may_go(tenants, priority, budgets, may);
        if going.is_empty() && lower.is_empty() {
            continue;
        }
        let free: Vec<Out> = going.iter().map(|t| take(cluster, t)).collect();
        // Fewest by putting the small ones back first, lowest by putting the high ones back first.
        let mut small_stay = lower.clone();
        small_stay.sort_by_key(|t| (t.memory, Reverse(t.priority), t.created));
        let mut high_stay = lower;
        high_stay.sort_by_key(|t| (Reverse(t.priority), t.memory, t.created));
        for order in [small_stay, high_stay] {
            let Some((placed, victims)) = reprieve(cluster, demand, node, &order) else { break };
            let key = Key::of(node, &victims);
            if best.as_ref().is_none_or(|(k, _)| key < *k) {
                let pods = |list: &[&Tenants]| list.iter().flat_map(|t| t.pods.clone()).collect();
                best = Some((key, Found { placed, victims: pods(&victims), going: pods(&going) }));
            }
            solutions += 1;
        }
        free.into_iter().for_each(|out| put_back(cluster, node, out));
        if solutions >= 2 * ENOUGH_NODES {
            break;
        }
    }
    best.map(|(_, found)| found)
}

/// Takes all of them away and puts back, in this order, who can stay.
fn reprieve<'a>(
    cluster: &mut Cluster,
    demand: &Demand,
    node: &str,
    order: &[&'a Tenants],
) -> Option<(Placement, Vec<&'a Tenants>)> {
    let demand = Demand { only_node: Some(node.to_owned()), ..demand.clone() };
    let mut outs: Vec<Out> = order.iter().map(|t| take(cluster, t)).collect();
    outs.reverse();
    let Ok(mut placed) = cluster.plan(&demand) else {
        outs.into_iter().for_each(|out| put_back(cluster, node, out));
        return None;
    };
    let (mut victims, mut gone) = (Vec::new(), Vec::new());
    for tenants in order {
        let Some(out) = outs.pop() else { break };
        put_back(cluster, node, out);
        match cluster.plan(&demand) {
            Ok(still) => placed = still,
            Err(_) => {
                gone.push(take(cluster, tenants));
                victims.push(*tenants);
            }
        }
    }
    gone.into_iter().for_each(|out| put_back(cluster, node, out));
    Some((placed, victims))
}

/// What the better of two solutions has less of.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    pods: usize,
    priority: Option<i32>,
    oldest: Option<Timestamp>,
    node: String,
}

impl Key {
    fn of(node: &str, victims: &[&Tenants]) -> Self {
        Self {
            pods: victims.iter().map(|t| t.pods.len()).sum(),
            priority: victims.iter().map(|t| t.priority).max(),
            oldest: victims.iter().filter_map(|t| t.created).min(),
            node: node.to_owned(),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |k: &Self| (k.pods, k.priority, Reverse(k.oldest));
        key(self).cmp(&key(other)).then_with(|| self.node.cmp(&other.node))
    }
}
