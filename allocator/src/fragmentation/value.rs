//! What a node is still worth to the mix: how much of it pods that come next could fill.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fragmentation::CHURN;
use crate::mix::{Drawn, Spec};
use crate::vacancy::memory_of;

/// One GPU, as amounts.
pub(crate) const WHOLE: u32 = 100_000;
/// Values remembered of late; as many older ones are kept beside them.
const MEMO: usize = 1 << 17;
const MIB: u64 = 1 << 20;
/// GPUs of a node that are looked at for one pod.
const MOST: usize = 64;

/// GPUs of a node. Nodes of one make differ in nothing but what is taken of them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Make {
    /// Shape, memory and cores of each GPU, in the order of names.
    pub(crate) gpus: Vec<(u32, u64, u32)>,
    /// All GPUs are alike: which of them is how full makes no difference.
    is_even: bool,
}

/// What is free on a node. Memory in MiB.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) make: Arc<Make>,
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    /// Memory and cores by GPU, or from the emptiest on where GPUs are alike; nothing of a GPU that takes no new share.
    free: Vec<(u32, u32)>,
}

/// What a pod of the mix takes of a GPU: memory in MiB, cores, amount. `None` where it cannot go.
type Need = Option<(u32, u32, u32)>;

/// A pod of the mix on one make of node.
#[derive(Debug)]
struct Offer {
    count: u32,
    cpu_milli: i64,
    memory: i64,
    /// Offered amount, whether it fits or not.
    amount: u64,
    /// By GPU.
    needs: Vec<Need>,
}

/// The pods of the mix on one make of node.
#[derive(Debug)]
struct Offers {
    pods: Vec<Offer>,
    /// Least amount that any of them takes of a GPU.
    least: u64,
}

/// What was computed before. Never changes an answer.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    offers: HashMap<Arc<Make>, Arc<Offers>>,
    recent: HashMap<u128, i64, BuildHasherDefault<Ready>>,
    older: HashMap<u128, i64, BuildHasherDefault<Ready>>,
}

/// Keys that are hashes already.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = (key >> 64) as u64;
    }
}

impl Make {
    pub(crate) fn new(gpus: Vec<(u32, u64, u32)>) -> Self {
        let is_even = gpus.windows(2).all(|pair| pair[0] == pair[1]);
        Self { gpus, is_even }
    }
}

impl State {
    /// `free` by GPU, in the order of names.
    pub(crate) fn new(make: Arc<Make>, cpu_milli: i64, memory: i64, mut free: Vec<(u32, u32)>) -> Self {
        if make.is_even {
            free.sort_unstable_by(|a, b| b.cmp(a));
        }
        Self { make, cpu_milli, memory, free }
    }

