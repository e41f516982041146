//! The memory ledger of a share: never over the limit, nothing lost when a process is killed between two instructions.
//!
//! Three words take part in every change. `ledger` holds the sum in units, and *who* changed it last (slot and sequence
//! number). A slot's `intent` holds the change it is about to make and its sequence number, its `charge` what is charged
//! to it and the sequence number of the change that made it so. A change by slot *w* with number *s* is:
//!
//! 1. `intent[w] = (s, delta)`
//! 2. if the last change of the ledger, say by slot *v*, is not in `charge[v]` yet: bring it there (*help*)
//! 3. compare-and-swap the ledger from (sum, v, ...) to (sum + delta, w, s), if sum + delta is within the limit
//! 4. `charge[w] = (charge + delta, s)`, which anybody may do instead (step 2)
//!
//! Killed before 3, nothing has happened; killed after 3, the next one to change the ledger does 4 from the intent. So
//! the sum is always the sum of all charges but for one change, which is known. A dead process's slot is emptied by
//! whoever takes over its lock: a change of minus its charge, made in the dead slot's name by the same four steps, and
//! therefore just as safe to be killed in.
//!
//! Steps 1 to 4 of one slot are one thread's at a time: threads of a process take turns by a lock of the process, which
//! ends with it. Processes never wait for each other. The owner of a slot may do step 4 by a plain store, because a
//! helper can only ever write the same word.
//!
//! What lies in the host's memory has a ledger of its own, of the same slots and by the same steps: a share that may have
//! memory there has two limits, and an allocation may lie in both.
//!
//! Sequence numbers have 22 bits: a helper that sleeps in step 2 while its victim makes exactly 4,194,304 changes and
//! ends with the same charge would do it twice.

use std::time::Duration;

use crate::sync::{self, AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use crate::usage::{Region, Slot, UNIT};

/// Bits of a sequence number.
const SEQUENCE_BITS: u32 = 22;
const SEQUENCE: u32 = (1 << SEQUENCE_BITS) - 1;
/// Bits of a slot's number in the ledger's word.
const SLOT: u32 = (1 << 10) - 1;

/// Kernel locks on slots. A lock is held by an open file description and dies with it.
pub trait SlotLocks {
    /// Takes a slot's lock if nobody else has it.
    fn try_hold(&self, slot: u32) -> bool;
    /// Gives it back.
    fn release(&self, slot: u32);
}

/// The ledger's word: sum in units (32 bits), slot that changed it last (10), its sequence number (22).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word {
    units: u32,
    slot: u32,
    sequence: u32,
}

impl Word {
    #[inline]
    fn of(raw: u64) -> Self {
        let low = raw as u32;
        Self { units: (raw >> 32) as u32, slot: low >> SEQUENCE_BITS & SLOT, sequence: low & SEQUENCE }
    }

    #[inline]
    fn raw(self) -> u64 {
        u64::from(self.units) << 32 | u64::from(self.slot << SEQUENCE_BITS | self.sequence)
    }
}

/// Charge of a slot (units, sequence) or intent (change in units, sequence): the value in the upper 42 bits.
#[inline]
fn pack(value: i64, sequence: u32) -> u64 {
    (value << SEQUENCE_BITS) as u64 | u64::from(sequence)
}

#[inline]
fn unpack(raw: u64) -> (i64, u32) {
    (raw as i64 >> SEQUENCE_BITS, raw as u32 & SEQUENCE)
}

#[inline]
fn following(sequence: u32) -> u32 {
    sequence.wrapping_add(1) & SEQUENCE
}

/// Bytes in a charge word as it stands in the file.
pub(crate) fn charge_bytes(raw: u64) -> u64 {
    u64::try_from(unpack(raw).0).unwrap_or(0).saturating_mul(UNIT)
}

#[inline]
fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT)
}

/// The ledger of one share, as one of its processes uses it: of what is on the GPU, or of what lies in the host's memory.
#[derive(Debug)]
pub struct Ledger<'a, const HOST: bool = false> {
    region: &'a Region,
    slot: u32,
    own: Own,
}

/// What the slot's charge says, known without reading it. It is on a cache line of its own.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Own {
    /// A change is under way.
    taken: AtomicBool,
    units: AtomicI64,
    sequence: AtomicU32,
}

