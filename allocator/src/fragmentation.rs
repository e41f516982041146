//! LeastFragmentation: the place after which the mix of demands seen so far can use most of what is left.
//!
//! A place's score is what it leaves of two values. The *fill value* of a node ([`value`]) is how much of it pods drawn
//! from the mix could fill; the *reserve value* ([`reserve`]) is what its free and wholly free GPUs are worth to pods
//! that can go to few places. Both follow "Beware of Fragmentation" (FGD, USENIX ATC'23) in asking what the mix can still
//! use, and look further ahead than one pod.
//!
//! Scores are remembered by kind of pod ([`table`]). What is remembered never changes an answer.
//! [`crate::Cluster::learn`] takes over a new mix and new prices, off the path of decisions.

pub(crate) mod reserve;
mod table;
pub(crate) mod value;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::cluster::{Cluster, Gpu, Node, Room};
use crate::demand::{Constraint, Demand, MemoryAsk, Request};
use crate::fill::Fill;
use crate::hash::Quick;
use crate::mix::{Drawn, Mix, Spec};
use crate::policy::Policy;
use crate::room::{Free, Least, free_room};
use crate::taken::{NodeTaken, Taken};
use crate::vacancy::Vacancy;
use reserve::{Prices, Reserve, Shell, Supply};
use table::{Ask, NEVER, Table, Tables};
use value::{Make, State, WHOLE};

const MIB: u64 = 1 << 20;
/// Kinds of pods whose prices are remembered.
const PRICED: usize = 256;
/// Nodes that a decision scores for other kinds of pods if its own leaves it so many: then none of these finds much to do
/// when it comes, and hardly a decision takes longer than the others.
const AHEAD: usize = 32;
/// Weight of the pods expected before any was seen, in GPUs.
const PRIOR: f64 = 4.0;
/// Demand that prices expect, in multiples of what is free: without departures, and with. What leaves comes again and again,
/// so more than fills the place has to be reckoned with.
const EXPECTED: [f64; 2] = [1.0, 2.0];
/// Departures per arrival from which pods are taken to come and go.
pub(crate) const CHURN: f64 = 0.3;

/// A node as scores see it.
#[derive(Debug)]
struct Slot {
    name: Arc<str>,
    class: u32,
    /// Free CPU, memory and places, exactly.
    room: Free,
    /// Hash of the vacancies: a slot is scored anew when it is another one.
    exact: u64,
    state: State,
    shell: Shell,
    /// Number of the shell when prices were set, if it was there then.
    priced: Option<u32>,
}

/// What is known and remembered for LeastFragmentation. Keeps no track of nodes until a mix is learnt.
#[derive(Debug, Default)]
pub(crate) struct Fragmentation {
    drawn: Arc<Drawn>,
    reserve: Reserve,
    shells: BTreeMap<Shell, u32>,
    /// Prices by kind of pod.
    prices: RefCell<HashMap<Spec, Arc<Vec<Prices>>>>,
    makes: HashSet<Arc<Make>>,
    slots: Vec<Option<Slot>>,
    by_name: HashMap<Arc<str>, usize>,
    unused: Vec<usize>,
    tables: Tables,
}

/// Judges what a pod leaves of one node.
pub(crate) struct Judge<'a> {
    drawn: &'a Drawn,
    slot: &'a Slot,
    prices: Option<Prices>,
    ask: Room,
}

/// Free memory in MiB and cores of a GPU; nothing of one that takes no new share.
fn free_of(gpu: Vacancy) -> (u32, u32) {
    if gpu.is_unhealthy || gpu.places == 0 {
        return (0, 0);
    }
    ((gpu.memory / MIB).min(u32::MAX.into()) as u32, gpu.cores)
}

impl Judge<'_> {
    /// Value of the node with the pod's CPU and memory gone and its GPUs like this.
    pub(crate) fn worth(&self, gpus: &[Gpu], taken: &[Taken]) -> i64 {
        let state = &self.slot.state;
        self.of(&State::new(
            state.make.clone(),
            state.cpu_milli.saturating_sub_unsigned(self.ask.cpu_milli),
            state.memory.saturating_sub_unsigned(self.ask.memory.div_ceil(MIB)),
            gpus.iter().zip(taken).map(|(gpu, taken)| free_of(Vacancy::of(gpu, taken))).collect(),
        ))
    }

    fn of(&self, state: &State) -> i64 {
        let reserved = self.prices.map_or(0.0, |prices| {
            let (free, whole) = state.room(self.drawn.has_cores);
            let blocks = (1..4).map(|k| prices[k] * f64::from(whole >> k << k) * f64::from(WHOLE));
            prices[0] * free as f64 + blocks.sum::<f64>()
        });
        self.drawn.memo.value(self.drawn, state) + reserved.round() as i64
    }
}

