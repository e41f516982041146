//! How many GPUs are alike, so that what holds for many is found by looking at few.

use std::collections::BTreeMap;

use crate::vacancy::Vacancy;

/// GPUs by vacancy, those that differ in cores only together.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Head, Group>);

/// What GPUs of a group have in common: shape, health, memory in all and free, places.
type Head = (u32, bool, u64, u64, u32);

/// GPUs that differ in nothing but free cores, and in what may be promised of them.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) count: u32,
    members: BTreeMap<Vacancy, u32>,
}

fn head(vacancy: &Vacancy) -> Head {
    let Vacancy { shape, is_unhealthy, capacity, memory, places, .. } = *vacancy;
    (shape, is_unhealthy, capacity, memory, places)
}

impl Tally {
    pub(crate) fn add(&mut self, vacancy: Vacancy) {
        let group = self.0.entry(head(&vacancy)).or_default();
        group.count += 1;
        *group.members.entry(vacancy).or_default() += 1;
    }

    /// One that was added before is gone.
    pub(crate) fn remove(&mut self, vacancy: &Vacancy) {
        let head = head(vacancy);
        let Some(group) = self.0.get_mut(&head) else { return };
        let Some(count) = group.members.get_mut(vacancy) else { return };
        *count -= 1;
        if *count == 0 {
            group.members.remove(vacancy);
        }
        group.count -= 1;
        if group.count == 0 {
            self.0.remove(&head);
        }
    }

    pub(crate) fn groups(&self) -> impl DoubleEndedIterator<Item = &Group> {
        self.0.values()
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
