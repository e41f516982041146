//! What a node is still worth to the mix: how much of it pods that come next could fill.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::fill::memory_of;
use crate::mix::{Drawn, Spec};

/// One GPU, as amounts.
pub(crate) const WHOLE: u32 = 100_000;
/// States remembered before all are forgotten.
const MEMO: usize = 1 << 16;
const MIB: u64 = 1 << 20;

/// Shape, memory and cores of each GPU of a node, in the order of names.
pub(crate) type Gpus = Vec<(u32, u64, u32)>;

/// What is free on a node. Memory in MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) gpus: Arc<Gpus>,
    /// Number of `gpus` among all there are.
    pub(crate) kind: u32,
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    /// Memory and cores; nothing of a GPU that takes no new share.
    pub(crate) free: Vec<(u32, u32)>,
}

/// What a pod of the mix takes of a GPU: memory in MiB, cores, amount. `None` where it cannot go.
type Need = Option<(u32, u32, u32)>;

/// A pod of the mix on one kind of node.
#[derive(Debug)]
struct Resolved {
    count: u32,
    cpu_milli: i64,
    memory: i64,
    /// Offered amount, whether it fits or not.
    amount: u64,
    /// By GPU.
    needs: Vec<Need>,
}

/// Values by what was drawn.
#[derive(Debug, Default)]
pub(crate) struct Values {
    drawn: Arc<Drawn>,
    resolved: RefCell<HashMap<u32, Arc<Vec<Resolved>>>>,
    memo: RefCell<HashMap<u128, i64>>,
}

impl State {
    /// Amount of a GPU that is free.
    fn amount(&self, gpu: usize, has_cores: bool) -> u32 {
        let ((_, memory, cores), free) = (self.gpus[gpu], self.free[gpu]);
        amount(free, (memory, cores), has_cores)
    }

    /// Free amount of the node, and its wholly free GPUs.
    pub(crate) fn room(&self, has_cores: bool) -> (u64, u32) {
        let mut sum = (0, 0);
        for gpu in 0..self.free.len() {
            let amount = self.amount(gpu, has_cores);
            sum.0 += u64::from(amount);
            sum.1 += u32::from(amount == WHOLE);
        }
        sum
    }

    fn key(&self) -> u128 {
        let mut key = (0xCBF2_9CE4_8422_2325u64, 0x9E37_79B9_7F4A_7C15u64);
        let mut add = |word: u64| {
            key.0 = (key.0 ^ word).wrapping_mul(0x100_0000_01B3_u64 | 1 << 40).rotate_left(23);
            key.1 = (key.1.rotate_left(17) ^ word).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        };
        add(self.kind.into());
        add(self.cpu_milli as u64);
        add(self.memory as u64);
        self.free.iter().for_each(|f| add(u64::from(f.0) << 32 | u64::from(f.1)));
        u128::from(key.0) << 64 | u128::from(key.1)
    }
}

/// Mean of memory and cores, or memory alone where nobody asks for cores; rounded down.
fn amount(part: (u32, u32), of: (u64, u32), has_cores: bool) -> u32 {
    let memory = u64::from(part.0) * u64::from(WHOLE) / (of.0 / MIB).max(1);
    let cores = u64::from(part.1) * u64::from(WHOLE) / u64::from(of.1.max(1));
    let mean = if has_cores { (memory + cores) / 2 } else { memory };
    mean.min(WHOLE.into()) as u32
}

/// Bytes a spec takes of a GPU, in MiB rounded up, and its cores.
pub(crate) fn part_of(spec: &Spec, memory: u64) -> (u32, u32) {
    (memory_of(spec.memory, memory).div_ceil(MIB).min(u32::MAX.into()) as u32, spec.cores)
}

/// Amount of a GPU a spec takes.
pub(crate) fn amount_of(spec: &Spec, gpu: (u64, u32), has_cores: bool) -> u32 {
    amount(part_of(spec, gpu.0), gpu, has_cores)
}

impl Values {
    pub(crate) fn new(drawn: Arc<Drawn>) -> Self {
        Self { drawn, ..Self::default() }
    }

    pub(crate) fn drawn(&self) -> &Arc<Drawn> {
        &self.drawn
    }

    pub(crate) fn is_learnt(&self) -> bool {
        !self.drawn.sequences.is_empty()
    }

