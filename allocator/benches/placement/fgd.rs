//! FGD ("Beware of Fragmentation", USENIX ATC'23) as its paper and simulator define it, to compare with where nothing is
//! published: the steepest descent of the amount of free GPU that pods of the (known) trace cannot use.
//!
//! Scores are whole numbers and ties go to the first node and GPU, as in the published simulator.

use std::collections::{BTreeMap, HashMap};

use vgpu_allocator::trace::Pod;

use crate::engine::Scheduler;
use crate::trace::Traces;

struct Host {
    cpu: i64,
    memory: i64,
    /// Free thousandths and free percent.
    gpus: Vec<(i64, i64)>,
    model: u32,
    /// Grows with every change.
    version: u64,
}

type Found = Option<(i64, Vec<usize>)>;

pub(crate) struct Fgd {
    hosts: Vec<Host>,
    /// Pods that make up 95 % of the trace, with their parts of it.
    types: Vec<(Pod, f64)>,
    placed: HashMap<usize, (usize, Vec<usize>)>,
    known: BTreeMap<Pod, Vec<(u64, Found)>>,
}

impl Fgd {
    pub(crate) fn new(traces: &Traces, pods: &[Pod]) -> Self {
        let host = |h: &vgpu_allocator::trace::Host| Host {
            cpu: h.cpu_milli as i64,
            memory: h.memory_mib as i64,
            gpus: vec![(1000, 100); h.gpus as usize],
            model: h.model,
            version: 1,
        };
        let mut counts: BTreeMap<&Pod, usize> = BTreeMap::new();
        pods.iter().for_each(|p| *counts.entry(p).or_default() += 1);
        let mut types: Vec<(&Pod, usize)> = counts.into_iter().collect();
        types.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let (mut sum, goal) = (0, pods.len() * 95 / 100);
        let mut typical = Vec::new();
        for (pod, count) in types {
            if sum >= goal {
                break;
            }
            sum += count;
            typical.push((pod.clone(), count as f64));
        }
        typical.iter_mut().for_each(|t| t.1 /= sum as f64);
        Self {
            hosts: traces.hosts.iter().map(host).collect(),
            types: typical,
            placed: HashMap::new(),
            known: BTreeMap::new(),
        }
    }

    fn fragment(&self, cpu: i64, memory: i64, gpus: &[(i64, i64)], model: u32) -> f64 {
        let idle: i64 = gpus.iter().map(|g| g.0).sum();
        let mut sum = 0.0;
        for (pod, part) in &self.types {
            let takes = |g: &&(i64, i64)| g.0 >= i64::from(pod.milli) && g.1 >= i64::from(pod.cores);
            let fits = pod.gpus > 0
                && pod.cpu_milli as i64 <= cpu
                && pod.memory_mib as i64 <= memory
                && (pod.models.is_empty() || pod.models.contains(&model))
                && gpus.iter().filter(takes).count() >= pod.gpus as usize;
            let lost = if fits { gpus.iter().filter(|g| !takes(g)).map(|g| g.0).sum() } else { idle };
            sum += part * lost as f64;
        }
        sum
    }

    fn score(&self, host: &Host, pod: &Pod) -> Found {
        let (cpu, memory) = (host.cpu - pod.cpu_milli as i64, host.memory - pod.memory_mib as i64);
        if cpu < 0 || memory < 0 || !(pod.models.is_empty() || pod.models.contains(&host.model)) {
            return None;
        }
        let before = self.fragment(host.cpu, host.memory, &host.gpus, host.model);
        let score_of = |chosen: &[usize]| {
            let mut gpus = host.gpus.clone();
            chosen.iter().for_each(|g| take(&mut gpus[*g], pod, 1));
            let delta = before - self.fragment(cpu, memory, &gpus, host.model);
            (100.0 / (1.0 + (-delta / 1000.0).exp())) as i64
        };
        let (milli, cores) = (i64::from(pod.milli), i64::from(pod.cores));
        let mut fitting: Vec<usize> =
            (0..host.gpus.len()).filter(|g| host.gpus[*g].0 >= milli && host.gpus[*g].1 >= cores).collect();
        if fitting.len() < pod.gpus as usize {
            return None;
        }
        if pod.gpus == 1 {
            let scored = fitting.into_iter().map(|g| (score_of(&[g]), vec![g]));
            return scored.min_by_key(|(score, g)| (std::cmp::Reverse(*score), g[0]));
        }
        fitting.sort_by_key(|g| (host.gpus[*g].0, *g));
        fitting.truncate(pod.gpus as usize);
        Some((score_of(&fitting), fitting))
    }
}

fn take(gpu: &mut (i64, i64), pod: &Pod, sign: i64) {
    gpu.0 -= sign * i64::from(pod.milli);
    gpu.1 -= sign * i64::from(pod.cores);
}

impl Scheduler for Fgd {
    fn place(&mut self, id: usize, pod: &Pod) -> bool {
        let mut known = self.known.remove(pod).unwrap_or_else(|| vec![(0, None); self.hosts.len()]);
        let mut best: Option<(i64, usize)> = None;
        for (n, host) in self.hosts.iter().enumerate() {
            if known[n].0 != host.version {
                known[n] = (host.version, self.score(host, pod));
            }
            if let Some((score, _)) = &known[n].1
                && best.is_none_or(|(b, _)| *score > b)
            {
                best = Some((*score, n));
            }
        }
        let chosen = best.and_then(|(_, n)| Some((n, known[n].1.clone()?.1)));
        self.known.insert(pod.clone(), known);
        let Some((n, gpus)) = chosen else { return false };
        self.change(n, &gpus, pod, 1);
        self.placed.insert(id, (n, gpus));
        true
    }

    fn remove(&mut self, id: usize, pod: &Pod) {
        let (n, gpus) = self.placed.remove(&id).expect("a pod that was placed");
        self.change(n, &gpus, pod, -1);
    }
}

impl Fgd {
    fn change(&mut self, host: usize, gpus: &[usize], pod: &Pod, sign: i64) {
        let host = &mut self.hosts[host];
        host.cpu -= sign * pod.cpu_milli as i64;
        host.memory -= sign * pod.memory_mib as i64;
        gpus.iter().for_each(|g| take(&mut host.gpus[*g], pod, sign));
        host.version += 1;
    }
}
