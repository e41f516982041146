//! Why a pod fits nowhere: whole blocks of nodes at once where their summary tells, node by node where it does not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::demand::{Demand, MemoryAsk, Request};
use crate::index::{Index, Kind, Seat};
use crate::placement::{GpuReason, NodeReason, Refusal};
use crate::plan::{all_have, node_reason, room_reason};
use crate::summary::Summary;
use crate::tally::Group;
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
            if blocks.is_none() && demand.only_node.is_none() && refusal.add_kind(kind, demand) {
                continue;
            }
            for (at, block) in kind.blocks.iter().enumerate() {
                refusal.gpus += block.summary.gpus;
                let is_plain = blocks.is_none_or(|b| !b.contains(&at));
                if is_plain && refusal.add_nodes(kind, &block.summary, demand) {
                    continue;
                }
                for seat in &block.seats {
                    let name = &*seat.key.name;
                    let is_named = demand.excluded.nodes.contains_key(name) || demand.only_node.is_some();
                    let node = is_named.then(|| self.nodes.get(name)).flatten();
                    let reason = node.and_then(|node| node_reason(name, node, self.taken(name), demand));
                    if let Some(reason) = reason {
                        *refusal.node_reasons.entry(reason).or_default() += 1;
                    } else if is_named || !refusal.add_nodes(kind, &seat.summary, demand) {
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
    fn add_kind(&mut self, kind: &Kind, demand: &Demand) -> bool {
        if demand.excluded.classes.contains_key(&kind.key.class) {
            return false;
        }
        let reason = |s: &Summary| room_reason(&demand.room, (s.cpu.min, s.memory.min, s.pods.min));
        let (mut lacking, mut nodes) = (Vec::new(), 0);
        for block in &kind.blocks {
            nodes += block.seats.len();
            if reason(&block.summary).is_some() {
                lacking.extend(block.seats.iter().filter_map(|s| Some((s, reason(&s.summary)?))));
            }
        }
        if lacking.len() > nodes / 8 {
            return false;
        }
        let mut counts = [0u32; GpuReason::ALL.len()];
        // GPUs of nodes that are out count for their node, and do not tell what is free.
        let gone = |vacancy: &Vacancy| -> u32 {
            let of_seat =
                |(seat, _): &(&Seat, NodeReason)| seat.vacancies.iter().filter(|v| *v == vacancy).count();
            lacking.iter().map(of_seat).sum::<usize>() as u32
        };
        // The most free memory first: what comes later seldom tells more.
        for group in kind.tally.groups().rev() {
            self.gpus += group.count;
            if let Some(why) =
                Why::of_group(group, demand).filter(|why| lacking.is_empty() || why.tells_memory())
            {
                counts[why.reason as usize] += group.count;
                let is_there =
                    || lacking.is_empty() || group.members().any(|(vacancy, count)| count > gone(vacancy));
                if self.learns(&why) && is_there() {
                    self.note(&why);
                }
                continue;
            }
            for (vacancy, count) in group.members() {
                let Some(why) = Why::of(vacancy, demand) else { continue };
                counts[why.reason as usize] += count;
                if self.learns(&why) && (lacking.is_empty() || count > gone(vacancy)) {
                    self.note(&why);
                }
            }
        }
        for (seat, reason) in lacking {
            *self.node_reasons.entry(reason).or_default() += 1;
            for why in seat.vacancies.iter().filter_map(|vacancy| Why::of(vacancy, demand)) {
                counts[why.reason as usize] -= 1;
            }
        }
        for (reason, count) in GpuReason::ALL.into_iter().zip(counts).filter(|c| c.1 > 0) {
            *self.gpu_reasons.entry(reason).or_default() += count;
        }
        true
    }

    /// Counts nodes of a kind whose summary tells the reason for all of them; false if it does not.
    fn add_nodes(&mut self, kind: &Kind, nodes: &Summary, demand: &Demand) -> bool {
        let whole = if demand.only_node.is_some() {
            Some(NodeReason::NotTheNode)
        } else if let Some(reason) = demand.excluded.classes.get(&kind.key.class) {
            Some(NodeReason::Excluded(reason.clone()))
        } else {
            let worst = room_reason(&demand.room, (nodes.cpu.min, nodes.memory.min, nodes.pods.min));
            // The first that any node lacks is the reason of all only if all lack that.
            let best = match &worst {
                Some(NodeReason::InsufficientCpu) => (nodes.cpu.max, i64::MAX, i64::MAX),
                Some(NodeReason::InsufficientHostMemory) => (i64::MAX, nodes.memory.max, i64::MAX),
                _ => (i64::MAX, i64::MAX, nodes.pods.max),
            };
            if worst.is_some() && room_reason(&demand.room, best).is_none() {
                return false;
            }
            worst
        };
        if let Some(reason) = whole {
            *self.node_reasons.entry(reason).or_default() += nodes.nodes;
            return true;
        }
        if demand.requests.is_empty() {
            return true;
        }
        let Some(open) = Open::of(kind, nodes, demand) else { return false };
        let mut add = |reason, count: u32| {
            if count > 0 {
                *self.gpu_reasons.entry(reason).or_default() += count;
            }
        };
        add(GpuReason::Unhealthy, nodes.unhealthy);
        add(open.crowded, nodes.crowded);
        let count = nodes.gpus - nodes.unhealthy - nodes.crowded;
        add(open.reason, count);
        if count > 0 {
            self.note(&Why { reason: open.reason, free: open.free, asked: open.asked });
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

impl Why {
    /// The reason of the first request if no request fits, else that it is not enough.
    fn of(gpu: &Vacancy, demand: &Demand) -> Option<Self> {
        let request = demand.requests.first()?;
        let reason = match gpu.takes(request) {
            Err(reason) if demand.requests[1..].iter().all(|r| gpu.takes(r).is_err()) => reason,
            _ => GpuReason::NotEnoughGpus,
        };
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

/// The one reason of all open GPUs of some nodes, and that of the crowded ones.
struct Open {
    reason: GpuReason,
    crowded: GpuReason,
    free: (u64, u32),
    asked: (u64, u32),
}

impl Open {
    /// `None` if they have several.
    fn of(kind: &Kind, nodes: &Summary, demand: &Demand) -> Option<Self> {
        let first = demand.requests.first()?;
        // A GPU may be looked at however it is, and some of a kind may have taints.
        let is_barred = |r: &Request| kind.key.gpus.iter().any(|g| r.barred.contains(&g.0));
        let is_soft = |r: &Request| kind.key.overcommitted && r.oversubscribed.is_any();
        if demand.requests.iter().any(|r| r.memory == MemoryAsk::Nothing || is_barred(r) || is_soft(r)) {
            return None;
        }
        let capacity = kind.key.gpus.first()?.1;
        let matches = |request: &Request| {
            let mut gpus = kind.key.gpus.iter().map(|g| request.shapes.contains(g.0));
            let matches = gpus.next()?;
            gpus.all(|m| m == matches).then_some(matches)
        };
        let reason_of = |request: &Request| {
            if !kind.key.is_even() && !matches!(request.memory, MemoryAsk::Bytes(_)) {
                return None;
            }
            let memory = i64::try_from(memory_of(request.memory, capacity)).unwrap_or(i64::MAX);
            Some(if !matches(request)? {
                GpuReason::ModelMismatch
            } else if !all_have(nodes.gpu_memory, memory)? {
                GpuReason::InsufficientMemory
            } else if !all_have(nodes.gpu_cores, request.cores.into())? {
                GpuReason::InsufficientCores
            } else {
                GpuReason::NotEnoughGpus
            })
        };
        let mut reason = reason_of(first)?;
        for request in &demand.requests[1..] {
            if reason_of(request)? == GpuReason::NotEnoughGpus {
                reason = GpuReason::NotEnoughGpus;
            }
        }
        let crowded = if matches(first)? { GpuReason::NoSharesLeft } else { GpuReason::ModelMismatch };
        let free = (
            u64::try_from(nodes.gpu_memory.max).unwrap_or(0),
            u32::try_from(nodes.gpu_cores.max).unwrap_or(0),
        );
        Some(Self { reason, crowded, free, asked: (memory_of(first.memory, capacity), first.cores) })
    }
}
