//! One decision: the best node by the node policy, found without looking at every node.
//!
//! A kind's nodes lie in the order of fullness ([`crate::index`]). Each kind is walked from its best end; summaries skip
//! what cannot fit, and the walk ends where nothing better can come. [`Cluster::plan_exhaustively`] defines the answer.

use std::sync::Arc;

use crate::cluster::{Cluster, Node};
use crate::demand::{Demand, MemoryAsk, Request};
use crate::fill::Fill;
use crate::fragmentation::Fragmentation;
use crate::index::{Key, Kind, Seat};
use crate::placement::{NodeReason, PlacedShare, Placement, Refusal};
use crate::policy::{Fullness, Policy, Rank};
use crate::room::{Least, free_room};
use crate::summary::{Range, Summary};
use crate::taken::NodeTaken;
use crate::vacancy::memory_of;

/// What a node of one kind must have for a demand, and what the demand takes of it.
pub(crate) struct Needs {
    room: Least,
    /// Count, and the bit of least memory and cores, of each request.
    parts: Vec<Part>,
    /// Least memory of all requests together.
    whole: i64,
    /// Memory and cores taken of the node, if they are the same whichever GPUs are chosen.
    takes: Option<(u64, u64)>,
    shares: u32,
}

/// What one request must find.
struct Part {
    count: u32,
    memory: i64,
    cores: i64,
    bit: u128,
}

/// A node the demand was put on.
pub(crate) struct Answer {
    name: Arc<str>,
    pub(crate) shares: Vec<PlacedShare>,
    pub(crate) fullness: Fullness,
}

/// Tries a demand on nodes; the last success is kept.
struct Trial<'a> {
    cluster: &'a Cluster,
    demand: &'a Demand,
    fragmentation: &'a Fragmentation,
    last: Option<Answer>,
}

impl Needs {
    /// `None` if no node of the kind can take it, for what they are or for what is free of their GPUs.
    pub(crate) fn of(kind: &Kind, demand: &Demand) -> Option<Self> {
        let gpus = &kind.key.gpus;
        let mut parts = Vec::with_capacity(demand.requests.len());
        let (mut whole, mut shares, mut takes) = (0i64, 0u32, Some((0u64, 0u64)));
        for request in &demand.requests {
            if !kind.tally.may_take(request) {
                return None;
            }
            let matching = gpus.iter().filter(|g| request.shapes.contains(g.0));
            let (mut matches, mut barred, mut least) = (0u32, 0u32, u64::MAX);
            for gpu in matching {
                matches += 1;
                barred += u32::from(request.barred.contains(&gpu.0));
                least = least.min(memory_of(request.memory, gpu.1));
            }
            let lost = if request.all && barred > 0 { matches } else { barred };
            if matches - lost < request.count.max(1) {
                return None;
            }
            if request.memory == MemoryAsk::Nothing {
                continue;
            }
            let count = if request.all { matches } else { request.count };
            // What a soft share takes depends on what is promised already, and is hard to tell from outside a node.
            let is_soft = kind.key.overcommitted && request.oversubscribed.is_any();
            let cores = if is_soft { 0 } else { request.cores };
            let least = if is_soft { 0 } else { least };
            let memory = i64::try_from(least).unwrap_or(i64::MAX);
            whole = whole.saturating_add(memory.saturating_mul(count.into()));
            shares = shares.saturating_add(count);
            let known = kind.key.is_even() || matches!(request.memory, MemoryAsk::Bytes(_));
            takes = takes.filter(|_| known && !is_soft).map(|(memory, cores)| {
                let count = u64::from(count);
                (memory.saturating_add(least.saturating_mul(count)), cores + u64::from(request.cores) * count)
            });
            let bit = kind.scale.bit(least, cores);
            parts.push(Part { count, memory, cores: cores.into(), bit });
        }
        let takes = takes.filter(|_| kind.key.is_ordered());
        Some(Self { room: Least::of(&demand.room), parts, whole, takes, shares })
    }

    /// Whether some of the nodes may take it: false is certain.
    pub(crate) fn may_fit(&self, nodes: &Summary) -> bool {
        // What says no most often first: a refusal asks every block.
        let has = |p: &Part| {
            nodes.may_have(p.count, p.bit)
                && p.memory <= nodes.gpu_memory.max
                && p.cores <= nodes.gpu_cores.max
        };
        self.parts.iter().all(has)
            && self.whole <= nodes.whole
            && self.room.fits(&(nodes.cpu.max, nodes.memory.max, nodes.pods.max))
    }

    /// How full a node is with the demand on it.
    fn fullness(&self, kind: &Kind, key: &Key) -> Option<Fullness> {
        let (memory, cores) = self.takes?;
        Some(Fullness::new(
            (key.memory.saturating_add(memory), kind.total.0),
            (key.cores + cores, kind.total.1),
            key.shares.saturating_add(self.shares),
        ))
    }
}

impl Cluster {
    /// Where the pod goes, or why nowhere. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal`] with every reason and how many GPUs or nodes it holds for.
    pub fn plan(&self, demand: &Demand) -> Result<Placement, Refusal> {
        let mut derived = self.derived();
        let derived = &mut *derived;
        let is_learnt = derived.fragmentation.is_learnt();
        let chosen =
            (demand.node_policy == Policy::LeastFragmentation && is_learnt && demand.only_node.is_none())
                .then(|| derived.fragmentation.best_node(self, demand));
        let mut trial = Trial { cluster: self, demand, fragmentation: &derived.fragmentation, last: None };
        let best = if let Some(only) = &demand.only_node {
            trial.only(only)
        } else if let Some(chosen) = chosen {
            chosen.and_then(|name| trial.attempt(&name).then(|| trial.last.take()).flatten())
        } else {
            let mut best: Option<(Rank, Answer)> = None;
            for kind in derived.index.kinds.values() {
                if !demand.excluded.classes.contains_key(&kind.key.class)
                    && let Some(needs) = Needs::of(kind, demand)
                {
                    trial.search(kind, &needs, &mut best);
                }
            }
            best.map(|(_, answer)| answer)
        };
        match best {
            Some(answer) => Ok(Placement {
                node: answer.name.to_string(),
                shares: answer.shares,
                score: answer.fullness.used,
            }),
            None => Err(self.refuse(&derived.index, demand)),
        }
    }
}

