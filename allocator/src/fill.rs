//! Puts a pod's requests on the GPUs of one node.
//!
//! Requests are taken in order and each GPU by the request's policy; what turns out not to lead to a whole answer is
//! taken back. Requests of the same container go to different GPUs if the node lets them, else they may share one.
//! Constraints hold for every answer.

use std::collections::BTreeSet;

use crate::cluster::{Gpu, Node};
use crate::demand::{Constraint, MemoryAsk, Request, Rule};
use crate::fragmentation::Judge;
use crate::placement::PlacedShare;
use crate::policy::{Fullness, Policy, Rank};
use crate::taken::{NodeTaken, Taken};
use crate::topology::{Site, Topology, are_joined, closest};
use crate::vacancy::{Vacancy, memory_of};

/// GPUs of a node that are judged for one share, besides the emptiest.
const JUDGED: usize = 3;
/// Steps after which a node is given up: small pods never get near it, and a pod of dozens of requests must not stop
/// the others.
const STEPS: u32 = 20_000;

/// One unit of one request.
struct Unit<'a> {
    request: &'a Request,
    index: usize,
}

/// A node while a pod is tried on it.
pub(crate) struct Fill<'a> {
    gpus: &'a [Gpu],
    taken: Vec<Taken>,
    units: Vec<Unit<'a>>,
    constraints: &'a [Constraint],
    /// GPU of each unit placed so far.
    chosen: Vec<usize>,
    /// Requests and GPUs that led nowhere for an earlier unit of the request. Its units are alike: what would come of the GPU
    /// for a later one has been tried.
    failed: Vec<(usize, usize)>,
    steps: u32,
    /// For LeastFragmentation.
    judge: Option<&'a Judge<'a>>,
}

impl<'a> Fill<'a> {
    pub(crate) fn new(
        node: &'a Node,
        taken: Option<&NodeTaken>,
        (requests, constraints): (&'a [Request], &'a [Constraint]),
        judge: Option<&'a Judge<'a>>,
    ) -> Self {
        let gpus = &node.gpus;
        let taken_of = |gpu: &Gpu| taken.and_then(|t| t.gpu(&gpu.name)).unwrap_or_default();
        let units = requests.iter().enumerate().flat_map(|(index, request)| {
            let matching = || gpus.iter().filter(|g| request.shapes.contains(g.shape)).count();
            let least = request.count as usize;
            let count = if request.all { matching().max(least) } else { least };
            std::iter::repeat_with(move || Unit { request, index }).take(count)
        });
        Self {
            gpus,
            taken: gpus.iter().map(taken_of).collect(),
            units: units.collect(),
            constraints,
            chosen: Vec::new(),
            failed: Vec::new(),
            steps: 0,
            judge,
        }
    }

    fn solve(&mut self) -> bool {
        if !self.has_values() {
            return false;
        }
        let apart = self.requests_meet();
        (apart && self.place(true)) || {
            self.steps = 0;
            self.failed.clear();
            self.place(false)
        }
    }

    /// Steps until it is known whether the pod fits.
    #[cfg(test)]
    pub(crate) fn steps_to_end(mut self) -> u32 {
        self.solve();
        self.steps
    }

    /// What is taken of each GPU with the pod on the node; `None` if it does not fit.
    pub(crate) fn put(mut self) -> Option<Vec<Taken>> {
        self.solve().then_some(self.taken)
    }

    /// Shares in the order of the requests, and how full the node is with them; `None` if they do not fit.
    pub(crate) fn run(mut self) -> Option<(Vec<PlacedShare>, Fullness)> {
        if !self.solve() {
            return None;
        }
        let share = |(unit, gpu): (&Unit<'_>, &usize)| {
            let gpu = &self.gpus[*gpu];
            PlacedShare {
                claim: unit.request.claim.clone(),
                request: unit.request.name.clone(),
                gpu: gpu.name.clone(),
                memory: memory_of(unit.request.memory, gpu.memory),
                cores: unit.request.cores,
                oversubscribed: unit.request.oversubscribed,
            }
        };
        let shares = self.units.iter().zip(&self.chosen).map(share).collect();
        Some((shares, self.fullness()))
    }

