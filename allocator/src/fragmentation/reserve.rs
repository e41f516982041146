//! What free GPUs are worth to pods that can go to few places: whole nodes, rare models, nodes rich in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::value::{Make, WHOLE, amount_of};
use crate::mix::Spec;

const MIB: u64 = 1 << 20;
/// A pod pays for places of its own class only to pods whose places are rarer than this part of its own.
const RARER: f64 = 0.8;
/// Least price of whole GPUs side by side to a pod that wants fewer. Fill values are means over few sequences: while much is
/// free, what by chance suits them would put a pod onto every node that is empty, and leave none for who wants all of it.
const FLOOR: f64 = 0.005;
/// Prices per class of 1, 2, 4 and 8 GPUs.
pub(crate) type Prices = [f64; 4];

/// Nodes that are alike empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shell {
    pub(crate) make: Arc<Make>,
    /// Rounded down to cores and GiB: nodes of one make differ by less.
    pub(crate) cpu_milli: u64,
    pub(crate) memory: u64,
}

/// A shell's share of the cluster.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Supply {
    pub(crate) nodes: u32,
    /// Free amount.
    pub(crate) free: u64,
    /// k x floor(w / k) summed over nodes, for k of 2, 4, 8.
    pub(crate) whole: [u64; 3],
}

/// Pods that can go to the same shells.
#[derive(Debug, Clone)]
struct Group {
    class: usize,
    hosts: Vec<u32>,
    demand: f64,
    /// Share of the cluster's GPUs that can host it.
    rarity: f64,
}

/// Who wants what there is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reserve {
    shells: Vec<Shell>,
    supply: Vec<Supply>,
    /// GPUs of all nodes of a shell, as part of the cluster's.
    parts: Vec<f64>,
    groups: Vec<Group>,
    free: f64,
    has_cores: bool,
}

/// 0 for one GPU, 1 for two, 2 for three and four, 3 for more.
fn class_of(count: u32) -> usize {
    (count.max(1).next_power_of_two().ilog2() as usize).min(3)
}

impl Shell {
    fn hosts(&self, spec: &Spec) -> bool {
        let fits = |gpu: &&(u32, u64, u32)| {
            let part = super::value::part_of(spec, gpu.1);
            spec.shapes.contains(gpu.0) && u64::from(part.0) <= gpu.1 / MIB && part.1 <= gpu.2
        };
        // The rounding of the shell must not turn away a pod as big as the node.
        spec.cpu_milli <= self.cpu_milli + 999
            && spec.host_memory / (1 << 30) <= self.memory
            && self.make.gpus.iter().filter(fits).count() >= spec.count as usize
    }
}

impl Reserve {
    /// `specs` with their weights; `prior` is the weight of the pods one expects before any was seen.
    pub(crate) fn new(
        shells: &[(Shell, Supply)],
        specs: &[(Spec, f64)],
        prior: f64,
        has_cores: bool,
    ) -> Self {
        let (shells, supply): (Vec<Shell>, Vec<Supply>) = shells.iter().cloned().unzip();
        let gpus = |i: usize| supply[i].nodes as f64 * shells[i].make.gpus.len() as f64;
        let total: f64 = (0..shells.len()).map(gpus).sum::<f64>().max(1.0);
        let parts = (0..shells.len()).map(|i| gpus(i) / total).collect();
        let free = supply.iter().map(|s| s.free as f64).sum();
        let mut reserve = Self { shells, supply, parts, groups: Vec::new(), free, has_cores };
        let mut groups: BTreeMap<(usize, Vec<u32>), f64> = BTreeMap::new();
        let mut sum = 0.0;
        for (spec, weight) in specs {
            let demand = weight * reserve.amount(spec);
            sum += demand;
            *groups.entry((class_of(spec.count), reserve.hosts(spec))).or_default() += demand;
        }
        // Before much was seen: some pods want all GPUs of a node, or any one GPU of each make.
        for i in 0..reserve.shells.len() {
            let demand = prior * reserve.parts[i];
            let count = reserve.shells[i].make.gpus.len() as u32;
            if count > 0 && demand > 0.0 {
                sum += demand;
                let alike = |j: &u32| {
                    let (a, b) = (&reserve.shells[i], &reserve.shells[*j as usize]);
                    b.make.gpus.len() >= a.make.gpus.len()
                        && b.memory >= a.memory
                        && b.cpu_milli >= a.cpu_milli
                };
                let hosts = (0..reserve.shells.len() as u32).filter(alike).collect();
                *groups.entry((class_of(count), hosts)).or_default() += demand;
            }
        }
        let group = |((class, hosts), demand): ((usize, Vec<u32>), f64)| Group {
            class,
            rarity: reserve.rarity(&hosts),
            hosts,
            demand: demand / sum.max(1.0),
        };
        let mut groups: Vec<Group> = groups.into_iter().map(group).collect();
        groups.sort_by(|a, b| a.rarity.total_cmp(&b.rarity));
        reserve.groups = groups;
        reserve
    }

