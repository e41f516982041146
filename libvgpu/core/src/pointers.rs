//! What this process allocated: address or handle -> charge. Of constant cost however much is live: 16 bytes and one
//! cache line for each of the usual allocations, which lie in one share and in no pool.

use std::collections::HashMap;

/// Bytes charged, by share of the GPU. One share is the rule, and needs no heap.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    first: Option<(usize, u64)>,
    more: Vec<(usize, u64)>,
}

impl Parts {
    /// Adds bytes of a share.
    pub fn add(&mut self, share: usize, bytes: u64) {
        if let Some(part) = self.first.iter_mut().chain(&mut self.more).find(|part| part.0 == share) {
            part.1 = part.1.saturating_add(bytes);
        } else if bytes > 0 && self.first.is_none() {
            self.first = Some((share, bytes));
        } else if bytes > 0 {
            self.more.push((share, bytes));
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(share, bytes)| self.add(share, bytes));
    }

    /// Takes so many bytes out, or all there are; from the share that was charged last.
    pub fn take(&mut self, bytes: u64) -> Self {
        let (mut taken, mut left) = (Self::default(), bytes);
        for part in self.first.iter_mut().chain(&mut self.more).rev() {
            let some = part.1.min(left);
            part.1 = part.1.saturating_sub(some);
            left = left.saturating_sub(some);
            taken.add(part.0, some);
        }
        taken
    }

    /// Sum in bytes.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|part| part.1).fold(0, u64::saturating_add)
    }

    /// Share and bytes.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.first.iter().chain(&self.more).copied()
    }

    /// The one share it lies in.
    fn only(&self) -> Option<(usize, u64)> {
        self.first.filter(|_| self.more.is_empty())
    }
}

/// One allocation.
#[derive(Debug, PartialEq, Eq)]
pub struct Allocation {
    /// CUDA ordinal of its GPU.
    pub device: i32,
    /// CUcontext it was made in, with which it ends; 0 if it does not.
    pub context: usize,
    /// CUmemoryPool that is charged for it; 0 if it is charged itself.
    pub pool: usize,
    /// What it is charged.
    pub parts: Parts,
}

/// Whose an allocation is: context and device.
pub type Owner = (usize, i32);

/// An allocation as it is found: most lie in one share and in no pool.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Whose it is, the share and bytes.
    Usual(Owner, usize, u64),
    /// Any other.
    Other(Allocation),
}

impl From<Found> for Allocation {
    fn from(found: Found) -> Self {
        match found {
            Found::Usual((context, device), share, bytes) => {
                let mut parts = Parts::default();
                parts.add(share, bytes);
                Self { device, context, pool: 0, parts }
            }
            Found::Other(allocation) => allocation,
        }
    }
}

/// One usual allocation; of address 0 there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    address: u64,
    /// Bytes.
    bytes: u64,
}

/// Where in [`Place::bytes`] the share and the owner's number stand: bytes (bits 43..0), share (51..44), owner (63..52).
const SHARE: u32 = 44;
const OWNER: u32 = 52;
const OWNERS: usize = 1 << (64 - OWNER);

/// Allocations of a kind, by address: an open table with linear probing, and a map of what is unusual.
#[derive(Debug, Default)]
pub struct Pointers {
    /// A power of two of them, or none.
    places: Vec<Place>,
    used: usize,
    owners: Vec<Owner>,
    others: HashMap<u64, Allocation>,
}

/// Bits of an address within a block of the driver's, which it fills with small allocations one behind another.
const BLOCK: u32 = 21;
/// Bits in which no two addresses differ.
const ALIGNED: u32 = 8;

