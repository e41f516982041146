//! Why a pod fits nowhere: whole blocks of nodes at once where their summary tells, node by node where it does not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::demand::{Demand, MemoryAsk, Request};
use crate::index::{Index, Kind, Seat};
use crate::placement::{GpuReason, NodeReason, Refusal};
use crate::plan::{all_have, node_reason};
use crate::room::{Lack, Least};
use crate::summary::Summary;
use crate::tally::{Group, Lot};
use crate::topology::Topology;
use crate::vacancy::{Vacancy, memory_of};

impl Cluster {
    pub(crate) fn refuse(&self, index: &Index, demand: &Demand) -> Refusal {
        let mut refusal = Refusal::default();
        // Nodes ruled out by name, by kind: the blocks they are in are looked at node by node.
        let mut named: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
        let by_name = demand.excluded.nodes.keys().chain(&demand.only_node);
        for (kind, key) in by_name.filter_map(|name| index.place(name)) {
            let block = index.kinds.get(kind).and_then(|k| k.find(key));
            named.entry(kind).or_default().extend(block.map(|b| b.0));
        }
        for (key, kind) in &index.kinds {
            if kind.key.gpus.is_empty() {
                continue;
            }
            let blocks = named.get(key);
            let plain = Plain::of(kind, demand);
            let plain = plain.as_ref();
            if blocks.is_none() && demand.only_node.is_none() && refusal.add_kind(kind, plain, demand) {
                continue;
            }
            for (at, block) in kind.blocks.iter().enumerate() {
                refusal.gpus += block.summary.gpus;
                let is_plain = blocks.is_none_or(|b| !b.contains(&at));
                if is_plain && refusal.add_nodes(kind, plain, &block.summary, demand) {
                    continue;
                }
                for seat in &block.seats {
                    let name = &*seat.key.name;
                    let is_named = demand.excluded.nodes.contains_key(name) || demand.only_node.is_some();
                    let node = is_named.then(|| self.nodes.get(name)).flatten();
                    let reason = node.and_then(|node| node_reason(name, node, self.taken(name), demand));
                    if let Some(reason) = reason {
                        *refusal.node_reasons.entry(reason).or_default() += 1;
                    } else if is_named || !refusal.add_nodes(kind, plain, &seat.summary, demand) {
                        seat.vacancies.iter().for_each(|v| refusal.add_gpus(v, 1, demand));
                    }
                }
            }
        }
        refusal.name_joined(demand);
        refusal
    }
}

impl Refusal {
    /// Where a request wants GPUs that are joined, says that it is such of which there are not enough.
    pub(crate) fn name_joined(&mut self, demand: &Demand) {
        let wants = |r: &Request| r.topology == Topology::Require && (r.count > 1 || r.all);
        if demand.requests.iter().any(wants)
            && let Some(count) = self.gpu_reasons.remove(&GpuReason::NotEnoughGpus)
        {
            self.gpu_reasons.insert(GpuReason::NotEnoughJoinedGpus, count);
        }
    }

