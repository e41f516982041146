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
//! Sequence numbers have 16 bits: a helper that sleeps in step 2 while its victim makes exactly 65,536 changes and ends
//! with the same charge would do it twice.

use std::sync::atomic::Ordering;

use crate::usage::{Region, UNIT};

/// Kernel locks on slots. A lock is held by an open file description and dies with it.
pub trait SlotLocks {
    /// Takes a slot's lock if nobody else has it.
    fn try_hold(&self, slot: u32) -> bool;
    /// Gives it back.
    fn release(&self, slot: u32);
}

/// Sum, slot and sequence number of the ledger's word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word {
    units: u32,
    slot: u16,
    sequence: u16,
}

impl Word {
    fn of(raw: u64) -> Self {
        Self { units: (raw >> 32) as u32, slot: (raw >> 16) as u16, sequence: raw as u16 }
    }

    fn raw(self) -> u64 {
        u64::from(self.units) << 32 | u64::from(self.slot) << 16 | u64::from(self.sequence)
    }
}

/// Charge of a slot (units, sequence) and intent (change in units, sequence): value in the upper 48 bits.
fn pack(value: i64, sequence: u16) -> u64 {
    (value << 16) as u64 | u64::from(sequence)
}

fn unpack(raw: u64) -> (i64, u16) {
    (raw as i64 >> 16, raw as u16)
}

/// Bytes in a charge word as it stands in the file.
pub(crate) fn charge_bytes(raw: u64) -> u64 {
    u64::try_from(unpack(raw).0).unwrap_or(0).saturating_mul(UNIT)
}

fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT)
}

/// The ledger of one share, as one of its processes uses it.
#[derive(Debug)]
pub struct Ledger<'a> {
    region: &'a Region,
    slot: u32,
}

impl<'a> Ledger<'a> {
    /// Takes a slot for a process; `None` if all are taken by living ones. What a dead owner left is given back.
    pub fn attach(region: &'a Region, locks: &dyn SlotLocks, pid: u32) -> Option<Self> {
        let slots = 0..u32::try_from(region.slots.len()).unwrap_or(0);
        let slot = slots.into_iter().find(|slot| locks.try_hold(*slot))?;
        let ledger = Self { region, slot };
        ledger.clear();
        region.slots.get(slot as usize)?.pid.store(pid, Ordering::Relaxed);
        Some(ledger)
    }

    /// Bytes charged to all processes, dead ones that were not found yet included.
    pub fn used(&self) -> u64 {
        u64::from(Word::of(self.region.ledger.0.load(Ordering::Acquire)).units).saturating_mul(UNIT)
    }

    /// Charges so many bytes, rounded up to [`UNIT`], or nothing if that would pass the limit.
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

    /// Gives back what was charged.
    pub fn release(&self, bytes: u64) {
        self.change(-i64::try_from(units(bytes)).unwrap_or(i64::MAX), u64::MAX);
    }

    /// Gives back what dead processes left. True if there was something.
    pub fn reap(&self, locks: &dyn SlotLocks) -> bool {
        let mut found = false;
        for (index, slot) in (0u32..).zip(&self.region.slots) {
            let charged =
                unpack(slot.charge.load(Ordering::Acquire)).0 != 0 || slot.pid.load(Ordering::Relaxed) != 0;
            if index != self.slot && charged && locks.try_hold(index) {
                Self { region: self.region, slot: index }.clear();
                locks.release(index);
                found = true;
            }
        }
        found
    }

    /// Empties the slot. The caller holds its lock.
    fn clear(&self) {
        let Some(slot) = self.region.slots.get(self.slot as usize) else { return };
        self.help();
        slot.pid.store(0, Ordering::Relaxed);
        let charged = unpack(slot.charge.load(Ordering::Acquire)).0;
        if charged != 0 {
            self.change(-charged, u64::MAX);
        }
    }

    /// Bytes charged to this process.
    pub fn own(&self) -> u64 {
        self.help();
        self.region
            .slots
            .get(self.slot as usize)
            .map_or(0, |s| charge_bytes(s.charge.load(Ordering::Acquire)))
    }

    /// Brings the last change of the ledger into the charge of the slot that made it.
    fn help(&self) -> Word {
        let word = Word::of(self.region.ledger.0.load(Ordering::Acquire));
        if let Some(slot) = self.region.slots.get(usize::from(word.slot)) {
            let charge = slot.charge.load(Ordering::Acquire);
            let (value, done) = unpack(charge);
            let (delta, intended) = unpack(slot.intent.load(Ordering::Acquire));
            if done.wrapping_add(1) == word.sequence && intended == word.sequence {
                let next = pack(value.saturating_add(delta), intended);
                // Failing means somebody else just did it.
                let _ = slot.charge.compare_exchange(charge, next, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        word
    }

    fn change(&self, delta: i64, limit: u64) -> bool {
        let Some(slot) = self.region.slots.get(self.slot as usize) else { return false };
        self.help();
        let sequence = unpack(slot.charge.load(Ordering::Acquire)).1.wrapping_add(1);
        slot.intent.store(pack(delta, sequence), Ordering::Release);
        loop {
            let word = self.help();
            let Some(sum) = i64::from(word.units).checked_add(delta).and_then(|s| u32::try_from(s).ok())
            else {
                return false;
            };
            if delta > 0 && u64::from(sum).saturating_mul(UNIT) > limit {
                return false;
            }
            let next = Word { units: sum, slot: u16::try_from(self.slot).unwrap_or(u16::MAX), sequence };
            let swapped = self.region.ledger.0.compare_exchange(
                word.raw(),
                next.raw(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if swapped.is_ok() {
                self.help();
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