/// Looks at a taken lock before the others run, and before sleeping: a change takes some tens of nanoseconds.
const SPINS: u32 = 64;
const YIELDS: u32 = 80;
const SLEEP: Duration = Duration::from_micros(20);

/// The right to change the slot's charge.
struct Changing<'a>(&'a Own);

impl Own {
    #[inline]
    fn units(&self) -> i64 {
        self.units.load(Ordering::Relaxed)
    }

    /// Waits until no other thread changes it. Letting go is a plain store.
    #[inline]
    fn change(&self) -> Changing<'_> {
        if self.taken.swap(true, Ordering::Acquire) {
            self.wait();
        }
        Changing(self)
    }

    #[cold]
    fn wait(&self) {
        let mut turn = 0u32;
        while self.taken.swap(true, Ordering::Acquire) {
            match turn {
                ..SPINS => sync::spin_loop(),
                SPINS..YIELDS => sync::yield_now(),
                _ => sync::sleep(SLEEP),
            }
            turn = turn.saturating_add(1);
        }
    }

    #[inline]
    fn set(&self, units: i64, sequence: u32) {
        self.units.store(units, Ordering::Relaxed);
        self.sequence.store(sequence, Ordering::Relaxed);
    }
}

impl Drop for Changing<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

impl<'a> Ledger<'a> {
    /// Takes a slot for a process; `None` if all are taken by living ones. What a dead owner left is given back.
    pub fn attach(region: &'a Region, locks: &dyn SlotLocks, pid: u32) -> Option<Self> {
        let slots = u32::try_from(region.slots.len()).ok()?;
        // Many that start at once begin at different slots.
        let first = pid.checked_rem(slots)?;
        let slot = (first..slots).chain(0..first).find(|slot| locks.try_hold(*slot))?;
        let ledger = vacate(region, slot);
        region.slots.get(slot as usize)?.pid.store(pid, Ordering::Relaxed);
        Some(ledger)
    }

    /// The same slot's of what lies in the host's memory. A process has it once.
    pub fn on_host(&self) -> Ledger<'a, true> {
        Ledger::of(self.region, self.slot)
    }

    /// Gives back what dead processes left. True if there was something.
    pub fn reap(&self, locks: &dyn SlotLocks) -> bool {
        let mut found = false;
        let last = [&self.region.memory.0.ledger, &self.region.memory.0.host].map(|at| word(at).slot);
        for (index, slot) in (0u32..).zip(&self.region.slots) {
            let charged = [&slot.charge, &slot.host_charge].iter().any(|at| charge(at).0 != 0)
                || slot.pid.load(Ordering::Relaxed) != 0
                || last.contains(&index);
            if index != self.slot && charged && locks.try_hold(index) {
                vacate(self.region, index);
                locks.release(index);
                found = true;
            }
        }
        found
    }

    /// Says how many of the bytes charged are for what the driver keeps for the process.
    pub fn say_overhead(&self, bytes: u64) {
        if let Some(slot) = self.region.slots.get(self.slot as usize) {
            slot.overhead.store(bytes, Ordering::Relaxed);
        }
    }

    /// Counts an allocation that was refused.
    pub fn refuse(&self) {
        self.region.memory.0.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[inline]
fn word(at: &AtomicU64) -> Word {
    Word::of(at.load(Ordering::Acquire))
}

#[inline]
fn charge(at: &AtomicU64) -> (i64, u32) {
    unpack(at.load(Ordering::Acquire))
}

/// Empties a slot, in both ledgers. The caller holds its lock.
fn vacate(region: &Region, index: u32) -> Ledger<'_> {
    let ledger = Ledger::of(region, index);
    if let Some(slot) = region.slots.get(index as usize) {
        slot.pid.store(0, Ordering::Relaxed);
        region.compute.forget(index);
        slot.overhead.store(0, Ordering::Relaxed);
        ledger.on_host().clear();
        ledger.clear();
    }
    ledger
}

impl<'a, const HOST: bool> Ledger<'a, HOST> {
    /// The caller holds the slot's lock.
    fn of(region: &'a Region, slot: u32) -> Self {
        let ledger = Self { region, slot, own: Own::default() };
        ledger.help();
        if let Some(record) = region.slots.get(slot as usize) {
            let (units, sequence) = charge(Self::charge_of(record));
            ledger.own.set(units, sequence);
        }
        ledger
    }