    /// Counts all nodes of a kind, of which none is ruled out by name: GPUs that are alike together, and one by one those of
    /// nodes that lack CPU, memory or places. False if these are many, or the kind is out; then nothing is counted.
    fn add_kind(&mut self, kind: &Kind, plain: Option<&Plain>, demand: &Demand) -> bool {
        if demand.excluded.classes.contains_key(&kind.key.class) {
            return false;
        }
        let asked = Least::of(&demand.room);
        let (mut out, mut nodes) = (Vec::with_capacity(64), 0);
        let mut lacks = [0u32; Lack::ALL.len()];
        for block in &kind.blocks {
            nodes += block.seats.len();
            if asked.fits(&(block.summary.cpu.min, block.summary.memory.min, block.summary.pods.min)) {
                continue;
            }
            for (at, lack) in block.rooms.lacking(&asked) {
                lacks[lack as usize] += 1;
                out.push(&block.seats[at]);
            }
        }
        if out.len() > nodes / 8 {
            return false;
        }
        let mut counts = [0u32; GpuReason::ALL.len()];
        for lot in kind.tally.lots() {
            self.gpus += lot.count;
            self.add_lot(lot, demand, &out, &mut counts);
        }
        // GPUs of nodes that are out count for their node.
        for seat in out.iter().filter(|_| !demand.requests.is_empty()) {
            if let Some(open) = plain.and_then(|plain| plain.open(&seat.summary)) {
                counts[GpuReason::Unhealthy as usize] -= seat.summary.unhealthy;
                counts[open.crowded as usize] -= seat.summary.crowded;
                counts[open.why.reason as usize] -= open.count;
            } else {
                seat.vacancies.iter().for_each(|gpu| counts[reason_of(gpu, demand) as usize] -= 1);
            }
        }
        for (lack, count) in Lack::ALL.into_iter().zip(lacks).filter(|l| l.1 > 0) {
            *self.node_reasons.entry(lack.into()).or_default() += count;
        }
        for (reason, count) in GpuReason::ALL.into_iter().zip(counts).filter(|c| c.1 > 0) {
            *self.gpu_reasons.entry(reason).or_default() += count;
        }
        true
    }

    /// Counts a lot's GPUs, those of the nodes that are out too.
    fn add_lot(
        &mut self,
        lot: &Lot,
        demand: &Demand,
        out: &[&Seat],
        counts: &mut [u32; GpuReason::ALL.len()],
    ) {
        let Some((low, reason)) = lot.any().and_then(|gpu| lowest(gpu, demand)) else { return };
        // GPUs of nodes that are out do not tell what is free.
        let most = out.iter().map(|seat| seat.vacancies.len()).max().unwrap_or(0);
        let is_there = |vacancy: &Vacancy, count: u32| {
            let gone = || out.iter().flat_map(|seat| &seat.vacancies);
            // Of most there are more than GPUs are out at all.
            count as usize > out.len() * most
                || gone().filter(|v| *v == vacancy).take(count as usize).count() < count as usize
        };
        let mut rest = lot.count;
        for group in lot.from(low) {
            rest -= group.count;
            if let Some(why) = Why::of_group(group, demand).filter(|why| out.is_empty() || why.tells_memory())
            {
                counts[why.reason as usize] += group.count;
                if self.learns(&why)
                    && (out.is_empty() || group.members().any(|(gpu, count)| is_there(gpu, count)))
                {
                    self.note(&why);
                }
                continue;
            }
            for (gpu, count) in group.members() {
                let Some(why) = Why::of(gpu, demand) else { continue };
                counts[why.reason as usize] += count;
                if self.learns(&why) && (out.is_empty() || is_there(gpu, count)) {
                    self.note(&why);
                }
            }
        }
        counts[reason as usize] += rest;
        // With the most free memory first: what comes later tells no more.
        for group in lot.below(low) {
            let Some(why) = group.ends().and_then(|(gpu, _)| Why::of(gpu, demand)) else { break };
            if !self.learns(&why) {
                break;
            }
            if out.is_empty() || group.members().any(|(gpu, count)| is_there(gpu, count)) {
                self.note(&why);
                break;
            }
        }
    }

