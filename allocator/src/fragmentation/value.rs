//! What a node is still worth to the mix: how much of it pods that come next could fill.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fragmentation::CHURN;
use crate::hash::QuickMap;
use crate::mix::{Drawn, Spec};
use crate::vacancy::memory_of;

/// One GPU, as amounts.
pub(crate) const WHOLE: u32 = 100_000;
/// Values remembered of late; as many older ones are kept beside them. So many fill a hash table to the brim.
const MEMO: usize = (1 << 17) / 8 * 7;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) make: Arc<Make>,
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    /// Memory and cores by GPU, or from the emptiest on where GPUs are alike; nothing of a GPU that takes no new share.
    free: Vec<(u32, u32)>,
}

/// What a pod of the mix takes of a GPU: memory in MiB, cores, amount. `None` where it cannot go.
type Need = Option<(u32, u32, u32)>;

/// What is left of a GPU: amount, memory in MiB, cores.
type Left = (u32, u32, u32);

/// A pod of the mix on one make of node.
#[derive(Debug)]
struct Offer {
    count: u32,
    cpu_milli: i64,
    memory: i64,
    /// Offered amount, whether it fits or not.
    amount: u64,
    /// Of the first GPU: where GPUs are alike, of each.
    need: (u32, u32, u32),
    /// Least memory and cores of `needs`; more than there can be if it can go nowhere.
    least: (u32, u32),
    /// By GPU.
    needs: Vec<Need>,
}

/// The pods of the mix on one make of node.
#[derive(Debug)]
struct Offers {
    pods: Vec<Offer>,
    /// Least memory and cores that any of them takes of a GPU.
    fewest: (u32, u32),
    /// Least CPU and memory that any of them takes of the node.
    room: (i64, i64),
    /// Least amount that any of them takes of a GPU.
    least: u32,
}

/// What was computed before. Never changes an answer.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    offers: HashMap<Arc<Make>, Arc<Offers>>,
    recent: QuickMap<u64, u32>,
    older: QuickMap<u64, u32>,
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

    fn key(&self) -> u64 {
        let mut key = 0x9E37_79B9_7F4A_7C15u64;
        let mut add = |word: u64| {
            let product = u128::from(key ^ word) * 0xA076_1D64_78BD_642F_u128;
            key = ((product >> 64) as u64 ^ product as u64).rotate_left(29).wrapping_add(word);
        };
        let told = if self.make.is_even { self.free.len().min(1) } else { self.free.len() };
        for gpu in &self.make.gpus[..told] {
            add(u64::from(gpu.0) << 32 | u64::from(gpu.2));
            add(gpu.1);
        }
        add(self.cpu_milli as u64);
        add(self.memory as u64);
        add(self.free.len() as u64);
        self.free.iter().for_each(|f| add(u64::from(f.0) << 32 | u64::from(f.1)));
        key
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
            let needs: Vec<Need> = make.gpus.iter().map(need).collect();
            let fewest = |part: fn(&(u32, u32, u32)) -> u32| needs.iter().flatten().map(part).min();
            let least = (fewest(|n| n.0).unwrap_or(u32::MAX), fewest(|n| n.1).unwrap_or(u32::MAX));
            let of_one = make.gpus.first().map_or(0, |g| amount_of(spec, (g.1, g.2), has_cores));
            Offer {
                count: spec.count,
                cpu_milli: spec.cpu_milli as i64,
                memory: spec.host_memory.div_ceil(MIB) as i64,
                amount: u64::from(of_one) * u64::from(spec.count),
                need: needs.first().copied().flatten().unwrap_or_default(),
                least,
                needs,
            }
        };
        let pods: Vec<Offer> = drawn.specs.iter().map(offer).collect();
        let least = pods.iter().flat_map(|p| p.needs.iter().flatten()).map(|n| n.2).min();
        let fewest = |part: fn(&Offer) -> u32| pods.iter().map(part).min().unwrap_or(0);
        let fewest = (fewest(|p| p.least.0), fewest(|p| p.least.1));
        let room = (pods.iter().map(|p| p.cpu_milli).min(), pods.iter().map(|p| p.memory).min());
        let room = (room.0.unwrap_or(0), room.1.unwrap_or(0));
        Self { pods, fewest, room, least: least.unwrap_or(0) }
    }
}