    #[inline]
    fn at(&self) -> &'a AtomicU64 {
        if HOST { &self.region.memory.0.host } else { &self.region.memory.0.ledger }
    }

    #[inline]
    fn charge_of(slot: &Slot) -> &AtomicU64 {
        if HOST { &slot.host_charge } else { &slot.charge }
    }

    #[inline]
    fn intent_of(slot: &Slot) -> &AtomicU64 {
        if HOST { &slot.host_intent } else { &slot.intent }
    }

    /// Bytes charged to all processes, dead ones that were not found yet included.
    #[inline]
    pub fn used(&self) -> u64 {
        u64::from(self.word().units).saturating_mul(UNIT)
    }

    /// Charges so many bytes, rounded up to [`UNIT`], or nothing if that would pass the limit.
    #[inline]
    pub fn reserve(&self, bytes: u64, limit: u64) -> bool {
        self.change(i64::try_from(units(bytes)).unwrap_or(i64::MAX), limit)
    }

    /// Charges as much of it as the limit lets; gives the bytes charged.
    pub fn reserve_up_to(&self, bytes: u64, limit: u64) -> u64 {
        loop {
            let room = limit.saturating_sub(self.used()) / UNIT * UNIT;
            let part = units(bytes).saturating_mul(UNIT).min(room);
            if part == 0 || self.reserve(part, limit) {
                return part;
            }
        }
    }

    /// Charges so many bytes whatever the limit: memory that is in use already, which nobody asked for here.
    pub fn charge(&self, bytes: u64) {
        self.change(i64::try_from(units(bytes)).unwrap_or(i64::MAX), u64::MAX);
    }

    /// Gives back what was charged.
    #[inline]
    pub fn release(&self, bytes: u64) {
        self.change(i64::try_from(units(bytes)).unwrap_or(i64::MAX).saturating_neg(), u64::MAX);
    }

    /// Whether anything is charged to others: only then can there be something to give back.
    #[inline]
    pub fn others_hold(&self) -> bool {
        i64::from(self.word().units) != self.own.units()
    }

    /// This process's slot.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Gives back all the slot is charged. The caller holds its lock.
    fn clear(&self) {
        let charged = self.own.units();
        if charged != 0 {
            self.change(charged.saturating_neg(), u64::MAX);
        }
    }

    /// Bytes charged to this process.
    pub fn own(&self) -> u64 {
        u64::try_from(self.own.units()).unwrap_or(0).saturating_mul(UNIT)
    }

    #[inline]
    fn word(&self) -> Word {
        word(self.at())
    }

    /// Brings the last change of the ledger into the charge of the slot that made it.
    #[inline]
    fn help(&self) -> Word {
        let word = self.word();
        if let Some(slot) = self.region.slots.get(word.slot as usize) {
            let charge = Self::charge_of(slot).load(Ordering::Acquire);
            let (value, done) = unpack(charge);
            if following(done) == word.sequence {
                let (delta, intended) = unpack(Self::intent_of(slot).load(Ordering::Acquire));
                if intended == word.sequence {
                    let next = pack(value.saturating_add(delta), intended);
                    // Failing means somebody else just did it.
                    let _ = Self::charge_of(slot).compare_exchange(
                        charge,
                        next,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                }
            }
        }
        word
    }

    #[inline]
    fn change(&self, delta: i64, limit: u64) -> bool {
        let Some(slot) = self.region.slots.get(self.slot as usize) else { return false };
        let changing = self.own.change();
        let own = changing.0;
        let sequence = following(own.sequence.load(Ordering::Relaxed));
        Self::intent_of(slot).store(pack(delta, sequence), Ordering::Release);
        loop {
            let mut word = self.word();
            // What this slot changed last it has stored itself.
            if word.slot != self.slot || word.sequence != own.sequence.load(Ordering::Relaxed) {
                word = self.help();
            }
            let Some(sum) = i64::from(word.units).checked_add(delta).and_then(|s| u32::try_from(s).ok())
            else {
                return false;
            };
            if delta > 0 && u64::from(sum).saturating_mul(UNIT) > limit {
                return false;
            }
            let next = Word { units: sum, slot: self.slot, sequence };
            let swapped =
                self.at().compare_exchange(word.raw(), next.raw(), Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_ok() {
                let units = own.units().saturating_add(delta);
                own.set(units, sequence);
                Self::charge_of(slot).store(pack(units, sequence), Ordering::Release);
                return true;
            }
        }
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests;
