//! How many GPUs are alike, so that what holds for many is found by looking at few.

use std::collections::BTreeMap;

use crate::demand::Request;
use crate::vacancy::Vacancy;

/// GPUs by vacancy: lots by what is the same however much is taken, in them groups by free memory.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Head, Lot>);

/// What GPUs of a lot have in common: shape, health, memory in all, places.
type Head = (u32, bool, u64, u32);

/// GPUs that differ in what is free of them only.
#[derive(Debug, Default)]
pub(crate) struct Lot {
    pub(crate) count: u32,
    /// By free memory.
    groups: BTreeMap<u64, Group>,
}

/// GPUs that differ in nothing but free cores, and in what may be promised of them.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) count: u32,
    members: BTreeMap<Vacancy, u32>,
}

fn head(vacancy: &Vacancy) -> Head {
    (vacancy.shape, vacancy.is_unhealthy, vacancy.capacity, vacancy.places)
}

impl Tally {
    pub(crate) fn add(&mut self, vacancy: Vacancy) {
        let lot = self.0.entry(head(&vacancy)).or_default();
        lot.count += 1;
        let group = lot.groups.entry(vacancy.memory).or_default();
        group.count += 1;
        *group.members.entry(vacancy).or_default() += 1;
    }

    /// One that was added before is gone.
    pub(crate) fn remove(&mut self, vacancy: &Vacancy) {
        let head = head(vacancy);
        let Some(lot) = self.0.get_mut(&head) else { return };
        let Some(group) = lot.groups.get_mut(&vacancy.memory) else { return };
        let Some(count) = group.members.get_mut(vacancy) else { return };
        *count -= 1;
        if *count == 0 {
            group.members.remove(vacancy);
        }
        group.count -= 1;
        if group.count == 0 {
            lot.groups.remove(&vacancy.memory);
        }
        lot.count -= 1;
        if lot.count == 0 {
            self.0.remove(&head);
        }
    }

    /// Whether some GPU may take a request: false is certain.
    pub(crate) fn may_take(&self, request: &Request) -> bool {
        // The most memory and the most cores need not be free of the same GPU; what may be promised is in no order.
        request.oversubscribed.is_any()
            || self.lots().filter_map(Lot::most).any(|gpu| {
                let best = Vacancy { cores: u32::MAX, ..*gpu };
                best.takes(request).is_ok()
            })
    }

    pub(crate) fn lots(&self) -> impl Iterator<Item = &Lot> {
        self.0.values()
    }
}

impl Lot {
    /// One of its GPUs.
    pub(crate) fn any(&self) -> Option<&Vacancy> {
        Some(self.groups.first_key_value()?.1.ends()?.0)
    }

    /// One of those with the most free memory.
    fn most(&self) -> Option<&Vacancy> {
        Some(self.groups.last_key_value()?.1.ends()?.1)
    }

    /// Groups with less free memory, the most first.
    pub(crate) fn below(&self, memory: u64) -> impl Iterator<Item = &Group> {
        self.groups.range(..memory).rev().map(|(_, group)| group)
    }

    /// Groups with at least so much free memory, the most first.
    pub(crate) fn from(&self, memory: u64) -> impl Iterator<Item = &Group> {
        self.groups.range(memory..).rev().map(|(_, group)| group)
    }
}

impl Group {
    /// Each vacancy and how many have it, from the fewest free cores to the most.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Vacancy, u32)> {
        self.members.iter().map(|(vacancy, count)| (vacancy, *count))
    }

    /// Those with the fewest and the most free cores.
    pub(crate) fn ends(&self) -> Option<(&Vacancy, &Vacancy)> {
        Some((self.members.first_key_value()?.0, self.members.last_key_value()?.0))
    }
}
