//! One decision: every node is tried, the best by the node policy wins, and if none fits it is said why.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Node, NodeTaken, Room};
use crate::demand::Demand;
use crate::fill::{Fill, fits, memory_of};
use crate::placement::{GpuReason, NodeReason, Placement, Refusal};
use crate::policy::Rank;

impl Cluster {
    /// Where the pod goes, or why nowhere. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal`] with every reason and how many GPUs or nodes it holds for.
    pub fn plan(&self, demand: &Demand) -> Result<Placement, Refusal> {
        let mut best: Option<(Rank, Placement)> = None;
        for (name, node) in &self.nodes {
            let taken = self.taken(name);
            if node_reason(name, node, taken, demand).is_some() {
                continue;
            }
            let Some((shares, fullness)) = Fill::new(&node.gpus, taken, &demand.requests).run() else {
                continue;
            };
            let rank = demand.node_policy.rank(fullness);
            // Nodes come in the order of their names: an equal one that comes later does not win.
            if best.as_ref().is_none_or(|(b, _)| rank > *b) {
                best = Some((rank, Placement { node: name.clone(), shares, score: fullness.used }));
            }
        }
        best.map(|(_, placement)| placement).ok_or_else(|| self.refuse(demand))
    }

    fn refuse(&self, demand: &Demand) -> Refusal {
        let mut refusal = Refusal::default();
        for (name, node) in &self.nodes {
            refusal.gpus += node.gpus.len() as u32;
            if node.gpus.is_empty() {
                continue;
            }
            let taken = self.taken(name);
            if let Some(reason) = node_reason(name, node, taken, demand) {
                *refusal.node_reasons.entry(reason).or_default() += 1;
                continue;
            }
            for (reason, count) in refusal.of_gpus(node, taken, demand) {
                *refusal.gpu_reasons.entry(reason).or_default() += count;
            }
        }
        refusal
    }
}

impl Refusal {
    /// A reason per GPU: that of the first request if it takes none of them, else that it is not enough.
    fn of_gpus(
        &mut self,
        node: &Node,
        taken: Option<&NodeTaken>,
        demand: &Demand,
    ) -> BTreeMap<GpuReason, u32> {
        let mut reasons: BTreeMap<GpuReason, u32> = BTreeMap::new();
        for gpu in &node.gpus {
            let taken = taken.and_then(|t| t.gpus.get(&gpu.name)).copied().unwrap_or_default();
            let mut first = None;
            for request in &demand.requests {
                match fits(gpu, &taken, request) {
                    Ok(()) => {
                        first = Some(GpuReason::NotEnoughGpus);
                        break;
                    }
                    Err(reason) => first = first.or(Some(reason)),
                }
            }
            let Some(reason) = first else { continue };
            if let Some(request) = demand.requests.first() {
                let asked = memory_of(request.memory, gpu);
                let free = gpu.memory.saturating_sub(taken.memory);
                let free_cores = gpu.cores.saturating_sub(taken.cores);
                match reason {
                    GpuReason::InsufficientMemory => {
                        self.memory = self.memory.filter(|(most, _)| *most >= free).or(Some((free, asked)));
                    }
                    GpuReason::InsufficientCores => {
                        let known = self.cores.filter(|(most, _)| *most >= free_cores);
                        self.cores = known.or(Some((free_cores, request.cores)));
                    }
                    _ => {}
                }
            }
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }
}

/// Why a node is out whatever its GPUs are.
fn node_reason(name: &str, node: &Node, taken: Option<&NodeTaken>, demand: &Demand) -> Option<NodeReason> {
    if demand.only_node.as_deref().is_some_and(|only| only != name) {
        return Some(NodeReason::NotTheNode);
    }
    if let Some(reason) = demand.excluded.get(name) {
        return Some(NodeReason::Excluded(reason.clone()));
    }
    let (have, used, ask) = (node.room, taken.map_or(Room::default(), |t| t.room), demand.room);
    if ask.cpu_milli > 0 && used.cpu_milli.saturating_add(ask.cpu_milli) > have.cpu_milli {
        return Some(NodeReason::InsufficientCpu);
    }
    if ask.memory > 0 && used.memory.saturating_add(ask.memory) > have.memory {
        return Some(NodeReason::InsufficientHostMemory);
    }
    (used.pods.saturating_add(ask.pods) > have.pods).then_some(NodeReason::TooManyPods)
}

#[cfg(test)]
mod tests;
