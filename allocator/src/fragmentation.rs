//! LeastFragmentation: the place after which the mix of demands seen so far can use most of what is left.
//!
//! A place's score is what it leaves of two values. The *fill value* of a node ([`value`]) is how much of it pods drawn
//! from the mix could fill; the *reserve value* ([`reserve`]) is what its free and wholly free GPUs are worth to pods
//! that can go to few places. Both follow "Beware of Fragmentation" (FGD, USENIX ATC'23) in asking what the mix can still
//! use, and look further ahead than one pod.
//!
//! Scores are remembered by kind of pod; only nodes that changed are scored again. What is remembered never changes an
//! answer. [`crate::Cluster::learn`] takes over a new mix and new prices, off the path of decisions.

pub(crate) mod reserve;
pub(crate) mod value;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::{Cluster, Gpu, GpuState, Node, NodeTaken, Room, Taken};
use crate::demand::{Demand, Request};
use crate::fill::Fill;
use crate::index::Index;
use crate::mix::{Drawn, Mix, Spec};
use crate::plan::{free_room, room_reason};
use crate::policy::Policy;
use reserve::{Prices, Reserve, Shell, Supply};
use value::{Gpus, State, Values, WHOLE};

const MIB: u64 = 1 << 20;
/// Kinds of pods whose scores are remembered.
const TABLES: usize = 64;
/// Score of a node that does not take the pod.
const NEVER: i64 = i64::MIN;
/// Weight of the pods expected before any was seen, in GPUs.
const PRIOR: f64 = 16.0;
/// Departures per arrival from which pods are taken to come and go.
pub(crate) const CHURN: f64 = 0.3;

/// A node as scores see it.
#[derive(Debug)]
struct Slot {
    name: Arc<str>,
    class: u32,
    /// Free CPU, memory and places, exactly.
    room: (i64, i64, i64),
    state: State,
    shell: Option<u32>,
}

/// Scores of one kind of pod, by slot.
#[derive(Debug)]
struct Table {
    scores: Vec<i64>,
    /// Changes already seen.
    seen: usize,
    used: u64,
}

/// What is remembered for LeastFragmentation.
#[derive(Debug, Default)]
pub(crate) struct Fragmentation {
    values: Values,
    reserve: Reserve,
    /// Prices by kind of pod.
    prices: RefCell<HashMap<Spec, Arc<Vec<Prices>>>>,
    kinds: HashMap<Arc<Gpus>, u32>,
    shells: BTreeMap<Shell, u32>,
    slots: Vec<Option<Slot>>,
    by_name: HashMap<Arc<str>, usize>,
    unused: Vec<usize>,
    /// Slots in the order they changed.
    changes: Vec<u32>,
    tables: HashMap<(Room, Vec<Request>), Table>,
    clock: u64,
}

/// Judges what a demand leaves of one node.
pub(crate) struct Judge<'a> {
    values: &'a Values,
    slot: &'a Slot,
    prices: Arc<Vec<Prices>>,
    ask: Room,
}

/// Free memory in MiB and cores of a GPU; nothing of one that takes no new share.
fn free_of(gpu: &Gpu, taken: &Taken) -> (u32, u32) {
    if gpu.state == GpuState::Unhealthy || taken.shares >= gpu.shares {
        return (0, 0);
    }
    let memory = gpu.memory.saturating_sub(taken.memory) / MIB;
    (memory.min(u32::MAX.into()) as u32, gpu.cores.saturating_sub(taken.cores))
}

impl Judge<'_> {
    /// Value of the node with the pod's CPU and memory gone and its GPUs like this.
    pub(crate) fn worth(&self, gpus: &[Gpu], taken: &[Taken]) -> i64 {
        let state = State {
            cpu_milli: self.slot.state.cpu_milli - self.ask.cpu_milli as i64,
            memory: self.slot.state.memory - self.ask.memory.div_ceil(MIB) as i64,
            free: gpus.iter().zip(taken).map(|(g, t)| free_of(g, t)).collect(),
            gpus: self.slot.state.gpus.clone(),
            kind: self.slot.state.kind,
        };
        self.of(&state)
    }

    fn of(&self, state: &State) -> i64 {
        let prices = self.slot.shell.and_then(|s| self.prices.get(s as usize));
        let reserved = prices.map_or(0.0, |prices| {
            let (free, whole) = state.room(self.values.drawn().has_cores);
            let blocks = (1..4).map(|k| prices[k] * f64::from(whole >> k << k) * f64::from(WHOLE));
            prices[0] * free as f64 + blocks.sum::<f64>()
        });
        self.values.of(state) + reserved.round() as i64
    }
}