    /// Whether some container uses two requests.
    fn requests_meet(&self) -> bool {
        let mut seen: Vec<(usize, &BTreeSet<u32>)> = Vec::new();
        for unit in &self.units {
            let containers = &unit.request.containers;
            if seen.iter().any(|(index, other)| *index != unit.index && !other.is_disjoint(containers)) {
                return true;
            }
            seen.push((unit.index, containers));
        }
        false
    }

    /// Whether the node's GPUs have as many values as must differ, whatever is free: to find that out by trying takes long.
    fn has_values(&self) -> bool {
        let is_distinct = |c: &&Constraint| c.rule == Rule::Distinct;
        self.constraints.iter().filter(is_distinct).all(|constraint| {
            let units = self.units.iter().filter(|u| constraint.requests.contains(&u.index)).count();
            let values = self.gpus.iter().filter_map(|g| constraint.values.get(&g.name));
            values.collect::<BTreeSet<_>>().len() >= units
        })
    }

    fn place(&mut self, apart: bool) -> bool {
        let next = self.chosen.len();
        let Some(unit) = self.units.get(next) else { return true };
        let (request, of_request) = (unit.request, unit.index);
        let mut candidates: Vec<(Rank, usize)> = Vec::new();
        for (index, gpu) in self.gpus.iter().enumerate() {
            if Vacancy::of(gpu, &self.taken[index]).takes(request).is_ok()
                && !self.is_barred(next, index, apart)
            {
                candidates.push((self.rank(request, index), index));
            }
        }
        // Units of a request follow each other, and each takes a GPU of its own that this one could take too.
        let rest = self.units[next..].iter().take_while(|u| u.index == of_request).count();
        if candidates.len() < rest {
            return false;
        }
        // GPUs are in the order of their names, so a stable sort leaves equal ones in it.
        candidates.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        if let Some(judge) = self.judge
            && request.gpu_policy == Policy::LeastFragmentation
            && (request.count, request.all) == (1, false)
            && request.memory != MemoryAsk::Nothing
        {
            // Of several GPUs each goes to the fullest: their order among themselves says nothing yet.
            self.judged(judge, request, &mut candidates);
        }
        if request.count > 1 && !request.all && request.topology != Topology::Ignore {
            self.bring_close(&mut candidates, of_request, rest);
        }
        let failed = self.failed.len();
        for (_, index) in candidates {
            self.steps += 1;
            if self.steps > STEPS {
                break;
            }
            let amounts = (memory_of(request.memory, self.gpus[index].memory), request.cores);
            let takes = request.memory != MemoryAsk::Nothing;
            if takes {
                self.taken[index].add(amounts, request.oversubscribed);
            }
            self.chosen.push(index);
            if self.place(apart) {
                return true;
            }
            self.chosen.pop();
            if takes {
                self.taken[index].sub(amounts, request.oversubscribed);
            }
            self.failed.push((of_request, index));
        }
        self.failed.truncate(failed);
        false
    }

    /// GPUs of a request that are chosen already.
    fn chosen_of(&self, request: usize) -> impl Iterator<Item = &'a Gpu> + '_ {
        let chosen = self.units.iter().zip(&self.chosen).filter(move |(unit, _)| unit.index == request);
        chosen.map(|(_, gpu)| &self.gpus[*gpu])
    }

    /// Of GPUs that the policy holds for equally good, puts those first that make the closest set of so many with what it
    /// prefers and with what is chosen already.
    fn bring_close(&self, candidates: &mut [(Rank, usize)], request: usize, count: usize) {
        let Some((last, _)) = candidates.get(count - 1).copied() else { return };
        let better = candidates.partition_point(|(rank, _)| *rank > last);
        let equal = candidates.partition_point(|(rank, _)| *rank >= last) - better;
        if equal == count - better {
            return;
        }
        let site = |(_, gpu): &(Rank, usize)| self.gpus[*gpu].site;
        let (before, open) = candidates.split_at_mut(better);
        let fixed: Vec<Site> =
            self.chosen_of(request).map(|gpu| gpu.site).chain(before.iter().map(site)).collect();
        let open = &mut open[..equal];
        let sites: Vec<Site> = open.iter().map(site).collect();
        let close = closest(&fixed, &sites, count - better);
        let mut order: Vec<(bool, (Rank, usize))> =
            open.iter().enumerate().map(|(at, gpu)| (!close.contains(&at), *gpu)).collect();
        order.sort_by_key(|(is_far, _)| *is_far);
        open.iter_mut().zip(order).for_each(|(at, (_, gpu))| *at = gpu);
    }