impl Slot {
    /// Whether a pod may fit, by room and by GPU and request alone: false is certain.
    fn may_take(&self, room: &Room, requests: &[Request]) -> bool {
        Least::of(room).fits(&self.room)
            && requests.iter().all(|request| {
                // What may be oversubscribed may take less than it is.
                let soft = request.oversubscribed;
                let memory = match request.memory {
                    MemoryAsk::Bytes(bytes) if !soft.memory => bytes / MIB,
                    _ => 0,
                };
                let cores = if soft.cores { 0 } else { request.cores };
                let fits = |(shape, free): &(u32, (u32, u32))| {
                    u64::from(free.0) >= memory && free.1 >= cores && request.shapes.contains(*shape)
                };
                let count = request.count as usize;
                self.state.gpus().filter(fits).take(count).count() == count
            })
    }
}

impl Fragmentation {
    /// The same knowledge, with nothing remembered of nodes.
    pub(crate) fn fresh(&self) -> Self {
        Self {
            drawn: self.drawn.clone(),
            reserve: self.reserve.clone(),
            shells: self.shells.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn is_learnt(&self) -> bool {
        !self.drawn.sequences.is_empty()
    }

    /// A node came, went or changed.
    pub(crate) fn set(&mut self, name: &str, node: Option<(&Node, Option<&NodeTaken>)>) {
        if !self.is_learnt() {
            return;
        }
        let known = self.by_name.get(name).copied();
        let Some((node, taken)) = node else {
            if let Some(at) = known {
                self.by_name.remove(name);
                self.slots[at] = None;
                self.unused.push(at);
                self.tables.changed(at, self.slots.len());
            }
            return;
        };
        let make = Make::new(node.gpus.iter().map(|g| (g.shape, g.memory, g.cores)).collect());
        let make = self.makes.get(&make).cloned().unwrap_or_else(|| {
            let make = Arc::new(make);
            self.makes.insert(make.clone());
            make
        });
        let room = free_room(node, taken);
        let free = Vacancy::of_node(node, taken).map(free_of).collect();
        let mut exact = Quick::default();
        Vacancy::of_node(node, taken).for_each(|vacancy| vacancy.hash(&mut exact));
        let exact = exact.finish();
        let state = State::new(make.clone(), room.0, room.1.div_euclid(MIB as i64), free);
        // Rounded to cores and GiB: nodes of one make differ by less.
        let shell =
            Shell { make, cpu_milli: node.room.cpu_milli / 1000 * 1000, memory: node.room.memory >> 30 };
        let priced = self.shells.get(&shell).copied();
        if let Some(slot) = known.and_then(|at| self.slots[at].as_ref())
            && (slot.class, slot.room) == (node.class, room)
            && (&slot.exact, &slot.state) == (&exact, &state)
            && slot.shell == shell
        {
            return;
        }
        let at = known.or_else(|| self.unused.pop()).unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(None);
        }
        let name = match self.slots[at].take() {
            Some(slot) => slot.name,
            None => {
                let name = Arc::<str>::from(name);
                self.by_name.insert(name.clone(), at);
                name
            }
        };
        self.slots[at] = Some(Slot { name, class: node.class, room, exact, state, shell, priced });
        self.tables.changed(at, self.slots.len());
    }

    /// Takes over a mix, sets prices by what is free now, and scores anew for the pods that come often.
    pub(crate) fn learn(&mut self, mix: &Mix, cluster: &Cluster) {
        let was_learnt = self.is_learnt();
        self.drawn = mix.drawn().clone();
        if !self.is_learnt() {
            *self = Self::default();
            return;
        }
        if !was_learnt {
            for (name, node) in &cluster.nodes {
                self.set(name, Some((node, cluster.taken(name))));
            }
        }
        let mut supply: BTreeMap<&Shell, Supply> = BTreeMap::new();
        for slot in self.slots.iter().flatten() {
            let sum = supply.entry(&slot.shell).or_default();
            let (free, whole) = slot.state.room(self.drawn.has_cores);
            sum.nodes += 1;
            sum.free += free;
            for (k, part) in sum.whole.iter_mut().enumerate() {
                *part += u64::from(whole >> (k + 1) << (k + 1));
            }
        }
        let supply: Vec<(Shell, Supply)> = supply.into_iter().map(|(shell, s)| (shell.clone(), s)).collect();
        let prior = PRIOR * f64::from(WHOLE);
        self.reserve = Reserve::new(&supply, &self.drawn.specs, prior, self.drawn.has_cores);
        self.shells = supply.into_iter().map(|(shell, _)| shell).zip(0..).collect();
        for slot in self.slots.iter_mut().flatten() {
            slot.priced = self.shells.get(&slot.shell).copied();
        }
        self.prices.borrow_mut().clear();
        for ask in self.tables.reset() {
            self.scores(cluster, &ask, |_, _| ());
        }
    }

    fn prices(&self, room: &Room, requests: &[Request]) -> Arc<Vec<Prices>> {
        let Some(spec) = Spec::of(room, requests) else { return Arc::default() };
        let mut known = self.prices.borrow_mut();
        if known.len() > PRICED {
            known.clear();
        }
        let expected = EXPECTED[usize::from(self.drawn.churn > CHURN)];
        let prices = |spec: &Spec| Arc::new(self.reserve.prices(spec, expected));
        known.entry(spec).or_insert_with_key(prices).clone()
    }

    fn judge_of<'a>(&'a self, slot: &'a Slot, prices: &[Prices], ask: Room) -> Judge<'a> {
        let prices = slot.priced.and_then(|shell| prices.get(shell as usize)).copied();
        Judge { drawn: &self.drawn, slot, prices, ask }
    }

    fn slot(&self, node: &str) -> Option<&Slot> {
        self.slots[*self.by_name.get(node)?].as_ref()
    }

    /// `None` while nothing is learnt, for a node that is not there, and for a demand that does not ask.
    pub(crate) fn judge(&self, node: &str, demand: &Demand) -> Option<Judge<'_>> {
        let asks = demand.node_policy == Policy::LeastFragmentation
            || demand.requests.iter().any(|r| r.gpu_policy == Policy::LeastFragmentation);
        if !asks || !self.is_learnt() {
            return None;
        }
        let prices = self.prices(&demand.room, &demand.requests);
        Some(self.judge_of(self.slot(node)?, &prices, demand.room))
    }

