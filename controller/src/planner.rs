//! The task that decides: it looks at everything, does what is due, and sleeps until something changes.

mod upkeep;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use vgpu_allocator::{Demand, MemoryAsk, Mix, NodeExclusion, Placement as Placed, Request, Share};
use vgpu_api::{Placement, Policy};

use crate::allocation::{self, Grant, WriteError};
use crate::class::{self, Selectors};
use crate::events::{Events, Saying, reference};
use crate::gate::{self, Gate};
use crate::metrics::Metrics;
use crate::model::{self, Model};
use crate::pod;
use crate::publisher::Publisher;
use crate::request::{self, Asked, Invalid, Known};
use crate::stores::Stores;

/// Pods written at the same time.
const WRITERS: usize = 32;
/// Without any change everything is looked at again after this.
const TICK: Duration = Duration::from_secs(1);

/// Decides and writes until it is dropped.
pub struct Planner {
    client: Client,
    stores: Stores,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
    defaults: Placement,
    selectors: Selectors,
    publisher: Publisher,
    gate: Gate,
    writers: Arc<Semaphore>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    /// Pods (UIDs) with a write under way.
    writing: HashSet<String>,
    /// What claims (UIDs) were promised and their watch has not shown yet.
    promised: HashMap<String, Promise>,
    upkeep: upkeep::Upkeep,
    /// What pods asked for so far.
    mix: Mix,
    /// Pods (UIDs) the mix has counted.
    counted: HashSet<String>,
}

/// Shares written, or being written, to a claim.
struct Promise {
    pod: String,
    node: String,
    shares: Vec<Share>,
    room: vgpu_allocator::Room,
    /// resourceVersion of the write, once it took.
    version: Option<u64>,
}

/// How a write ended.
struct Report {
    pod: String,
    /// Claims (UIDs) with the version they were stored at; none if the write failed.
    written: Vec<(String, u64)>,
    /// Claims (UIDs) that were to be written.
    promised: Vec<String>,
}

/// A pod that waits, and what it waits for.
struct Waiting {
    pod: Arc<Pod>,
    /// Not allocated yet, with its name in the pod.
    open: Vec<(String, Arc<ResourceClaim>)>,
    /// Node of the claims that are allocated already.
    node: Option<String>,
}

/// What a pod's claims are like.
enum Standing {
    /// Nothing to do with us, or not complete yet.
    Aside,
    /// Something is to be allocated.
    Waiting(Waiting),
    /// All is allocated, on this node.
    Allocated { claims: Vec<Arc<ResourceClaim>>, node: String },
    /// It cannot be understood.
    Invalid(Arc<ResourceClaim>, Invalid),
}