    /// Counts nodes of a kind whose summary tells the reason for all of them; false if it does not.
    fn add_nodes(&mut self, kind: &Kind, plain: Option<&Plain>, nodes: &Summary, demand: &Demand) -> bool {
        let whole = if demand.only_node.is_some() {
            Some(NodeReason::NotTheNode)
        } else if let Some(reason) = demand.excluded.classes.get(&kind.key.class) {
            Some(NodeReason::Excluded(reason.clone()))
        } else {
            let asked = Least::of(&demand.room);
            let worst = asked.lack(&(nodes.cpu.min, nodes.memory.min, nodes.pods.min));
            // The first that any node lacks is the reason of all only if all lack that.
            let best = match &worst {
                Some(Lack::Cpu) => (nodes.cpu.max, i64::MAX, i64::MAX),
                Some(Lack::Memory) => (i64::MAX, nodes.memory.max, i64::MAX),
                _ => (i64::MAX, i64::MAX, nodes.pods.max),
            };
            if worst.is_some() && asked.fits(&best) {
                return false;
            }
            worst.map(NodeReason::from)
        };
        if let Some(reason) = whole {
            *self.node_reasons.entry(reason).or_default() += nodes.nodes;
            return true;
        }
        if demand.requests.is_empty() {
            return true;
        }
        let Some(open) = plain.and_then(|plain| plain.open(nodes)) else { return false };
        let mut add = |reason, count: u32| {
            if count > 0 {
                *self.gpu_reasons.entry(reason).or_default() += count;
            }
        };
        add(GpuReason::Unhealthy, nodes.unhealthy);
        add(open.crowded, nodes.crowded);
        add(open.why.reason, open.count);
        if open.count > 0 {
            self.note(&open.why);
        }
        true
    }

    /// Counts GPUs of one vacancy.
    pub(crate) fn add_gpus(&mut self, gpu: &Vacancy, count: u32, demand: &Demand) {
        if let Some(why) = Why::of(gpu, demand).filter(|_| count > 0) {
            self.note(&why);
            *self.gpu_reasons.entry(why.reason).or_default() += count;
        }
    }

    /// Whether [`Self::note`] would keep it.
    fn learns(&self, why: &Why) -> bool {
        match why.reason {
            GpuReason::InsufficientMemory => self
                .memory
                .is_none_or(|(free, asked)| (why.free.0, Reverse(why.asked.0)) > (free, Reverse(asked))),
            GpuReason::InsufficientCores => self.cores.is_none_or(|(free, _)| why.free.1 > free),
            _ => false,
        }
    }

    /// Keeps the most that is free of what was lacking; among equals the least that was asked.
    fn note(&mut self, why: &Why) {
        if self.learns(why) {
            match why.reason {
                GpuReason::InsufficientMemory => self.memory = Some((why.free.0, why.asked.0)),
                _ => self.cores = Some((why.free.1, why.asked.1)),
            }
        }
    }
}

/// Why a GPU does not take the requests, and memory and cores that are free of it and asked for.
struct Why {
    reason: GpuReason,
    free: (u64, u32),
    asked: (u64, u32),
}

/// The reason of the first request if no request fits, else that it is not enough.
fn reason_of(gpu: &Vacancy, demand: &Demand) -> GpuReason {
    let [first, others @ ..] = &demand.requests[..] else { return GpuReason::NotEnoughGpus };
    match gpu.takes(first) {
        Err(reason) if others.iter().all(|request| gpu.takes(request).is_err()) => reason,
        _ => GpuReason::NotEnoughGpus,
    }
}

/// Free memory below which every GPU of a lot, given one of them, has the same reason, and that reason. `None` if nothing is
/// requested.
fn lowest(gpu: &Vacancy, demand: &Demand) -> Option<(u64, GpuReason)> {
    let first = demand.requests.first()?;
    let empty = Vacancy { memory: u64::MAX, cores: u32::MAX, soft: (u64::MAX, u32::MAX), ..*gpu };
    let reason = empty.takes(first).err().unwrap_or(GpuReason::InsufficientMemory);
    let open = demand.requests.iter().filter(|request| empty.takes(request).is_ok());
    let asked = |r: &Request| if r.oversubscribed.is_any() { 0 } else { memory_of(r.memory, gpu.capacity) };
    Some((open.map(asked).min().unwrap_or(u64::MAX), reason))
}