/// One multiplication spreads blocks. The upper bits are the better ones.
#[inline]
pub fn spread(address: u64) -> u64 {
    (address >> BLOCK).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Pointers {
    /// Remembers an allocation.
    pub fn insert(&mut self, address: u64, allocation: Allocation) {
        let usual = allocation.parts.only().filter(|_| allocation.pool == 0);
        match usual {
            Some((share, bytes)) => {
                self.insert_usual(address, (allocation.context, allocation.device), share, bytes)
            }
            None => self.insert_other(address, allocation),
        }
    }

    /// Remembers one that lies in one share and in no pool.
    #[inline]
    pub fn insert_usual(&mut self, address: u64, owner: Owner, share: usize, bytes: u64) {
        match self
            .number(owner)
            .filter(|_| address != 0 && bytes >> SHARE == 0 && share >> (OWNER - SHARE) == 0)
        {
            Some(number) => {
                let bytes = bytes | (share as u64) << SHARE | (number as u64) << OWNER;
                self.put(Place { address, bytes });
            }
            None => self.insert_other(address, Found::Usual(owner, share, bytes).into()),
        }
    }

    #[cold]
    fn insert_other(&mut self, address: u64, allocation: Allocation) {
        self.others.insert(address, allocation);
    }

    /// Forgets it.
    #[inline]
    pub fn remove(&mut self, address: u64) -> Option<Found> {
        match self.find(address) {
            Some(at) => {
                let place = self.places.get(at).copied()?;
                self.erase(at);
                Some(self.unpack(place))
            }
            None if self.others.is_empty() => None,
            None => self.others.remove(&address).map(Found::Other),
        }
    }

    /// Forgets all of a context.
    pub fn remove_context(&mut self, context: usize) -> Vec<Allocation> {
        let is_its = |place: &Place| {
            let owner = self.owners.get((place.bytes >> OWNER) as usize);
            place.address != 0 && owner.is_some_and(|owner| owner.0 == context)
        };
        let its: Vec<u64> = self.places.iter().filter(|p| is_its(p)).map(|p| p.address).collect();
        let mut removed: Vec<Allocation> =
            its.into_iter().filter_map(|address| self.remove(address)).map(Allocation::from).collect();
        removed.extend(self.others.extract_if(|_, a| a.context == context).map(|(_, a)| a));
        removed
    }

    /// Of an owner; `None`: there are too many.
    #[inline]
    fn number(&mut self, owner: Owner) -> Option<usize> {
        let known = self.owners.iter().position(|known| *known == owner);
        known.or_else(|| {
            (self.owners.len() < OWNERS).then(|| {
                self.owners.push(owner);
                self.owners.len().saturating_sub(1)
            })
        })
    }

    #[inline]
    fn unpack(&self, place: Place) -> Found {
        let owner = self.owners.get((place.bytes >> OWNER) as usize).copied().unwrap_or_default();
        let share = place.bytes >> SHARE & ((1 << (OWNER - SHARE)) - 1);
        Found::Usual(owner, share as usize, place.bytes & ((1 << SHARE) - 1))
    }

    #[inline]
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// Where an address belongs: those of a block in their order, so that who allocates one after another finds the next
    /// place where the last one was. Handles that are no addresses differ in their lowest bits.
    #[inline]
    fn home(&self, address: u64) -> usize {
        let low = (address & ((1 << ALIGNED) - 1)).wrapping_mul(37);
        // The uppermost bits tell tables apart.
        (address >> ALIGNED).wrapping_add(low).wrapping_add(spread(address) >> 24) as usize & self.mask()
    }

    #[inline]
    fn find(&self, address: u64) -> Option<usize> {
        if address == 0 {
            return None;
        }
        let mut at = self.home(address);
        // One place is always free.
        loop {
            match self.places.get(at)?.address {
                0 => return None,
                there if there == address => return Some(at),
                _ => at = at.wrapping_add(1) & self.mask(),
            }
        }
    }

    #[inline]
    fn put(&mut self, place: Place) {
        // At most four in five are taken.
        if self.used.saturating_add(1).saturating_mul(5) > self.places.len().saturating_mul(4) {
            self.grow();
        }
        let mut at = self.home(place.address);
        let mask = self.mask();
        while let Some(there) = self.places.get_mut(at) {
            if there.address == 0 || there.address == place.address {
                self.used = self.used.saturating_add(usize::from(there.address == 0));
                *there = place;
                return;
            }
            at = at.wrapping_add(1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![Place::default(); self.places.len().saturating_mul(2).max(16)];
        let before = std::mem::replace(&mut self.places, larger);
        self.used = 0;
        before.into_iter().filter(|p| p.address != 0).for_each(|p| self.put(p));
    }

    /// Empties a place and moves up what was put behind it only because it was taken.
    #[inline]
    fn erase(&mut self, at: usize) {
        let mask = self.mask();
        let (mut hole, mut next) = (at, at.wrapping_add(1) & mask);
        while let Some(place) = self.places.get(next).copied().filter(|p| p.address != 0) {
            let home = self.home(place.address);
            let (from_home, from_hole) = (next.wrapping_sub(home) & mask, next.wrapping_sub(hole) & mask);
            if from_home >= from_hole {
                if let Some(to) = self.places.get_mut(hole) {
                    *to = place;
                }
                hole = next;
            }
            next = next.wrapping_add(1) & mask;
        }
        if let Some(place) = self.places.get_mut(hole) {
            *place = Place::default();
        }
        self.used = self.used.saturating_sub(1);
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(context: usize, bytes: u64) -> Allocation {
        let mut parts = Parts::default();
        parts.add(0, bytes);
        Allocation { device: 0, context, pool: 0, parts }
    }

    #[test]
    fn a_context_takes_its_allocations_with_it() {
        let mut pointers = Pointers::default();
        pointers.insert(0x1000, of(7, 512));
        pointers.insert(0x2000, of(8, 512));
        pointers.insert(0x3000, of(7, 512));
        assert_eq!(pointers.remove_context(7).len(), 2);
        assert_eq!(pointers.remove(0x1000), None);
        assert_eq!(pointers.remove(0x2000), Some(Found::Usual((8, 0), 0, 512)));
    }

    #[test]
    fn parts_are_taken_from_the_share_charged_last() {
        let mut parts = Parts::default();
        for (share, bytes) in [(0, 10), (1, 5), (0, 1)] {
            parts.add(share, bytes);
        }
        let taken = parts.take(7);
        assert_eq!(taken.iter().collect::<Vec<_>>(), [(1, 5), (0, 2)]);
        assert_eq!((parts.bytes(), taken.bytes()), (9, 7));
    }

    #[test]
    fn what_is_unusual_is_remembered_whole() {
        let mut pointers = Pointers::default();
        let pooled = || Allocation { pool: 5, ..of(0, 512) };
        let huge = || of(1, 1 << SHARE);
        let split = || {
            let mut allocation = of(1, 512);
            allocation.parts.add(1, 1024);
            allocation
        };
        for (address, make) in [(0x100, &pooled as &dyn Fn() -> Allocation), (0x200, &huge), (0x300, &split)]
        {
            pointers.insert(address, make());
            assert_eq!(pointers.remove(address).map(Allocation::from), Some(make()));
        }
        pointers.insert(0, of(1, 512));
        assert_eq!((pointers.remove(0), pointers.remove(0)), (Some(Found::Other(of(1, 512))), None));
    }

    proptest! {
        #[test]
        fn it_knows_what_a_map_knows(steps in prop::collection::vec((0u64..200, 0usize..3, 1u64..1 << 40), 0..2000)) {
            let (mut pointers, mut model) = (Pointers::default(), HashMap::new());
            for (address, what, bytes) in steps {
                let address = address << 9;
                if what == 0 {
                    prop_assert_eq!(pointers.remove(address).map(Allocation::from), model.remove(&address));
                } else {
                    pointers.insert(address, of(what, bytes));
                    model.insert(address, of(what, bytes));
                }
            }
            let gone = pointers.remove_context(1);
            prop_assert_eq!(gone.len(), model.extract_if(|_, a| a.context == 1).count());
            for (address, allocation) in model {
                prop_assert_eq!(pointers.remove(address).map(Allocation::from), Some(allocation));
            }
            prop_assert_eq!(pointers.used, 0);
        }
    }
}
