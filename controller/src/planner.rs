//! The task that decides: it looks at everything, does what is due, and sleeps until something changes.

mod deciding;
mod explaining;
mod ganging;
mod learning;
mod looking_on;
mod nominations;
mod preempting;
mod reclaiming;
mod standing;
mod upkeep;
mod ways;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use vgpu_allocator::{MemoryAsk, Placement as Placed, Request, Share};
use vgpu_api::Placement;

use crate::allocation::{self, Grant};
use crate::args::{Allocator, Args};
use crate::attribute::Attributes;
use crate::claim::{self, Claim};
use crate::class::{self, Selectors};
use crate::events::{Events, Saying, reference};
use crate::gate::{self, Gate};
use crate::metrics::Metrics;
use crate::model::{self, Model};
use crate::pod::{self, Pod};
use crate::publisher::Publisher;
use crate::request::{Asked, Invalid};
use crate::shapes::Shapes;
use crate::stores::Stores;
use deciding::Decision;
use ganging::Gangs;
use standing::{Standing, Waiting};
use writer::{Report, Writer};

/// Pods written at the same time.
const WRITERS: usize = 32;
/// Pods told at the same time that they are placed.
const SPEAKERS: usize = 2;
/// Of its time the planner rests so much for each part it looks and decides, ...
const IDLE: u32 = 9;
/// ... but so long at least, in which more may come, and no longer than that.
const GATHER: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(200));
/// Without any change everything is looked at again after this.
const TICK: Duration = Duration::from_secs(1);
/// How long kube-scheduler may still write allocations it made before it saw the taint on devices it had for itself.
const CLOSING: Duration = Duration::from_secs(5);

/// Decides and writes until it is dropped.
pub struct Planner {
    writer: Writer,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Everything under way. Ends with the planner.
    tasks: JoinSet<()>,
    stores: Stores,
    defaults: Placement,
    allocator: Allocator,
    /// When devices were last seen that the scheduler may hand out and should not.
    open: Option<Instant>,
    selectors: Selectors,
    shapes: Shapes,
    attributes: Attributes,
    publisher: Publisher,
    gate: Gate,
    /// Pods (UIDs) with a write under way.
    writing: HashSet<String>,
    /// What claims (UIDs) were promised and their watch has not shown yet.
    promised: BTreeMap<String, Promise>,
    upkeep: upkeep::Upkeep,
    nominations: nominations::Nominations,
    reclaiming: reclaiming::Reclaiming,
    /// Whether pods may be evicted for others.
    preemption: bool,
    preempting: preempting::Preempting,
    /// Whether quotas by HAMi's keys hold too.
    hami_quotas: bool,
    learning: learning::Learning,
    /// Of the last pass.
    kept: model::Kept,
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

/// Whose turn it is.
enum Turn {
    Pod(Waiting),
    Gang(ganging::Key),
}

/// Version of a stored object as a number; versions of one kind grow.
fn version<K: ResourceExt>(object: &K) -> u64 {
    object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Planner {
    /// Starts the watches.
    pub fn start(client: Client, args: &Args, metrics: Arc<Metrics>) -> Self {
        let stores = Stores::start(&client);
        let planner = Self::new(client, stores, args.placement(), args.allocator, metrics);
        Self { preemption: args.preemption, hami_quotas: args.hami_quotas, ..planner }
    }

    fn new(
        client: Client,
        stores: Stores,
        defaults: Placement,
        allocator: Allocator,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        let writer = Writer {
            client: client.clone(),
            events: Arc::new(Events::new(client.clone(), None)),
            metrics,
            reports: sender,
            turns: Arc::new(Semaphore::new(WRITERS)),
            calm: Arc::new(Semaphore::new(SPEAKERS)),
            stopping: Arc::default(),
            unsettled: Arc::default(),
        };
        Self {
            writer,
            reports,
            tasks: JoinSet::new(),
            stores,
            publisher: Publisher::new(client.clone(), allocator),
            gate: Gate::new(client),
            writing: HashSet::new(),
            promised: BTreeMap::new(),
            upkeep: upkeep::Upkeep::default(),
            nominations: nominations::Nominations::default(),
            reclaiming: reclaiming::Reclaiming::default(),
            preemption: false,
            preempting: preempting::Preempting::default(),
            hami_quotas: false,
            learning: learning::Learning::default(),
            kept: model::Kept::default(),
            selectors: Selectors::default(),
            shapes: Shapes::default(),
            attributes: Attributes::default(),
            defaults,
            allocator,
            open: None,
        }
    }

    /// Decides until it is told to stop, then lets what is under way end. True if every allocation that was sent has
    /// taken or never will.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> bool {
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            biased;
            () = &mut stop => {}
            () = self.watch() => {}
        }
        self.writer.stopping.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        !self.writer.unsettled.load(Ordering::Relaxed)
    }