impl Memo {
    /// Mean amount that the drawn sequences place on the node. Amounts, [`WHOLE`] a GPU.
    pub(crate) fn value(&self, drawn: &Drawn, state: &State) -> i64 {
        let key = state.key();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.recent.get(&key) {
            return (*value).into();
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
        value.into()
    }
}

fn compute(drawn: &Drawn, state: &State, offers: &Offers) -> u32 {
    let (free, _) = state.room(drawn.has_cores);
    if free == 0 {
        return 0;
    }
    // With departures a hole is closed by itself before all that could fill it has come: only the next pods count.
    let whole = u64::from(WHOLE) * state.make.gpus.len() as u64;
    let horizons =
        if drawn.churn > CHURN { [free / 4, free / 2, free] } else { [whole, 2 * whole, 4 * whole] };
    let amount = |i: usize| state.amount(i, drawn.has_cores);
    let mut start: Vec<Left> =
        (0..state.free.len()).map(|i| (amount(i), state.free[i].0, state.free[i].1)).collect();
    if state.make.is_even {
        start.sort_unstable();
    }
    let mut left = start.clone();
    let mut sum = 0;
    for sequence in &drawn.sequences {
        left.copy_from_slice(&start);
        sum += play(&mut left, state, offers, sequence, &horizons);
    }
    u32::try_from(sum / (drawn.sequences.len() * horizons.len()) as u64).unwrap_or(u32::MAX)
}

/// Offers one sequence; the sum over horizons of what was placed by then.
fn play(left: &mut [Left], state: &State, offers: &Offers, sequence: &[u16], horizons: &[u64]) -> u64 {
    let (mut cpu, mut memory) = (state.cpu_milli, state.memory);
    let (mut offered, mut placed, mut sum, mut passed) = (0, 0, 0, 0);
    // Where GPUs are alike they stay in the order of what is left, and those before this one take nothing any more.
    let mut full = 0;
    let most = |left: &[Left]| left.iter().fold((0, 0), |most, l| (l.1.max(most.0), l.2.max(most.1)));
    let mut largest = most(left);
    for pod in sequence {
        let pod = &offers.pods[usize::from(*pod)];
        offered += pod.amount;
        let may = pod.least.0 <= largest.0 && pod.least.1 <= largest.1;
        if may && pod.cpu_milli <= cpu && pod.memory <= memory {
            let put = if state.make.is_even { put_even(&mut left[full..], pod) } else { put(left, pod) };
            if put > 0 {
                cpu -= pod.cpu_milli;
                memory -= pod.memory;
                placed += put;
                largest = most(left);
                while state.make.is_even && left.get(full).is_some_and(|l| l.0 < offers.least) {
                    full += 1;
                }
            }
        }
        while passed < horizons.len() && offered >= horizons[passed] {
            sum += placed;
            passed += 1;
        }
        let is_full = largest.0 < offers.fewest.0 || largest.1 < offers.fewest.1 || full == left.len();
        if passed == horizons.len() || is_full || cpu < offers.room.0 || memory < offers.room.1 {
            break;
        }
    }
    sum + placed * (horizons.len() - passed) as u64
}

/// Puts one pod on its best-fit GPUs of those that are alike, from the fullest on; the amount, or 0 if it does not fit.
fn put_even(left: &mut [Left], pod: &Offer) -> u64 {
    let (memory, cores, amount) = pod.need;
    let fits = |l: &Left| l.1 >= memory && l.2 >= cores;
    let take = |l: &mut Left| *l = (l.0.saturating_sub(amount), l.1 - memory, l.2 - cores);
    if pod.count == 1 {
        let Some(mut at) = left.iter().position(fits) else { return 0 };
        take(&mut left[at]);
        while at > 0 && left[at - 1] > left[at] {
            left.swap(at - 1, at);
            at -= 1;
        }
    } else {
        let count = pod.count as usize;
        if left.iter().filter(|l| fits(l)).count() < count {
            return 0;
        }
        left.iter_mut().filter(|l| fits(l)).take(count).for_each(take);
        left.sort_unstable();
    }
    (u64::from(amount) * u64::from(pod.count)).max(1)
}

/// Puts one pod on its best-fit GPUs; the amount, or 0 if it does not fit.
fn put(left: &mut [Left], pod: &Offer) -> u64 {
    let best = |left: &[Left], barred: u64| {
        let fits = |(i, (left, need)): &(usize, (&Left, &Need))| {
            let fits = need.is_some_and(|(memory, cores, _)| left.1 >= memory && left.2 >= cores);
            fits && barred & (1 << i) == 0
        };
        let fitting = left.iter().zip(&pod.needs).enumerate().take(MOST).filter(fits);
        fitting.min_by_key(|(_, (left, _))| left.0).map(|(i, _)| i)
    };
    let mut barred = 0u64;
    for _ in 0..pod.count {
        let Some(i) = best(left, barred) else { return 0 };
        barred |= 1 << i;
    }
    let mut sum = 0;
    for (i, left) in left.iter_mut().enumerate().take(MOST).filter(|(i, _)| barred & (1 << i) != 0) {
        let (memory, cores, amount) = pod.needs[i].unwrap_or_default();
        *left = (left.0.saturating_sub(amount), left.1 - memory, left.2 - cores);
        sum += u64::from(amount);
    }
    sum.max(1)
}
