//! kube-scheduler, as far as claims allocated by somebody else see it.
//!
//! A pod without gates whose claims are all allocated is bound to a node that every allocation reaches and that has room:
//! it is nominated to it unless it is already, its claims are read again and reserved (PreBind), then it is bound. If no node
//! fits and some were left out because of an allocation, one claim's that no other pod has reserved is cleared (PostFilter), and
//! the nomination goes unless somebody ends on that node or the pod may preempt nobody. The node a pod is nominated to is tried
//! first, the others in the order of their names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use vgpu_api::Quantity;

use super::{CLAIMS, Task, claim_name, is_done, is_going, key, list, on_change, reaches, text};
use crate::server::FakeApi;
use crate::store::Key;

/// Name of the scheduler of pods that name none.
const DEFAULT: &str = "default-scheduler";

/// What the scheduler is told to do, at any time.
#[derive(Debug, Clone, Default)]
pub struct SchedulerRules {
    /// Nodes it takes for no pod, for a reason of its own.
    pub refuses: BTreeSet<String>,
    /// Time between its decision and the reservation.
    pub slow: Duration,
    /// It never clears an allocation.
    pub keeps_allocations: bool,
    /// It looks at no pod.
    pub stopped: bool,
}

/// The scheduler.
pub struct Scheduler {
    rules: Arc<Mutex<SchedulerRules>>,
    api: FakeApi,
    _task: Task,
}

struct Attempt {
    api: FakeApi,
    name: &'static str,
    rules: SchedulerRules,
    binding: Arc<Mutex<BTreeMap<Key, (String, Room)>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Room {
    cpu: i128,
    memory: i128,
    pods: i128,
}

impl Room {
    fn of(amounts: &Value) -> Self {
        let amount = |name: &str| amounts[name].as_str().and_then(|q| q.parse::<Quantity>().ok());
        Self {
            cpu: amount("cpu").map_or(0, |q| i128::from(q.milli_value())),
            memory: amount("memory").map_or(0, |q| i128::from(q.value())),
            pods: amount("pods").map_or(0, |q| i128::from(q.value())),
        }
    }

    fn of_pod(pod: &Value) -> Self {
        let requests = |c: &Value| Self::of(&c["resources"]["requests"]);
        let sum = list(&pod["spec"]["containers"]).iter().map(requests).fold(Self::default(), Self::plus);
        Self { pods: 1, ..sum }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory, pods: self.pods + other.pods }
    }

    fn within(self, other: Self) -> bool {
        self.cpu <= other.cpu && self.memory <= other.memory && self.pods <= other.pods
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scheduler {
    /// Starts the one whose pods name none.
    pub fn start(api: &FakeApi) -> Self {
        Self::start_as(api, DEFAULT)
    }

    /// Starts the one of pods with this `schedulerName`.
    pub fn start_as(api: &FakeApi, name: &'static str) -> Self {
        let rules: Arc<Mutex<SchedulerRules>> = Arc::default();
        let (seen, told, binding) = (api.clone(), rules.clone(), Arc::default());
        let task = on_change(api, move || {
            let rules = lock(&told).clone();
            Attempt { api: seen.clone(), name, rules, binding: Arc::clone(&binding) }.pass();
        });
        Self { rules, api: api.clone(), _task: task }
    }

    /// Changes what it is told; it looks at everything again.
    pub fn tell(&self, change: impl FnOnce(&mut SchedulerRules)) {
        change(&mut lock(&self.rules));
        self.api.store().work.raise();
    }
}

impl Attempt {
    fn pass(&self) {
        if self.rules.stopped {
            return;
        }
        let scheduler = |p: &Value| match text(&p["spec"]["schedulerName"]) {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        let waits = |p: &Arc<Value>| {
            scheduler(p) == self.name
                && text(&p["spec"]["nodeName"]).is_empty()
                && list(&p["spec"]["schedulingGates"]).is_empty()
                && !is_going(p)
                && !is_done(p)
                && !lock(&self.binding).contains_key(&key(p))
        };
        for pod in self.api.objects("", "pods").iter().filter(|p| waits(p)) {
            self.schedule(pod);
        }
    }

    fn schedule(&self, pod: &Arc<Value>) {
        let at = key(pod);
        let mut claims = Vec::new();
        for entry in list(&pod["spec"]["resourceClaims"]) {
            let name = claim_name(pod, entry);
            let claim = self.api.object(CLAIMS.0, CLAIMS.1, &(at.0.clone(), name.to_owned()));
            match claim.filter(|c| !is_going(c)) {
                // Not tried at all until the claim is there (PreEnqueue).
                None => return,
                Some(claim) => claims.push(claim),
            }
        }
        if claims.iter().any(|c| c["status"]["allocation"].is_null()) {
            return self.refuse(&at, "cannot allocate all claims");
        }
        let (mut fitting, mut by_claim) = (None, false);
        let mut nodes = self.api.objects("", "nodes");
        nodes.sort_by_key(|n| n["metadata"]["name"] != pod["status"]["nominatedNodeName"]);
        for node in nodes {
            let name = text(&node["metadata"]["name"]);
            if !self.takes(&node, pod) {
                continue;
            }
            if claims.iter().all(|c| reaches(&c["status"]["allocation"], name)) {
                fitting = fitting.or_else(|| Some(name.to_owned()));
            } else {
                by_claim = true;
            }
        }
        match fitting {
            Some(node) => self.bind(pod, node, &claims),
            None => {
                self.refuse(&at, "no node fits; resourceclaim not available on the node");
                let is_own = |r: &Value| r["uid"] == pod["metadata"]["uid"];
                let free = claims.iter().find(|c| list(&c["status"]["reservedFor"]).iter().all(is_own));
                if let Some(claim) = free.filter(|_| by_claim && !self.rules.keeps_allocations) {
                    let cleared = json!({"status": {"allocation": null, "reservedFor": null}});
                    self.api.act(CLAIMS.0, CLAIMS.1, &key(claim), true, &cleared);
                }
            }
        }
    }

    /// Everything but claims.
    fn takes(&self, node: &Value, pod: &Value) -> bool {
        let name = text(&node["metadata"]["name"]);
        let selected = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
        let labels = &node["metadata"]["labels"];
        if self.rules.refuses.contains(name)
            || node["spec"]["unschedulable"] == true
            || selected.into_iter().any(|(k, v)| labels[k.as_str()] != *v)
        {
            return false;
        }
        let here = self.api.objects("", "pods");
        let here = here.iter().filter(|p| text(&p["spec"]["nodeName"]) == name && !is_done(p));
        let bound = here.map(|p| Room::of_pod(p)).fold(Room::default(), Room::plus);
        let binding = lock(&self.binding);
        let assumed = binding.values().filter(|(n, _)| n == name).map(|(_, room)| *room);
        let used = assumed.fold(bound, Room::plus);
        used.plus(Room::of_pod(pod)).within(Room::of(&node["status"]["allocatable"]))
    }

    fn refuse(&self, at: &Key, message: &str) {
        let Some(pod) = self.api.object("", "pods", at) else { return };
        let mut conditions = list(&pod["status"]["conditions"]).to_vec();
        let is_said =
            |c: &Value| c["type"] == "PodScheduled" && c["status"] == "False" && c["message"] == message;
        let nominated = &pod["status"]["nominatedNodeName"];
        let ends_there = |p: &Arc<Value>| is_going(p) && p["spec"]["nodeName"] == *nominated;
        let keeps_nomination =
            pod["spec"]["preemptionPolicy"] == "Never" || self.api.objects("", "pods").iter().any(ends_there);
        let nominated = if keeps_nomination { nominated.clone() } else { Value::Null };
        if conditions.iter().any(is_said) && nominated == pod["status"]["nominatedNodeName"] {
            return;
        }
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}),
        );
        let status = json!({"conditions": conditions, "nominatedNodeName": nominated});
        self.api.act("", "pods", at, true, &json!({"status": status}));
    }