impl Fragmentation {
    /// The same knowledge, nothing remembered of nodes.
    pub(crate) fn fresh(&self) -> Self {
        Self { values: Values::new(self.values.drawn().clone()), ..Self::default() }
    }

    pub(crate) fn is_learnt(&self) -> bool {
        self.values.is_learnt()
    }

    /// A node came, went or changed.
    pub(crate) fn set(&mut self, name: &str, node: Option<(&Node, Option<&NodeTaken>)>) {
        let known = self.by_name.get(name).copied();
        let Some((node, taken)) = node else {
            if let Some(at) = known {
                self.by_name.remove(name);
                self.slots[at] = None;
                self.unused.push(at);
                self.changed(at);
            }
            return;
        };
        let gpus: Gpus = node.gpus.iter().map(|g| (g.shape, g.memory, g.cores)).collect();
        let next = self.kinds.len() as u32;
        let (gpus, kind) = match self.kinds.get_key_value(&gpus) {
            Some((gpus, kind)) => (gpus.clone(), *kind),
            None => {
                let gpus = Arc::new(gpus);
                self.kinds.insert(gpus.clone(), next);
                (gpus, next)
            }
        };
        let room = free_room(node, taken);
        let free = node.gpus.iter().map(|g| {
            let taken = taken.and_then(|t| t.gpus.get(&g.name)).copied().unwrap_or_default();
            free_of(g, &taken)
        });
        let free = free.collect();
        let memory = room.1.div_euclid(MIB as i64);
        let shell = self.shells.get(&shell_of(node, &gpus)).copied();
        let state = State { gpus, kind, cpu_milli: room.0, memory, free };
        let at = known.or_else(|| self.unused.pop()).unwrap_or(self.slots.len());
        let name = match known {
            Some(at) => self.slots[at].as_ref().map_or_else(|| name.into(), |s| s.name.clone()),
            None => Arc::<str>::from(name),
        };
        self.by_name.insert(name.clone(), at);
        let slot = Some(Slot { name, class: node.class, room, state, shell });
        if at == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[at] = slot;
        }
        self.changed(at);
    }

    fn changed(&mut self, slot: usize) {
        self.changes.push(slot as u32);
        if self.changes.len() > 4 * self.slots.len() + 1024 {
            // Whoever has not seen the oldest is behind by more than it costs to begin anew.
            let dropped = self.changes.len() / 2;
            self.changes.drain(..dropped);
            self.tables.retain(|_, table| table.seen >= dropped);
            self.tables.values_mut().for_each(|table| table.seen -= dropped);
        }
    }

    /// Takes over a mix and sets prices by what is free now.
    pub(crate) fn learn(&mut self, mix: &Mix, nodes: &BTreeMap<String, Node>) {
        if !Arc::ptr_eq(mix.drawn(), self.values.drawn()) {
            self.values = Values::new(mix.drawn().clone());
        }
        let drawn: &Drawn = mix.drawn();
        let mut supply: BTreeMap<Shell, Supply> = BTreeMap::new();
        for slot in self.slots.iter().flatten() {
            let Some(node) = nodes.get(&*slot.name) else { continue };
            let sum = supply.entry(shell_of(node, &slot.state.gpus)).or_default();
            let (free, whole) = slot.state.room(drawn.has_cores);
            sum.nodes += 1;
            sum.free += free;
            for (k, part) in sum.whole.iter_mut().enumerate() {
                *part += u64::from(whole >> (k + 1) << (k + 1));
            }
        }
        self.shells = supply.keys().cloned().zip(0..).collect();
        for slot in self.slots.iter_mut().flatten() {
            let node = nodes.get(&*slot.name);
            slot.shell = node.and_then(|n| self.shells.get(&shell_of(n, &slot.state.gpus)).copied());
        }
        let supply: Vec<_> = supply.into_iter().collect();
        self.reserve = Reserve::new(&supply, &drawn.specs, PRIOR * f64::from(WHOLE), drawn.has_cores);
        self.prices.borrow_mut().clear();
        self.tables.clear();
    }

    fn prices(&self, demand: &Demand) -> Arc<Vec<Prices>> {
        let Some(spec) = Spec::of(demand) else { return Arc::default() };
        let strength = if self.values.drawn().churn > CHURN { 2.0 } else { 1.0 };
        let mut known = self.prices.borrow_mut();
        if known.len() > 4 * TABLES {
            known.clear();
        }
        let prices = |spec: &Spec| Arc::new(self.reserve.prices(spec, strength));
        known.entry(spec).or_insert_with_key(prices).clone()
    }

    /// `None` while nothing is learnt, for a node that is not there, and for a demand that does not ask.
    pub(crate) fn judge(&self, node: &str, demand: &Demand) -> Option<Judge<'_>> {
        let asks = demand.node_policy == Policy::LeastFragmentation
            || demand.requests.iter().any(|r| r.gpu_policy == Policy::LeastFragmentation);
        if !asks || !self.is_learnt() {
            return None;
        }
        let slot = self.slots[*self.by_name.get(node)?].as_ref()?;
        Some(Judge { values: &self.values, slot, prices: self.prices(demand), ask: demand.room })
    }

    /// What the pod leaves of a node's value, at best 0 or little more; `None` if it does not fit.
    pub(crate) fn score(&self, cluster: &Cluster, name: &str, demand: &Demand) -> Option<i64> {
        let judge = self.judge(name, demand)?;
        let node = cluster.nodes.get(name)?;
        if room_reason(&demand.room, judge.slot.room).is_some() {
            return None;
        }
        let before = judge.of(&judge.slot.state);
        let taken = Fill::new(node, cluster.taken(name), &demand.requests, Some(&judge)).put()?;
        Some(judge.worth(&node.gpus, &taken) - before)
    }

    /// The best node; ties go to the first by name.
    pub(crate) fn best_node(
        &mut self,
        cluster: &Cluster,
        index: &Index,
        demand: &Demand,
    ) -> Option<Arc<str>> {
        let blank = |r: &Request| Request { claim: String::new(), name: String::new(), ..r.clone() };
        let key = (demand.room, demand.requests.iter().map(blank).collect());
        let mut table = self.tables.remove(&key).unwrap_or(Table { scores: Vec::new(), seen: 0, used: 0 });
        let mut due: Vec<u32> = if table.scores.is_empty() {
            (0..self.slots.len() as u32).collect()
        } else {
            self.changes[table.seen..].to_vec()
        };
        due.sort_unstable();
        due.dedup();
        table.scores.resize(self.slots.len(), NEVER);
        for at in due {
            let slot = self.slots[at as usize].as_ref();
            let may = slot.is_some_and(|s| index.may_fit(&s.name, demand));
            let score = slot.filter(|_| may).and_then(|s| self.score(cluster, &s.name, demand));
            table.scores[at as usize] = score.unwrap_or(NEVER);
        }
        table.seen = self.changes.len();
        self.clock += 1;
        table.used = self.clock;
        let mut best: Option<(i64, &Arc<str>)> = None;
        for (score, slot) in table.scores.iter().zip(&self.slots) {
            if *score == NEVER || best.is_some_and(|(b, _)| *score < b) {
                continue;
            }
            let Some(slot) = slot else { continue };
            let is_later = best.is_some_and(|(b, name)| *score == b && slot.name > *name);
            if !is_later && demand.excluded.of(&slot.name, slot.class).is_none() {
                best = Some((*score, &slot.name));
            }
        }
        let best = best.map(|(_, name)| name.clone());
        if self.tables.len() >= TABLES {
            let oldest = self.tables.iter().min_by_key(|(_, t)| t.used).map(|(key, _)| key.clone());
            oldest.map(|key| self.tables.remove(&key));
        }
        self.tables.insert(key, table);
        best
    }
}

fn shell_of(node: &Node, gpus: &Arc<Gpus>) -> Shell {
    Shell { gpus: gpus.clone(), cpu_milli: node.room.cpu_milli / 1000 * 1000, memory: node.room.memory >> 30 }
}