    /// Amount of a GPU that is free.
    fn amount(&self, gpu: usize, has_cores: bool) -> u32 {
        let ((_, memory, cores), free) = (self.make.gpus[gpu], self.free[gpu]);
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

    /// GPUs by shape, with what is free of each.
    pub(crate) fn gpus(&self) -> impl Iterator<Item = (u32, (u32, u32))> {
        self.make.gpus.iter().map(|g| g.0).zip(self.free.iter().copied())
    }

    fn key(&self) -> u128 {
        let mut key = (0xCBF2_9CE4_8422_2325u64, 0x9E37_79B9_7F4A_7C15u64);
        let mut add = |word: u64| {
            key.0 = (key.0 ^ word).wrapping_mul(0x100_0000_01B3_u64 | 1 << 40).rotate_left(23);
            key.1 = (key.1.rotate_left(17) ^ word).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        };
        for gpu in &self.make.gpus[..if self.make.is_even { 1.min(self.free.len()) } else { self.free.len() }]
        {
            add(u64::from(gpu.0) << 32 | u64::from(gpu.2));
            add(gpu.1);
        }
        add(self.cpu_milli as u64);
        add(self.memory as u64);
        self.free.iter().for_each(|f| add(u64::from(f.0) << 32 | u64::from(f.1)));
        add(self.free.len() as u64);
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

impl Offers {
    fn new(make: &Make, drawn: &Drawn) -> Self {
        let has_cores = drawn.has_cores;
        let offer = |(spec, _): &(Spec, f64)| {
            let need = |&(shape, memory, cores): &(u32, u64, u32)| {
                let part = part_of(spec, memory);
                let fits =
                    spec.shapes.contains(shape) && u64::from(part.0) <= memory / MIB && part.1 <= cores;
                fits.then(|| (part.0, part.1, amount(part, (memory, cores), has_cores)))
            };
            let of_one = make.gpus.first().map_or(0, |g| amount_of(spec, (g.1, g.2), has_cores));
            Offer {
                count: spec.count,
                cpu_milli: spec.cpu_milli as i64,
                memory: spec.host_memory.div_ceil(MIB) as i64,
                amount: u64::from(of_one) * u64::from(spec.count),
                needs: make.gpus.iter().map(need).collect(),
            }
        };
        // What a pod needs that wants the whole node: every GPU, all of it.
        let all = |g: &(u32, u64, u32)| Some(((g.1 / MIB).min(u32::MAX.into()) as u32, g.2, WHOLE));
        let whole = Offer {
            count: make.gpus.len() as u32,
            cpu_milli: 0,
            memory: 0,
            amount: u64::from(WHOLE) * make.gpus.len() as u64,
            needs: make.gpus.iter().map(all).collect(),
        };
        let pods: Vec<Offer> = drawn.specs.iter().map(offer).chain([whole]).collect();
        let least = pods.iter().flat_map(|p| p.needs.iter().flatten()).map(|n| u64::from(n.2)).min();
        Self { pods, least: least.unwrap_or(0) }
    }
}

impl Memo {
    /// Mean amount that the drawn sequences place on the node. Amounts, [`WHOLE`] a GPU.
    pub(crate) fn value(&self, drawn: &Drawn, state: &State) -> i64 {
        let key = state.key();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.recent.get(&key) {
            return *value;
        }
        let known = &mut *known;
        let value = known.older.get(&key).copied().unwrap_or_else(|| {
            let offers = known.offers.get(&state.make).cloned().unwrap_or_else(|| {
                let offers = Arc::new(Offers::new(&state.make, drawn));
                known.offers.insert(state.make.clone(), offers.clone());
                offers
            });
            compute(drawn, state, &offers)
        });
        if known.recent.len() >= MEMO {
            known.older = std::mem::take(&mut known.recent);
        }
        known.recent.insert(key, value);
        value
    }
}

fn compute(drawn: &Drawn, state: &State, offers: &Offers) -> i64 {
    let (free, _) = state.room(drawn.has_cores);
    if free == 0 {
        return 0;
    }
    // With departures holes close by themselves: only what comes until the node is full counts.
    let whole = u64::from(WHOLE) * state.make.gpus.len() as u64;
    let (once, thrice) = ([free], [whole, 2 * whole, 4 * whole]);
    let horizons: &[u64] = if drawn.churn > CHURN { &once } else { &thrice };
    let amounts = (0..state.free.len()).map(|i| state.amount(i, drawn.has_cores));
    let start: Vec<_> = state.free.iter().zip(amounts).map(|(f, amount)| (f.0, f.1, amount)).collect();
    let mut left = start.clone();
    let mut sum = 0;
    for sequence in &drawn.sequences {
        left.copy_from_slice(&start);
        sum += play((&mut left, free), (state.cpu_milli, state.memory), offers, sequence, horizons);
    }
    (sum / (drawn.sequences.len() * horizons.len()) as u64) as i64
}

/// Offers one sequence; the sum over horizons of what was placed by then.
fn play(
    (free, mut left): (&mut [(u32, u32, u32)], u64),
    (mut cpu, mut memory): (i64, i64),
    offers: &Offers,
    sequence: &[u16],
    horizons: &[u64],
) -> u64 {
    let (mut offered, mut placed, mut sum, mut passed) = (0, 0, 0, 0);
    for pod in sequence {
        let pod = &offers.pods[usize::from(*pod)];
        offered += pod.amount;
        if pod.cpu_milli <= cpu && pod.memory <= memory {
            let put = put(free, pod);
            if put > 0 {
                cpu -= pod.cpu_milli;
                memory -= pod.memory;
                placed += put;
                left = left.saturating_sub(put);
            }
        }
        while passed < horizons.len() && offered >= horizons[passed] {
            sum += placed;
            passed += 1;
        }
        if passed == horizons.len() || left < offers.least {
            break;
        }
    }
    sum + placed * (horizons.len() - passed) as u64
}

/// Puts one pod on its best-fit GPUs; the amount, or 0 if it does not fit.
fn put(free: &mut [(u32, u32, u32)], pod: &Offer) -> u64 {
    let best = |free: &[(u32, u32, u32)], barred: u64| {
        let mut best: Option<(u32, usize)> = None;
        for (i, (f, need)) in free.iter().zip(&pod.needs).enumerate().take(MOST) {
            if let Some(need) = need
                && f.0 >= need.0
                && f.1 >= need.1
                && barred & (1 << i) == 0
                && best.is_none_or(|(left, _)| f.2 < left)
            {
                best = Some((f.2, i));
            }
        }
        best.map(|(_, i)| i)
    };
    let (mut barred, mut amount) = (0u64, 0u64);
    for _ in 0..pod.count {
        let Some(i) = best(free, barred) else { return 0 };
        barred |= 1 << i;
        if pod.count == 1 {
            let need = pod.needs[i].unwrap_or_default();
            free[i] = (free[i].0 - need.0, free[i].1 - need.1, free[i].2.saturating_sub(need.2));
            return need.2.max(1).into();
        }
    }
    for (i, f) in free.iter_mut().enumerate().take(MOST).filter(|(i, _)| barred & (1 << i) != 0) {
        let need = pod.needs[i].unwrap_or_default();
        *f = (f.0 - need.0, f.1 - need.1, f.2.saturating_sub(need.2));
        amount += u64::from(need.2);
    }
    amount
}