    fn are_alike(&self, a: usize, b: usize) -> bool {
        let (x, y) = (&self.gpus[a], &self.gpus[b]);
        self.taken[a] == self.taken[b]
            && (x.shape, x.memory, x.cores, x.overcommit) == (y.shape, y.memory, y.cores, y.overcommit)
    }

    /// Puts those first that leave the node worth most; of equally good ones the fullest, since the emptier are good for more
    /// than the mix knows. Judging is dear: GPUs that are alike are judged once, and of many the [`JUDGED`] fullest and the
    /// emptiest.
    fn judged(&mut self, judge: &Judge<'_>, request: &Request, candidates: &mut [(Rank, usize)]) {
        let mut worths: Vec<i64> = Vec::with_capacity(candidates.len());
        let last = candidates.last().map_or(0, |c| c.1);
        let mut different = 0;
        for (at, (_, index)) in candidates.iter().enumerate() {
            if at > 0 && self.are_alike(candidates[at - 1].1, *index) {
                worths.push(worths[at - 1]);
                continue;
            }
            different += 1;
            if different > JUDGED && !self.are_alike(*index, last) {
                worths.push(i64::MIN);
                continue;
            }
            let before = self.taken[*index];
            let amounts = (memory_of(request.memory, self.gpus[*index].memory), request.cores);
            self.taken[*index].add(amounts, request.oversubscribed);
            worths.push(judge.worth(self.gpus, &self.taken));
            self.taken[*index] = before;
        }
        for ((rank, _), worth) in candidates.iter_mut().zip(worths) {
            *rank = (worth, rank.0);
        }
        candidates.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    }

    /// Rank of a GPU that fits by how full it is with the request on it.
    fn rank(&self, request: &Request, index: usize) -> Rank {
        let (gpu, before) = (&self.gpus[index], self.taken[index]);
        let mut after = before;
        after.add((memory_of(request.memory, gpu.memory), request.cores), request.oversubscribed);
        request.gpu_policy.rank(Fullness::new(
            (after.memory(gpu), gpu.memory),
            (after.cores(gpu).into(), gpu.cores.into()),
            before.shares,
        ))
    }

    /// Units of one request never share a GPU; units of one container do not while they are to be kept apart.
    fn is_barred(&self, next: usize, gpu: usize, apart: bool) -> bool {
        let unit = &self.units[next];
        let meets = |(other, chosen): (&Unit<'_>, &usize)| {
            let same_request = other.index == unit.index;
            *chosen == gpu
                && (same_request
                    || (apart && !other.request.containers.is_disjoint(&unit.request.containers)))
        };
        self.failed.contains(&(unit.index, gpu))
            || self.units.iter().zip(&self.chosen).any(meets)
            || !self.is_allowed(unit, gpu)
    }

    /// Whether the constraints, and the topology its request requires, let a unit have a GPU beside those chosen so far.
    fn is_allowed(&self, unit: &Unit<'_>, gpu: usize) -> bool {
        let site = &self.gpus[gpu].site;
        let is_joined = unit.request.topology != Topology::Require
            || self.chosen_of(unit.index).all(|other| are_joined(site, &other.site));
        is_joined
            && self.constraints.iter().filter(|c| c.requests.contains(&unit.index)).all(|constraint| {
                let value = |gpu: usize| constraint.values.get(&self.gpus[gpu].name);
                let Some(own) = value(gpu) else { return false };
                let chosen = self.units.iter().zip(&self.chosen);
                let mut others = chosen.filter(|(u, _)| constraint.requests.contains(&u.index));
                others.all(|(_, other)| match constraint.rule {
                    Rule::Match => value(*other) == Some(own),
                    Rule::Distinct => value(*other) != Some(own),
                })
            })
    }

    fn fullness(&self) -> Fullness {
        let sum = |part: fn(&Taken, &Gpu) -> u64| {
            self.taken.iter().zip(self.gpus).map(|(taken, gpu)| part(taken, gpu)).sum::<u64>()
        };
        let total = |part: fn(&Gpu) -> u64| self.gpus.iter().map(part).sum::<u64>();
        Fullness::new(
            (sum(Taken::memory), total(|g| g.memory)),
            (sum(|t, g| t.cores(g).into()), total(|g| g.cores.into())),
            self.taken.iter().map(|t| t.shares).sum(),
        )
    }
}