    async fn watch(&mut self) {
        self.stores.ready().await;
        self.fence().await;
        loop {
            self.stores.look_for_rules();
            let began = Instant::now();
            match self.allocator {
                Allocator::Controller => self.pass().await,
                Allocator::Scheduler => self.look_on().await,
            }
            let took = began.elapsed();
            self.writer.metrics.pass_seconds.observe(took.as_secs_f64());
            tokio::select! {
                biased;
                report = self.reports.recv() => self.take(report),
                () = self.stores.changed.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            // What comes together is looked at together; and the more there is to look at, the less often.
            tokio::time::sleep((took * IDLE).clamp(GATHER.0, GATHER.1)).await;
            while let Ok(report) = self.reports.try_recv() {
                self.take(Some(report));
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Makes sure that no allocation a predecessor sent can take any more: claims it had guarded lose the guard, and with
    /// it the version the allocation was sent with. Some may have been cleared by it a moment ago, hence the rest.
    async fn fence(&mut self) {
        let model = Model::build(&self.stores, &mut self.shapes, self.hami_quotas, model::Kept::default());
        let ours = self.our_classes(&model);
        let mut open = self.stores.claims.state();
        open.retain(|c| allocation::is_guarded(c) && !claim::is_allocated(c));
        open.retain(|c| gate::classes(c.spec.devices.as_ref()).iter().any(|class| ours.contains(*class)));
        open.sort_by_key(|c| (c.namespace(), c.name_any()));
        if open.is_empty() {
            return;
        }
        let writer = self.writer.clone();
        let settle = |claim: Arc<Claim>| {
            let writer = writer.clone();
            async move { drop(writer.settle(&claim).await) }
        };
        futures::stream::iter(open).for_each_concurrent(WRITERS, settle).await;
        tokio::time::sleep(upkeep::REST).await;
    }

    fn take(&mut self, report: Option<Report>) {
        let Some(report) = report else { return };
        self.writing.remove(&report.pod);
        self.upkeep.wrote(&report.pod, !report.failed, Instant::now());
        if let Some(version) = report.ungated {
            self.upkeep.took_gate(&report.pod, version);
        }
        for claim in &report.promised {
            match report.written.iter().find(|(uid, _)| uid == claim) {
                Some((_, version)) => {
                    if let Some(promise) = self.promised.get_mut(claim) {
                        promise.version = Some(*version);
                        self.upkeep.allocated(&report.pod, &promise.node, claim);
                    }
                }
                None => drop(self.promised.remove(claim)),
            }
        }
    }

    async fn pass(&mut self) {
        if self.publisher.must_close(&self.stores) {
            self.open = Some(Instant::now());
        }
        self.publisher.sync(&self.stores, &self.writer.events).await;
        let kept = std::mem::take(&mut self.kept);
        let mut model = Model::build(&self.stores, &mut self.shapes, self.hami_quotas, kept);
        self.attributes.forget();
        self.settle_promises(&mut model);
        let ours = self.our_classes(&model);
        self.gate.sync(&self.stores, &|class| ours.contains(class)).await;

        let mut pods = self.stores.pods.state();
        pods.sort_by(|a, b| pod::order(a, b));
        let now = Instant::now();
        self.nominations.look(&pods, now);
        let (mut turns, mut waiting) = (Vec::new(), 0);
        let mut gangs = Gangs::default();
        for pod in pods.iter().filter(|p| !pod::is_going(p)) {
            let uid = pod.uid().unwrap_or_default();
            if pod::is_done(pod) {
                gangs.settled(pod);
                continue;
            }
            if self.writing.contains(&uid) {
                gangs.on_the_way(pod);
                // What it was given it keeps meanwhile.
                if let Some(node) = self.upkeep.held_on(&uid) {
                    model.hold_pod(pod, pod::bound_to(pod).unwrap_or(node));
                }
                continue;
            }
            match self.standing(pod, &ours) {
                Standing::Aside => {
                    if ganging::key(pod).is_some() && self.promised.values().any(|p| p.pod == uid) {
                        gangs.on_the_way(pod);
                    }
                }
                Standing::Invalid(claim, invalid) => self.say_invalid(pod, &claim, &invalid),
                Standing::Waiting(found) => match self.lost_node(&found, now) {
                    Some(node) => self.let_go(pod, &node, "an allocation of it was cleared", now),
                    None => match (pod::gang(pod), ganging::key(pod)) {
                        (Some(Err(why)), _) => self.say_no_gang(pod, &why),
                        (_, Some(_)) if pod::has_other_gates(pod) => {}
                        (_, Some(key)) => {
                            waiting += 1;
                            if gangs.waits(key.clone(), found) {
                                turns.push(Turn::Gang(key));
                            }
                        }
                        (_, None) => {
                            waiting += 1;
                            turns.push(Turn::Pod(found));
                        }
                    },
                },
                Standing::Allocated { claims, node } => {
                    model.hold_pod(pod, pod::bound_to(pod).unwrap_or(&node));
                    self.learn_of(pod, &claims, &ours);
                    for claim in claims.iter().filter(|_| pod::bound_to(pod).is_none()) {
                        self.upkeep.allocated(&uid, &node, &claim.uid().unwrap_or_default());
                    }
                    match ganging::key(pod) {
                        Some(key) if pod::bound_to(pod).is_none() => {
                            gangs.allocated(key, ganging::Allocated { pod: pod.clone(), claims, node });
                        }
                        _ => {
                            gangs.settled(pod);
                            self.keep_up(pod, claims, &node, now);
                        }
                    }
                }
            }
        }
        model.complete();
        self.writer.metrics.waiting.set(waiting);
        let may_plan = self.open.is_none_or(|at| at.elapsed() >= CLOSING);
        for turn in turns.into_iter().filter(|_| may_plan) {
            match turn {
                Turn::Pod(found) => self.plan(&mut model, found, &ours, now),
                Turn::Gang(key) => self.plan_gang(&mut model, &mut gangs, &key, &ours, now),
            }
        }
        self.keep_gangs_up(gangs, now);
        model.drop_places();
        self.take_back(&model, now);
        self.check_overcommitment(&model, now);
        self.keep_only_what_is_there(&pods, &model);
        self.kept = model.keep();
    }

    fn keep_only_what_is_there(&mut self, pods: &[Arc<Pod>], model: &Model) {
        let of_pods = pods.iter().filter_map(|p| p.metadata.uid.as_deref());
        let alive: HashSet<&str> = of_pods.chain(model.claims.keys().map(String::as_str)).collect();
        self.upkeep.keep_only(&alive);
        self.preempting.keep_only(&alive);
        self.learning.keep_only(&alive);
        let nodes: HashSet<String> = self.stores.gpu_nodes.state().iter().filter_map(|n| n.uid()).collect();
        self.writer.events.keep_only(&|uid| alive.contains(uid) || nodes.contains(uid));
    }

    /// Names of the classes that are ours, of all that are named anywhere.
    fn our_classes(&self, model: &Model) -> HashSet<String> {
        let (classes, templates) = (self.stores.classes.state(), self.stores.templates.state());
        let mut named: HashSet<&str> = classes.iter().filter_map(|c| c.metadata.name.as_deref()).collect();
        for claim in model.claims.values() {
            named.extend(gate::classes(claim.spec.devices.as_ref()));
        }
        for template in &templates {
            named.extend(gate::classes(template.spec.spec.devices.as_ref()));
        }
        let is_ours = |name: &&str| {
            let known = self.stores.classes.get(name);
            class::is_ours(name, known.as_deref(), &self.selectors, &self.shapes)
        };
        named.into_iter().filter(is_ours).map(str::to_owned).collect()
    }

    /// Promises the watches have caught up with are dropped, the others held.
    fn settle_promises(&mut self, model: &mut Model) {
        let writing = &self.writing;
        self.promised.retain(|uid, promise| {
            let seen = model.claims.get(uid);
            let caught_up = promise.version.is_some_and(|v| seen.is_none_or(|c| version(&**c) >= v));
            let shown = seen.is_some_and(|c| claim::is_allocated(c));
            (!caught_up && !shown) || writing.contains(&promise.pod)
        });
        for (uid, promise) in &self.promised {
            if let Some(claim) = model.claims.get(uid).filter(|c| !claim::is_allocated(c)) {
                model.quotas.hold(&claim.namespace().unwrap_or_default(), &promise.shares);
            }
            model.cluster.hold_claim(uid, promise.shares.clone());
            model.cluster.hold_pod(&promise.pod, &promise.node, promise.room);
        }
    }

    fn say(&mut self, about: k8s_openapi::api::core::v1::ObjectReference, saying: Saying) {
        if let Some(saying) = self.writer.events.due(&about, saying, Instant::now()) {
            let events = self.writer.events.clone();
            self.tasks.spawn(async move { events.write(about, saying).await });
        }
    }

    fn say_invalid(&mut self, pod: &Pod, claim: &Claim, invalid: &Invalid) {
        self.writer.metrics.invalid.inc();
        let note = format!("ResourceClaim {}: {}", claim.name_any(), invalid.note);
        self.say(reference(pod), Saying::warning(invalid.reason, note.clone()));
        self.say(reference(claim), Saying::warning(invalid.reason, note));
    }

    /// Writes what was decided and is held; `ungate` is false for pods that go together with others.
    fn write(&mut self, waiting: Waiting, decision: Decision, ungate: bool) {
        let note = decision.note();
        let Decision { placed, asked, .. } = decision;
        let Waiting { pod, open, .. } = waiting;
        let uid = pod.uid().unwrap_or_default();
        let mut grants = Vec::new();
        let mut promised = Vec::new();
        for ((_, claim), asked) in open.into_iter().zip(asked) {
            let claim_uid = claim.uid().unwrap_or_default();
            let shares: Vec<_> = placed.shares.iter().filter(|s| s.claim == claim_uid).cloned().collect();
            let promise = Promise {
                pod: uid.clone(),
                node: placed.node.clone(),
                shares: given(&placed, &claim),
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
            let Asked { config, tolerations, .. } = asked;
            grants.push(Grant { claim, shares, percents, config, tolerations });
        }
        self.writing.insert(uid.clone());
        let (writer, node) = (self.writer.clone(), placed.node);
        self.tasks.spawn(async move { writer.place(&pod, &node, &grants, promised, note, ungate).await });
    }
}

/// What a plan lets a claim hold.
fn given(placed: &Placed, claim: &Claim) -> Vec<Share> {
    let uid = claim.uid().unwrap_or_default();
    let held = placed.shares.iter().filter(|s| s.claim == uid && !s.looks_only());
    held.map(|share| share.on(&placed.node)).collect()
}