    /// What the pod leaves of a node's value, at best 0 or little more; `None` if it does not fit.
    pub(crate) fn score(&self, cluster: &Cluster, name: &str, demand: &Demand) -> Option<i64> {
        let slot = self.slot(name)?;
        if !Least::of(&demand.room).fits(&slot.room) {
            return None;
        }
        let prices = self.prices(&demand.room, &demand.requests);
        self.score_of(cluster, slot, &prices, demand.room, demand.parts())
    }

    fn score_of(
        &self,
        cluster: &Cluster,
        slot: &Slot,
        prices: &[Prices],
        room: Room,
        parts: (&[Request], &[Constraint]),
    ) -> Option<i64> {
        let judge = self.judge_of(slot, prices, room);
        let node = cluster.nodes.get(&*slot.name)?;
        let taken = Fill::new(node, cluster.taken(&slot.name), parts, Some(&judge)).put()?;
        Some(judge.worth(&node.gpus, &taken) - judge.of(&slot.state))
    }

    /// Gives the scores of a kind of pod by slot, all of them current.
    fn scores<T>(
        &mut self,
        cluster: &Cluster,
        ask: &Arc<Ask>,
        read: impl FnOnce(&[i64], &[Option<Slot>]) -> T,
    ) -> T {
        let (mut table, due) = self.tables.take(ask, self.slots.len());
        self.renew(cluster, ask, &mut table, &due);
        let answer = read(&table.scores, &self.slots);
        self.tables.keep_used(ask, table);
        let mut left = AHEAD.saturating_sub(due.len());
        while left > 0
            && let Some((ask, mut table, due)) = self.tables.take_behind(left, self.slots.len())
        {
            self.renew(cluster, &ask, &mut table, &due);
            self.tables.keep(&ask, table);
            left = left.saturating_sub(due.len().max(1));
        }
        answer
    }

    /// Scores slots again.
    fn renew(&self, cluster: &Cluster, ask: &Ask, table: &mut Table, due: &[u32]) {
        let prices = self.prices(&ask.room, &ask.requests);
        for at in due {
            let at = *at as usize;
            let slot = self.slots[at].as_ref().filter(|s| s.may_take(&ask.room, &ask.requests));
            let score = slot.and_then(|s| self.score_of(cluster, s, &prices, ask.room, (&ask.requests, &[])));
            table.scores[at] = score.unwrap_or(NEVER);
        }
    }

    /// The best node; ties go to the first by name.
    pub(crate) fn best_node(&mut self, cluster: &Cluster, demand: &Demand) -> Option<Arc<str>> {
        if !demand.constraints.is_empty() {
            return self.best_constrained(cluster, demand);
        }
        self.scores(cluster, &Arc::new(Ask::of(demand)), |scores, slots| {
            let mut best: Option<(i64, &Arc<str>)> = None;
            for (score, slot) in scores.iter().zip(slots) {
                if *score == NEVER || best.is_some_and(|(b, _)| *score < b) {
                    continue;
                }
                let Some(slot) = slot else { continue };
                let is_later = best.is_some_and(|(b, name)| *score == b && slot.name > *name);
                if !is_later && demand.excluded.of(&slot.name, slot.class).is_none() {
                    best = Some((*score, &slot.name));
                }
            }
            best.map(|(_, name)| name.clone())
        })
    }

    /// The same for a demand whose constraints no score was kept for: they hold for few pods, and differ from one to the
    /// next.
    fn best_constrained(&self, cluster: &Cluster, demand: &Demand) -> Option<Arc<str>> {
        let open = self.slots.iter().flatten().filter(|s| demand.excluded.of(&s.name, s.class).is_none());
        let scored =
            open.filter_map(|s| Some((self.score(cluster, &s.name, demand)?, std::cmp::Reverse(&s.name))));
        scored.max().map(|(_, name)| name.0.clone())
    }
}

#[cfg(test)]
mod tests;