impl Trial<'_> {
    fn only(&mut self, name: &str) -> Option<Answer> {
        let node = self.cluster.nodes.get(name)?;
        if node_reason(name, node, self.cluster.taken(name), self.demand).is_some() {
            return None;
        }
        if self.attempt(&Arc::from(name)) { self.last.take() } else { None }
    }

    /// Whether the requests go onto a node's GPUs.
    fn attempt(&mut self, name: &Arc<str>) -> bool {
        if self.last.as_ref().is_some_and(|l| l.name == *name) {
            return true;
        }
        let Some(node) = self.cluster.nodes.get(&**name) else { return false };
        let taken = self.cluster.taken(name);
        let judge = self.fragmentation.judge(name, self.demand);
        let done = Fill::new(node, taken, self.demand.parts(), judge.as_ref()).run();
        let Some((shares, fullness)) = done else { return false };
        self.last = Some(Answer { name: name.clone(), shares, fullness });
        true
    }

    /// The best node of a kind, if it is better than the best so far.
    fn search(&mut self, kind: &Kind, needs: &Needs, best: &mut Option<(Rank, Answer)>) {
        let policy = self.demand.node_policy;
        let mut done: Option<Key> = None;
        while let Some(name) = self.next(kind, needs, done.as_ref(), best) {
            if !self.attempt(&name.name) {
                return;
            }
            let Some(answer) = self.last.take() else { return };
            let rank = policy.rank(answer.fullness);
            let is_better = best.as_ref().is_none_or(|(b, known)| {
                (rank, std::cmp::Reverse(&answer.name)) > (*b, std::cmp::Reverse(&known.name))
            });
            if is_better {
                *best = Some((rank, answer));
            }
            done = Some(name);
        }
    }

    /// The best node of the next level after `done`; where fullness is no order, simply the next node that fits.
    fn next(
        &mut self,
        kind: &Kind,
        needs: &Needs,
        done: Option<&Key>,
        best: &Option<(Rank, Answer)>,
    ) -> Option<Key> {
        let demand = self.demand;
        let may = |nodes: &Summary| needs.may_fit(nodes);
        // By each request alone, and by name: a trial costs more.
        let is_out = |seat: &Seat| {
            let lacks = |r: &Request| {
                let count = r.count as usize;
                seat.vacancies.iter().filter(|v| v.takes(r).is_ok()).take(count).count() < count
            };
            demand.requests.iter().any(lacks) || demand.excluded.nodes.contains_key(&*seat.key.name)
        };
        if needs.takes.is_none() {
            let below = |key: &Key| done.is_some_and(|d| key <= d);
            return kind
                .first(below, may, |s| !is_out(s) && self.attempt(&s.key.name))
                .map(|s| s.key.clone());
        }
        // Rounding moves a score by at most one part per million, so one level later everything is worse for good.
        let worst = best.as_ref().map(|(_, b)| i64::from(b.fullness.used.0));
        let is_late = |key: &Key, ahead: fn(i64, i64) -> bool| {
            let score = needs.fullness(kind, key).map(|f| i64::from(f.used.0));
            worst.zip(score).is_some_and(|(best, score)| ahead(best, score))
        };
        if demand.node_policy == Policy::Spread {
            let below = |key: &Key| done.is_some_and(|d| key.level() <= d.level());
            let found = kind.first(below, may, |s| {
                is_late(&s.key, |best, score| score > best + 1) || (!is_out(s) && self.attempt(&s.key.name))
            })?;
            return (!is_late(&found.key, |best, score| score > best + 1)).then(|| found.key.clone());
        }
        let below = |key: &Key| done.is_none_or(|d| key.level() < d.level());
        let found = kind.last(below, may, |s| {
            is_late(&s.key, |best, score| score + 1 < best) || (!is_out(s) && self.attempt(&s.key.name))
        })?;
        if is_late(&found.key, |best, score| score + 1 < best) {
            return None;
        }
        let run = found.key.run();
        let first = kind.first(|k| k.run() < run, may, |s| !is_out(s) && self.attempt(&s.key.name))?;
        Some(first.key.clone())
    }
}

/// Whether everything in a range is at least, or everything below, what is asked.
pub(crate) fn all_have(range: Range, ask: i64) -> Option<bool> {
    if range.min >= ask {
        Some(true)
    } else if range.max < ask {
        Some(false)
    } else {
        None
    }
}

/// Why a node is out whatever its GPUs are.
pub(crate) fn node_reason(
    name: &str,
    node: &Node,
    taken: Option<&NodeTaken>,
    demand: &Demand,
) -> Option<NodeReason> {
    if demand.only_node.as_deref().is_some_and(|only| only != name) {
        return Some(NodeReason::NotTheNode);
    }
    if let Some(reason) = demand.excluded.of(name, node.class) {
        return Some(NodeReason::Excluded(reason.clone()));
    }
    Least::of(&demand.room).lack(&free_room(node, taken)).map(NodeReason::from)
}

#[cfg(test)]
mod tests;