    fn resolve(&self, state: &State) -> Arc<Vec<Resolved>> {
        let mut known = self.resolved.borrow_mut();
        let resolve = |(spec, _): &(Spec, f64)| {
            let needs = state.gpus.iter().map(|&(shape, memory, cores)| {
                let part = part_of(spec, memory);
                let fits =
                    spec.shapes.contains(shape) && u64::from(part.0) <= memory / MIB && part.1 <= cores;
                fits.then(|| (part.0, part.1, amount(part, (memory, cores), self.drawn.has_cores)))
            });
            let needs: Vec<Need> = needs.collect();
            let of_one = state.gpus.first().map_or(0, |g| amount_of(spec, (g.1, g.2), self.drawn.has_cores));
            Resolved {
                count: spec.count,
                cpu_milli: spec.cpu_milli as i64,
                memory: spec.host_memory.div_ceil(MIB) as i64,
                amount: u64::from(of_one) * u64::from(spec.count),
                needs,
            }
        };
        known
            .entry(state.kind)
            .or_insert_with(|| Arc::new(self.drawn.specs.iter().map(resolve).collect()))
            .clone()
    }

    /// Mean amount that sequences of the mix place on the node. Amounts, [`WHOLE`] a GPU.
    pub(crate) fn of(&self, state: &State) -> i64 {
        let key = state.key();
        if let Some(value) = self.memo.borrow().get(&key) {
            return *value;
        }
        let value = self.compute(state);
        let mut memo = self.memo.borrow_mut();
        if memo.len() >= MEMO {
            memo.clear();
        }
        memo.insert(key, value);
        value
    }

    fn compute(&self, state: &State) -> i64 {
        let (free, _) = state.room(self.drawn.has_cores);
        if free == 0 {
            return 0;
        }
        let resolved = self.resolve(state);
        // With departures holes close by themselves: only what comes until the node is full counts.
        let horizons: &[u64] = if self.drawn.churn > 0.3 {
            &[free]
        } else {
            let whole = u64::from(WHOLE) * state.gpus.len() as u64;
            &[whole, 2 * whole, 4 * whole]
        };
        let mut sum = 0;
        for sequence in &self.drawn.sequences {
            sum += self.play(state, &resolved, sequence, horizons);
        }
        (sum / (self.drawn.sequences.len() * horizons.len()) as u64) as i64
    }

    /// Offers one sequence; the sum over horizons of what was placed by then.
    fn play(&self, state: &State, resolved: &[Resolved], sequence: &[u16], horizons: &[u64]) -> u64 {
        let mut free: Vec<(u32, u32, u32)> = state
            .free
            .iter()
            .enumerate()
            .map(|(i, f)| (f.0, f.1, state.amount(i, self.drawn.has_cores)))
            .collect();
        let (mut cpu, mut memory) = (state.cpu_milli, state.memory);
        let (mut offered, mut placed, mut sum, mut passed) = (0, 0, 0, 0);
        for spec in sequence {
            let spec = &resolved[usize::from(*spec)];
            offered += spec.amount;
            if spec.cpu_milli <= cpu && spec.memory <= memory {
                let put = put(&mut free, spec);
                if put > 0 {
                    cpu -= spec.cpu_milli;
                    memory -= spec.memory;
                    placed += put;
                }
            }
            while passed < horizons.len() && offered >= horizons[passed] {
                sum += placed;
                passed += 1;
            }
            if passed == horizons.len() {
                break;
            }
        }
        sum + placed * (horizons.len() - passed) as u64
    }
}

/// Puts one pod on its best-fit GPUs; the amount, or 0 if it does not fit.
fn put(free: &mut [(u32, u32, u32)], spec: &Resolved) -> u64 {
    let best = |free: &[(u32, u32, u32)], barred: u64| {
        let mut best: Option<(u32, usize)> = None;
        for (i, (f, need)) in free.iter().zip(&spec.needs).enumerate() {
            if let Some(need) = need
                && f.0 >= need.0
                && f.1 >= need.1
                && barred & (1 << (i & 63)) == 0
                && best.is_none_or(|(left, _)| f.2 < left)
            {
                best = Some((f.2, i));
            }
        }
        best.map(|(_, i)| i)
    };
    let (mut barred, mut amount) = (0u64, 0u64);
    for _ in 0..spec.count {
        let Some(i) = best(free, barred) else { return 0 };
        barred |= 1 << (i & 63);
        if spec.count == 1 {
            let need = spec.needs[i].unwrap_or_default();
            free[i] = (free[i].0 - need.0, free[i].1 - need.1, free[i].2.saturating_sub(need.2));
            return need.2.max(1).into();
        }
    }
    for (i, f) in free.iter_mut().enumerate().filter(|(i, _)| barred & (1 << (i & 63)) != 0) {
        let need = spec.needs[i].unwrap_or_default();
        *f = (f.0 - need.0, f.1 - need.1, f.2.saturating_sub(need.2));
        amount += u64::from(need.2);
    }
    amount
}