    fn bind(&self, pod: &Arc<Value>, node: String, claims: &[Arc<Value>]) {
        let (api, pod, binding) = (self.api.clone(), pod.clone(), self.binding.clone());
        let to_reserve: Vec<Key> = claims.iter().filter(|c| !is_reserved(c, &pod)).map(|c| key(c)).collect();
        if self.rules.slow.is_zero() {
            return reserve_and_bind(&api, &pod, &node, &to_reserve);
        }
        lock(&binding).insert(key(&pod), (node.clone(), Room::of_pod(&pod)));
        let slow = self.rules.slow;
        tokio::spawn(async move {
            tokio::time::sleep(slow).await;
            reserve_and_bind(&api, &pod, &node, &to_reserve);
            lock(&binding).remove(&key(&pod));
            // Whatever came of it, it is looked at again.
            api.store().work.raise();
        });
    }
}

fn is_reserved(claim: &Value, pod: &Value) -> bool {
    list(&claim["status"]["reservedFor"]).iter().any(|r| r["uid"] == pod["metadata"]["uid"])
}

/// PreBind reads claims again that were not reserved for the pod when it was tried: an allocation that is another by now is
/// reserved all the same. Those that were it does not look at any more.
fn reserve_and_bind(api: &FakeApi, pod: &Value, node: &str, to_reserve: &[Key]) {
    let at = key(pod);
    let uid = &pod["metadata"]["uid"];
    let Some(now) = api.object("", "pods", &at).filter(|p| p["metadata"]["uid"] == *uid) else { return };
    if now["status"]["nominatedNodeName"] != node {
        // Whatever becomes of it.
        api.act("", "pods", &at, true, &json!({"status": {"nominatedNodeName": node}}));
    }
    for claim_at in to_reserve {
        let Some(claim) = api.object(CLAIMS.0, CLAIMS.1, claim_at) else { return };
        let allocation = &claim["status"]["allocation"];
        if allocation.is_null() {
            return;
        }
        let mut reserved = list(&claim["status"]["reservedFor"]).to_vec();
        if is_reserved(&claim, pod) {
            continue;
        }
        reserved.push(json!({"resource": "pods", "name": at.1, "uid": uid}));
        let mut patch = json!({"status": {"reservedFor": reserved}});
        if allocation["allocationTimestamp"].is_null() {
            patch["status"]["allocation"] = json!({"allocationTimestamp": "2026-01-01T00:00:00Z"});
        }
        if !api.act(CLAIMS.0, CLAIMS.1, claim_at, true, &patch) {
            return;
        }
    }
    // It may be deleted or gated by now; then the reservations are given back when it goes.
    let _ = api.bind(&at, node);
}