impl Why {
    fn of(gpu: &Vacancy, demand: &Demand) -> Option<Self> {
        let request = demand.requests.first()?;
        let reason = reason_of(gpu, demand);
        let asked = (memory_of(request.memory, gpu.capacity), request.cores);
        Some(Self { reason, free: gpu.free_for(request), asked })
    }

    /// The one reason of GPUs that differ in free cores only; `None` if they have several, or it takes a look at each.
    fn of_group(group: &Group, demand: &Demand) -> Option<Self> {
        let [request] = &demand.requests[..] else { return None };
        let (fewest, most) = group.ends().filter(|_| !request.oversubscribed.is_any())?;
        let (one, other) = (Self::of(fewest, demand)?, Self::of(most, demand)?);
        (one.reason == other.reason).then_some(other)
    }

    /// Whether its reason is not about cores, in which GPUs of a group differ.
    fn tells_memory(&self) -> bool {
        self.reason != GpuReason::InsufficientCores
    }
}

/// A demand on a kind whose nodes' summaries may tell why it is refused.
struct Plain {
    /// By request: what it asks of each GPU, if the selectors match them at all.
    asks: Vec<Option<(i64, i64)>>,
    /// What the first asks.
    asked: (u64, u32),
}

/// The one reason of all open GPUs of some nodes, that of the crowded ones, and how many there are.
struct Open {
    why: Why,
    crowded: GpuReason,
    count: u32,
}

impl Plain {
    /// `None` if a look at each GPU is needed, or nothing is requested.
    fn of(kind: &Kind, demand: &Demand) -> Option<Self> {
        let first = demand.requests.first()?;
        // A GPU may be looked at however it is, and some of a kind may have taints.
        let is_barred = |r: &Request| kind.key.gpus.iter().any(|g| r.barred.contains(&g.0));
        let is_soft = |r: &Request| kind.key.overcommitted && r.oversubscribed.is_any();
        if demand.requests.iter().any(|r| r.memory == MemoryAsk::Nothing || is_barred(r) || is_soft(r)) {
            return None;
        }
        let capacity = kind.key.gpus.first()?.1;
        let is_even = kind.key.is_even();
        let ask = |request: &Request| {
            if !is_even && !matches!(request.memory, MemoryAsk::Bytes(_)) {
                return None;
            }
            let mut gpus = kind.key.gpus.iter().map(|g| request.shapes.contains(g.0));
            let matches = gpus.next()?;
            let memory = i64::try_from(memory_of(request.memory, capacity)).unwrap_or(i64::MAX);
            gpus.all(|m| m == matches).then_some(matches.then_some((memory, i64::from(request.cores))))
        };
        let asks = demand.requests.iter().map(ask).collect::<Option<_>>()?;
        Some(Self { asks, asked: (memory_of(first.memory, capacity), first.cores) })
    }

    /// `None` if they have several.
    fn open(&self, nodes: &Summary) -> Option<Open> {
        let mut reasons = self.asks.iter().map(|ask| {
            Some(match ask {
                None => GpuReason::ModelMismatch,
                Some((memory, _)) if !all_have(nodes.gpu_memory, *memory)? => GpuReason::InsufficientMemory,
                Some((_, cores)) if !all_have(nodes.gpu_cores, *cores)? => GpuReason::InsufficientCores,
                Some(_) => GpuReason::NotEnoughGpus,
            })
        });
        let mut reason = reasons.next()??;
        for other in reasons {
            if other? == GpuReason::NotEnoughGpus {
                reason = GpuReason::NotEnoughGpus;
            }
        }
        let matches = self.asks.first()?.is_some();
        let free = (
            u64::try_from(nodes.gpu_memory.max).unwrap_or(0),
            u32::try_from(nodes.gpu_cores.max).unwrap_or(0),
        );
        Some(Open {
            why: Why { reason, free, asked: self.asked },
            crowded: if matches { GpuReason::NoSharesLeft } else { GpuReason::ModelMismatch },
            count: nodes.gpus - nodes.unhealthy - nodes.crowded,
        })
    }
}
