//! The mix of demands seen so far, and sequences of pods drawn from it.
//!
//! Bounded: at most [`SPECS`] kinds of pods, older ones fade, and amounts of cores are rounded up to [`CORES_STEP`].
//! Drawing is deterministic: stratified over the sorted pods at every position, with a fixed order of strata.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::Room;
use crate::demand::{Demand, MemoryAsk, Request, Shapes};
use crate::fragmentation::value::Memo;

/// Most kinds of pods that are remembered.
const SPECS: usize = 512;
/// Cores are remembered in steps of so many percent.
const CORES_STEP: u32 = 5;
/// Weights halve after so many arrivals.
const HALF_LIFE: f64 = 20_000.0;
/// Sequences that are drawn.
pub(crate) const SEQUENCES: usize = 16;
/// Pods of a sequence.
pub(crate) const LENGTH: usize = 128;
/// Arrivals before anything is drawn.
const FIRST: u64 = 16;
/// Most arrivals between two draws; before, a draw follows growth by half.
const LATER: u64 = 2_000;

/// Pods that come until a cluster had better learn a mix again ([`crate::Cluster::learn`]), although nothing new was drawn: what
/// is free has changed, and is priced by then. Placements of pods were measured with lessons this far apart.
pub const LESSON: u64 = 300;

/// A pod as it is remembered: its requests as one, by the largest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spec {
    pub(crate) count: u32,
    pub(crate) memory: MemoryAsk,
    pub(crate) cores: u32,
    pub(crate) cpu_milli: u64,
    pub(crate) host_memory: u64,
    pub(crate) shapes: Shapes,
}

/// What was drawn.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    /// Pods with GPUs, sorted, with their weights.
    pub(crate) specs: Vec<(Spec, f64)>,
    /// Index of the pod at each position of each sequence.
    pub(crate) sequences: Vec<Vec<u16>>,
    /// Whether cores are asked at all.
    pub(crate) has_cores: bool,
    /// Departures per arrival, lately.
    pub(crate) churn: f64,
    /// Values of nodes to these sequences: they depend on nothing else, so every cluster that learns them shares them.
    pub(crate) memo: Memo,
}

/// The mix of demands seen so far.
#[derive(Debug, Clone, Default)]
pub struct Mix {
    weights: BTreeMap<Spec, f64>,
    /// Weight of one arrival now: it grows instead of all others shrinking.
    unit: f64,
    arrivals: u64,
    drawn_at: u64,
    recent: (f64, f64),
    drawn: Arc<Drawn>,
}

impl Spec {
    /// `None` for a pod without GPUs.
    pub(crate) fn of(room: &Room, requests: &[Request]) -> Option<Self> {
        let Room { cpu_milli, memory: host_memory, .. } = *room;
        let takes = || requests.iter().filter(|r| r.memory != MemoryAsk::Nothing);
        let largest = takes().max_by_key(|r| (r.memory, r.cores))?;
        Some(Self {
            count: takes().map(|r| r.count).sum(),
            memory: largest.memory,
            cores: largest.cores.next_multiple_of(CORES_STEP),
            cpu_milli,
            host_memory,
            shapes: largest.shapes.clone(),
        })
    }
}

impl Mix {
    /// A pod arrived. Once per pod, placed or not.
    pub fn arrived(&mut self, demand: &Demand) {
        self.recent = (self.recent.0 * 0.999 + 1.0, self.recent.1 * 0.999);
        let Some(spec) = Spec::of(&demand.room, &demand.requests) else { return };
        self.arrivals += 1;
        self.unit =
            if self.unit == 0.0 { 1.0 } else { self.unit * (1.0 + std::f64::consts::LN_2 / HALF_LIFE) };
        *self.weights.entry(spec).or_default() += self.unit;
        if self.weights.len() > SPECS {
            let least = self.weights.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(s, _)| s.clone());
            least.map(|spec| self.weights.remove(&spec));
        }
        if self.unit > 1e100 {
            self.weights.values_mut().for_each(|w| *w /= self.unit);
            self.unit = 1.0;
        }
    }

    /// A pod that had arrived is gone.
    pub fn departed(&mut self) {
        self.recent.1 += 1.0;
    }

    /// Draws anew if enough has arrived since, and says whether it did. Costs under a millisecond;
    /// [`crate::Cluster::learn`] takes it over.
    pub fn draw(&mut self) -> bool {
        let since = self.arrivals - self.drawn_at;
        if self.arrivals < FIRST || (self.drawn_at > 0 && since < (self.drawn_at / 2).min(LATER)) {
            return false;
        }
        self.drawn_at = self.arrivals;
        let specs: Vec<(Spec, f64)> = self.weights.iter().map(|(s, w)| (s.clone(), *w / self.unit)).collect();
        let mut ends = Vec::with_capacity(specs.len());
        let mut total = 0.0;
        for (_, weight) in &specs {
            total += weight;
            ends.push(total);
        }
        let mut sequences = vec![Vec::new(); SEQUENCES];
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for _ in 0..LENGTH {
            let mut strata: [usize; SEQUENCES] = std::array::from_fn(|i| i);
            for i in (1..SEQUENCES).rev() {
                strata.swap(i, random.below(i + 1));
            }
            for (sequence, stratum) in sequences.iter_mut().zip(strata) {
                let at = (stratum as f64 + random.unit()) / SEQUENCES as f64 * total;
                sequence.push(ends.partition_point(|end| *end < at).min(specs.len() - 1) as u16);
            }
        }
        let has_cores = specs.iter().any(|(s, _)| s.cores > 0);
        let churn = if self.recent.0 > 0.0 { (self.recent.1 / self.recent.0).min(1.0) } else { 0.0 };
        self.drawn = Arc::new(Drawn { specs, sequences, has_cores, churn, memo: Memo::default() });
        true
    }

    pub(crate) fn drawn(&self) -> &Arc<Drawn> {
        &self.drawn
    }
}

/// Fixed numbers (splitmix64): the same at every draw.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