/// Version of a stored object as a number; versions of one kind grow.
fn version<K: ResourceExt>(object: &K) -> u64 {
    object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Planner {
    /// Starts the watches.
    pub fn start(client: Client, defaults: Placement, metrics: Arc<Metrics>) -> Self {
        Self {
            stores: Stores::start(&client),
            events: Arc::new(Events::new(client.clone(), None)),
            publisher: Publisher::new(client.clone()),
            gate: Gate::new(client.clone()),
            writers: Arc::new(Semaphore::new(WRITERS)),
            reports: mpsc::unbounded_channel(),
            writing: HashSet::new(),
            promised: HashMap::new(),
            upkeep: upkeep::Upkeep::default(),
            mix: Mix::default(),
            counted: HashSet::new(),
            selectors: Selectors::default(),
            client,
            metrics,
            defaults,
        }
    }

    /// Decides for ever.
    pub async fn run(mut self) {
        self.stores.ready().await;
        loop {
            self.pass().await;
            let changed = self.stores.changed.clone();
            tokio::select! {
                () = changed.notified() => {}
                report = self.reports.1.recv() => self.take(report),
                () = tokio::time::sleep(TICK) => {}
            }
            // What comes together is looked at together.
            tokio::time::sleep(Duration::from_millis(3)).await;
            while let Ok(report) = self.reports.1.try_recv() {
                self.take(Some(report));
            }
        }
    }

    fn take(&mut self, report: Option<Report>) {
        let Some(report) = report else { return };
        self.writing.remove(&report.pod);
        for claim in &report.promised {
            match report.written.iter().find(|(uid, _)| uid == claim) {
                Some((_, version)) => {
                    if let Some(promise) = self.promised.get_mut(claim) {
                        promise.version = Some(*version);
                    }
                }
                None => drop(self.promised.remove(claim)),
            }
        }
    }

    async fn pass(&mut self) {
        self.publisher.sync(&self.stores, &self.events).await;
        let mut model = Model::build(&self.stores);
        self.settle_promises(&mut model);
        let ours = self.our_classes(&model);
        self.gate.sync(&self.stores, &|class| ours.contains(class)).await;

        let mut pods = self.stores.pods.state();
        pods.sort_by(|a, b| pod::order(a, b));
        let now = Instant::now();
        let mut waiting = Vec::new();
        for pod in pods.iter().filter(|p| !pod::is_done(p) && !pod::is_going(p)) {
            let uid = pod.uid().unwrap_or_default();
            if self.writing.contains(&uid) {
                continue;
            }
            match self.standing(pod, &ours) {
                Standing::Aside => {}
                Standing::Invalid(claim, invalid) => self.say_invalid(pod, &claim, &invalid),
                Standing::Waiting(found) => waiting.push(found),
                Standing::Allocated { claims, node } => {
                    if pod::bound_to(pod).is_none() && !model.cluster.node_names().any(|n| n == node) {
                        // The node left; the scheduler will say so, and then the pod is planned anew.
                        tracing::debug!(pod = pod.name_any(), node, "allocated on a node that is gone");
                    }
                    model.cluster.hold_pod(&uid, pod::bound_to(pod).unwrap_or(&node), pod::room(pod));
                    self.keep_up(pod, claims, &node, now);
                }
            }
        }
        self.metrics.waiting.set(waiting.len() as i64);
        self.mix.draw();
        model.cluster.learn(&self.mix);
        for found in waiting {
            self.plan(&mut model, found, &ours, now);
        }
        self.take_back(&model, now);
        self.check_overcommitment(&model);
        let alive: HashSet<String> =
            pods.iter().filter_map(|p| p.uid()).chain(model.claims.keys().cloned()).collect();
        self.upkeep.keep_only(&alive);
        let counted = self.counted.len();
        self.counted.retain(|uid| alive.contains(uid));
        (self.counted.len()..counted).for_each(|_| self.mix.departed());
        let nodes: HashSet<String> = self.stores.gpu_nodes.state().iter().filter_map(|n| n.uid()).collect();
        self.events.keep_only(&|uid| alive.contains(uid) || nodes.contains(uid));
    }

    /// Names of the classes that are ours, of all that are named anywhere.
    fn our_classes(&self, model: &Model) -> HashSet<String> {
        let mut named: HashSet<String> = self.stores.classes.state().iter().map(|c| c.name_any()).collect();
        for claim in model.claims.values() {
            named.extend(gate::classes(claim.spec.devices.as_ref()).into_iter().map(str::to_owned));
        }
        for template in self.stores.templates.state() {
            named.extend(gate::classes(template.spec.spec.devices.as_ref()).into_iter().map(str::to_owned));
        }
        let is_ours = |name: &String| {
            let known = self.stores.classes.get(&ObjectRef::new(name));
            class::is_ours(name, known.as_deref(), &self.selectors, &model.shapes)
        };
        named.into_iter().filter(is_ours).collect()
    }

    /// Promises the watches have caught up with are dropped, the others held.
    fn settle_promises(&mut self, model: &mut Model) {
        let writing = &self.writing;
        self.promised.retain(|uid, promise| {
            let seen = model.claims.get(uid);
            let caught_up = promise.version.is_some_and(|v| seen.is_none_or(|c| version(&**c) >= v));
            let shown = seen.is_some_and(|c| model::is_allocated(c));
            (!caught_up && !shown) || writing.contains(&promise.pod)
        });
        for (uid, promise) in &self.promised {
            model.cluster.hold_claim(uid, promise.shares.clone());
            model.cluster.hold_pod(&promise.pod, &promise.node, promise.room);
        }
    }

    fn standing(&self, pod: &Arc<Pod>, ours: &HashSet<String>) -> Standing {
        let namespace = pod.namespace().unwrap_or_default();
        let (mut open, mut allocated, mut mine, mut complete) = (Vec::new(), Vec::new(), false, true);
        for named in pod::claims(pod) {
            let found =
                named.claim.and_then(|c| self.stores.claims.get(&ObjectRef::new(&c).within(&namespace)));
            let Some(claim) = found.filter(|c| c.metadata.deletion_timestamp.is_none()) else {
                complete = false;
                continue;
            };
            let classes = gate::classes(claim.spec.devices.as_ref());
            if !classes.iter().any(|c| ours.contains(*c)) {
                continue;
            }
            mine = true;
            if let Some(other) = classes.iter().find(|c| !ours.contains(**c)) {
                let note = format!(
                    "spec.devices.requests: {other:?} is another driver's class; a claim cannot mix drivers, put it into \
                     a claim of its own"
                );
                return Standing::Invalid(claim, Invalid { reason: "MixedDrivers", note });
            }
            if self.promised.contains_key(&claim.uid().unwrap_or_default()) && !model::is_allocated(&claim) {
                // Written, and not shown yet.
                return Standing::Aside;
            }
            if model::is_allocated(&claim) { allocated.push(claim) } else { open.push((named.name, claim)) }
        }
        if !mine || !complete {
            return Standing::Aside;
        }
        let node = allocated.iter().find_map(|c| model::node_of(c));
        match (open.is_empty(), node) {
            (true, Some(node)) => Standing::Allocated { claims: allocated, node },
            (true, None) => Standing::Aside,
            (false, node) => Standing::Waiting(Waiting { pod: pod.clone(), open, node }),
        }
    }

    fn say(&self, about: k8s_openapi::api::core::v1::ObjectReference, saying: Saying) {
        let events = self.events.clone();
        tokio::spawn(async move { events.say(about, saying).await });
    }

    fn say_invalid(&self, pod: &Pod, claim: &ResourceClaim, invalid: &Invalid) {
        self.metrics.invalid.inc();
        let note = format!("ResourceClaim {}: {}", claim.name_any(), invalid.note);
        self.say(reference(pod), Saying::warning(invalid.reason, note.clone()));
        self.say(reference(claim), Saying::warning(invalid.reason, note));
    }

    fn plan(&mut self, model: &mut Model, waiting: Waiting, ours: &HashSet<String>, now: Instant) {
        let pod = &waiting.pod;
        let uid = pod.uid().unwrap_or_default();
        if pod::has_other_gates(pod) || self.upkeep.must_rest(&uid, now) {
            return;
        }
        let (demand, asked) = match self.demand(model, &waiting, ours, now) {
            Ok(found) => found,
            Err((claim, invalid)) => return self.say_invalid(pod, &claim, &invalid),
        };
        if self.counted.insert(uid.clone()) {
            self.mix.arrived(&demand);
        }
        let began = std::time::Instant::now();
        let answer = model.cluster.plan(&demand);
        self.metrics.plan_seconds.observe(began.elapsed().as_secs_f64());
        match answer {
            Ok(placed) => self.write(model, waiting, &demand, placed, asked),
            Err(refusal) => {
                self.metrics.refused.inc();
                self.say(reference(&**pod), Saying::warning("NotPlaced", refusal.to_string()));
                if waiting.node.is_some() && pod::bound_to(pod).is_none() {
                    // Part of it is allocated where the rest does not fit: it must not hold on to that part.
                    self.let_go(pod, "the pod's other claims do not fit there", now);
                }
            }
        }
    }

    /// What a pod asks of the engine, and of each claim what its allocation needs.
    #[allow(clippy::type_complexity, reason = "an error is the claim it is about and what is wrong with it")]
    fn demand(
        &self,
        model: &Model,
        waiting: &Waiting,
        ours: &HashSet<String>,
        now: Instant,
    ) -> Result<(Demand, Vec<Asked>), (Arc<ResourceClaim>, Invalid)> {
        let pod = &waiting.pod;
        let known = Known {
            classes: &|name| self.stores.classes.get(&ObjectRef::new(name)),
            is_ours: &|name| ours.contains(name),
            selectors: &self.selectors,
            shapes: &model.shapes,
            defaults: self.defaults,
        };
        let (mut requests, mut all, mut policies): (Vec<Request>, Vec<Asked>, Vec<Policy>) =
            Default::default();
        for (name, claim) in &waiting.open {
            let mut asked = request::read(claim, &known).map_err(|i| (claim.clone(), i))?;
            for request in &mut asked.requests {
                request.containers = pod::users(pod, name, &request.name);
            }
            policies.extend(&asked.node_policies);
            requests.extend(asked.requests.iter().cloned());
            all.push(asked);
        }
        let policy = request::node_policy(&policies, self.defaults.node);
        let node_policy = policy.map_err(|invalid| (waiting.open[0].1.clone(), invalid))?;
        let volumes = model::volume_affinity(&self.stores, pod);
        let bound = pod::bound_to(pod);
        // A bound pod goes nowhere else, whatever the node has become.
        let mut excluded = if bound.is_some() { Default::default() } else { model.excluded(pod, &volumes) };
        for node in self.upkeep.avoided(&pod.uid().unwrap_or_default(), now) {
            excluded.nodes.entry(node).or_insert(NodeExclusion("RejectedByScheduler".to_owned()));
        }
        let only_node = bound.or(waiting.node.as_deref()).or(pod::nominated(pod)).map(str::to_owned);
        let room = if bound.is_some() { Default::default() } else { pod::room(pod) };
        Ok((Demand { room, requests, node_policy, only_node, excluded }, all))
    }

    fn write(
        &mut self,
        model: &mut Model,
        waiting: Waiting,
        demand: &Demand,
        placed: Placed,
        asked: Vec<Asked>,
    ) {
        let Waiting { pod, open, .. } = waiting;
        let uid = pod.uid().unwrap_or_default();
        let mut grants = Vec::new();
        let mut promised = Vec::new();
        for ((_, claim), asked) in open.into_iter().zip(asked) {
            let claim_uid = claim.uid().unwrap_or_default();
            let shares: Vec<_> = placed.shares.iter().filter(|s| s.claim == claim_uid).cloned().collect();
            let held = |s: &vgpu_allocator::PlacedShare| Share {
                node: placed.node.clone(),
                gpu: s.gpu.clone(),
                memory: s.memory,
                cores: s.cores,
            };
            let held: Vec<Share> = shares.iter().map(held).collect();
            model.cluster.hold_claim(&claim_uid, held.clone());
            let promise = Promise {
                pod: uid.clone(),
                node: placed.node.clone(),
                shares: held,
                room: pod::room(&pod),
                version: None,
            };
            self.promised.insert(claim_uid.clone(), promise);
            promised.push(claim_uid);
            let percent = |r: &Request| match r.memory {
                MemoryAsk::Percent(p) => Some((r.name.clone(), p)),
                _ => None,
            };
            let percents = asked.requests.iter().filter_map(percent).collect();
            grants.push(Grant { claim, shares, percents, config: asked.config });
        }
        model.cluster.hold_pod(&uid, &placed.node, pod::room(&pod));
        self.writing.insert(uid.clone());
        let note = placed_note(demand, &placed);
        let (client, events, metrics) = (self.client.clone(), self.events.clone(), self.metrics.clone());
        let (writers, reports) = (self.writers.clone(), self.reports.0.clone());
        tokio::spawn(async move {
            let _turn = writers.acquire().await;
            let mut written = Vec::new();
            let done = write_pod(&client, &pod, &placed.node, &grants, &mut written).await;
            match done {
                Ok(()) => {
                    metrics.placed.inc();
                    events.say(reference(&*pod), Saying::normal("Placed", note)).await;
                }
                Err(error) => {
                    metrics.failed_writes.inc();
                    tracing::info!(error = %chain(&error), "a pod is planned again");
                }
            }
            // Nobody listens any more when the controller ends.
            let _ = reports.send(Report { pod: uid, written, promised });
        });
    }
}

async fn write_pod(
    client: &Client,
    pod: &Pod,
    node: &str,
    grants: &[Grant],
    written: &mut Vec<(String, u64)>,
) -> Result<(), WriteError> {
    for grant in grants {
        let stored = allocation::allocate(client, node, grant).await?;
        written.push((stored.uid().unwrap_or_default(), version(&stored)));
    }
    allocation::ungate(client, pod).await
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// `node-a: gpu-1a2b..., gpu-3c4d...; node Binpack, GPU Spread, score 0.497`
fn placed_note(demand: &Demand, placed: &Placed) -> String {
    let name = |policy: vgpu_allocator::Policy| {
        vgpu_allocator::POLICIES.iter().find(|p| p.1 == policy).map_or("", |p| p.0)
    };
    let mut gpus: Vec<&str> = placed.shares.iter().map(|s| s.gpu.as_str()).collect();
    gpus.dedup();
    let mut policies: Vec<&str> = demand.requests.iter().map(|r| name(r.gpu_policy)).collect();
    policies.dedup();
    format!(
        "{}: {}; node {}, GPU {}, score {}",
        placed.node,
        gpus.join(", "),
        name(demand.node_policy),
        policies.join("/"),
        placed.score
    )
}