    fn hosts(&self, spec: &Spec) -> Vec<u32> {
        (0..self.shells.len() as u32).filter(|i| self.shells[*i as usize].hosts(spec)).collect()
    }

    fn rarity(&self, hosts: &[u32]) -> f64 {
        hosts.iter().map(|i| self.parts[*i as usize]).sum()
    }

    fn amount(&self, spec: &Spec) -> f64 {
        let gpu = self.shells.iter().flat_map(|s| s.make.gpus.iter()).find(|g| spec.shapes.contains(g.0));
        let one = gpu.map_or(WHOLE, |g| amount_of(spec, (g.1, g.2), self.has_cores));
        f64::from(one) * f64::from(spec.count)
    }

    /// What a pod pays, by shell, if demand for so many times what is free is expected.
    pub(crate) fn prices(&self, spec: &Spec, expected: f64) -> Vec<Prices> {
        let (class, rarity) = (class_of(spec.count), self.rarity(&self.hosts(spec)));
        let mut prices = vec![[0.0; 4]; self.shells.len()];
        for k in 0..4 {
            let supply = |i: usize| match k {
                0 => self.supply[i].free as f64,
                _ => self.supply[i].whole[k - 1] as f64 * f64::from(WHOLE),
            };
            let mut poured = vec![0.0; self.shells.len()];
            for group in &self.groups {
                let counts = group.class == k || (k == 0 && group.class > 0);
                if counts && (k > class || group.rarity < RARER * rarity) {
                    pour(&mut poured, &group.hosts, &supply, group.demand * expected * self.free);
                }
            }
            for (i, price) in prices.iter_mut().enumerate() {
                let load = if supply(i) > 0.0 { poured[i] / supply(i) } else { 0.0 };
                let least = if k > class { FLOOR } else { 0.0 };
                price[k] = load.min(1.0).powi(3).max(least);
            }
        }
        prices
    }
}

/// Spreads an amount over hosts so that what was poured levels in proportion to supply.
fn pour(poured: &mut [f64], hosts: &[u32], supply: &dyn Fn(usize) -> f64, amount: f64) {
    let mut hosts: Vec<(f64, usize)> = hosts
        .iter()
        .map(|i| *i as usize)
        .filter(|i| supply(*i) > 0.0)
        .map(|i| (poured[i] / supply(i), i))
        .collect();
    hosts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut wide, mut deep, mut level) = (0.0, 0.0, 0.0);
    for (n, (_, i)) in hosts.iter().enumerate() {
        wide += supply(*i);
        deep += poured[*i];
        level = (amount + deep) / wide;
        if hosts.get(n + 1).is_none_or(|next| next.0 >= level) {
            break;
        }
    }
    for (load, i) in hosts {
        if load < level {
            poured[i] = level * supply(i);
        }
    }
}
