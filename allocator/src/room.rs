//! CPU, memory and places of a node that pods leave, and what a pod lacks of them.

use crate::cluster::{Node, Room};
use crate::placement::NodeReason;
use crate::taken::NodeTaken;

/// Rooms that are passed over together.
const CHUNK: usize = 8;

/// Free CPU in thousandths of a core, memory in bytes, and places; negative where more is taken than there is.
pub(crate) type Free = (i64, i64, i64);

/// The least that must be free for a pod. What it does not ask for is there even where more is taken than there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Least(Free);

/// The first that a pod lacks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Cpu,
    Memory,
    Places,
}

impl Least {
    pub(crate) fn of(ask: &Room) -> Self {
        let least = |ask: u64| if ask == 0 { i64::MIN } else { i64::try_from(ask).unwrap_or(i64::MAX) };
        Self((least(ask.cpu_milli), least(ask.memory), ask.pods.into()))
    }

    pub(crate) fn fits(&self, free: &Free) -> bool {
        // All three, whatever the first says: nodes are looked at by the dozen, and a branch costs more than a comparison.
        (free.0 >= self.0.0) & (free.1 >= self.0.1) & (free.2 >= self.0.2)
    }

    pub(crate) fn lack(&self, free: &Free) -> Option<Lack> {
        if self.fits(free) {
            None
        } else if free.0 < self.0.0 {
            Some(Lack::Cpu)
        } else if free.1 < self.0.1 {
            Some(Lack::Memory)
        } else {
            Some(Lack::Places)
        }
    }
}

impl Lack {
    /// Every one, in the order in which they are looked at.
    pub(crate) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Places];
}

impl From<Lack> for NodeReason {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Cpu => Self::InsufficientCpu,
            Lack::Memory => Self::InsufficientHostMemory,
            Lack::Places => Self::TooManyPods,
        }
    }
}

/// What is free of many nodes, to find the few that lack something.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    free: Vec<Free>,
    /// Least of every [`CHUNK`] of them.
    least: Vec<Free>,
}

impl Rooms {
    pub(crate) fn insert(&mut self, at: usize, free: Free) {
        self.free.insert(at, free);
        self.renew(at);
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.free.remove(at);
        self.renew(at);
    }

    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut upper = Self { free: self.free.split_off(at), least: Vec::new() };
        self.renew(at);
        upper.renew(0);
        upper
    }

    pub(crate) fn extend(&mut self, other: Self) {
        let from = self.free.len();
        self.free.extend(other.free);
        self.renew(from);
    }

    fn renew(&mut self, from: usize) {
        let first = from / CHUNK;
        self.least.truncate(first);
        let least = |chunk: &[Free]| {
            let none = (i64::MAX, i64::MAX, i64::MAX);
            chunk.iter().fold(none, |l, f| (l.0.min(f.0), l.1.min(f.1), l.2.min(f.2)))
        };
        self.least.extend(self.free[first * CHUNK..].chunks(CHUNK).map(least));
    }

    /// Places of those that lack something, and what.
    pub(crate) fn lacking(&self, ask: &Least) -> impl Iterator<Item = (usize, Lack)> {
        let chunks = self.free.chunks(CHUNK).zip(&self.least).enumerate();
        let tight = chunks.filter(|(_, (_, least))| !ask.fits(least));
        tight.flat_map(move |(n, (chunk, _))| {
            let lack = move |(at, free)| Some((n * CHUNK + at, ask.lack(free)?));
            chunk.iter().enumerate().filter_map(lack)
        })
    }
}

/// What pods on a node leave.
pub(crate) fn free_room(node: &Node, taken: Option<&NodeTaken>) -> Free {
    let used = taken.map(|t| t.room).unwrap_or_default();
    let left = |have: u64, used: u64| {
        (i128::from(have) - i128::from(used)).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    };
    (
        left(node.room.cpu_milli, used.cpu_milli),
        left(node.room.memory, used.memory),
        i64::from(node.room.pods) - i64::from(used.pods),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_never_lacking_but_a_place_is() {
        let lack = |cpu_milli: u64, memory: u64, free: Free| {
            Least::of(&Room { cpu_milli, memory, pods: 1 }).lack(&free)
        };
        assert_eq!(lack(0, 0, (-5, -5, 1)), None);
        assert_eq!(lack(1, 0, (0, 9, 0)), Some(Lack::Cpu));
        assert_eq!(lack(1, 10, (1, 9, 0)), Some(Lack::Memory));
        assert_eq!(lack(1, 9, (1, 9, 0)), Some(Lack::Places));
        assert_eq!(lack(u64::MAX, 0, (i64::MAX - 1, 0, 1)), Some(Lack::Cpu));
    }

    #[test]
    fn rooms_find_those_that_lack_whatever_came_and_went() {
        let mut rooms = Rooms::default();
        let mut plain: Vec<Free> = Vec::new();
        let ask = Least::of(&Room { cpu_milli: 40, memory: 30, pods: 1 });
        let check = |rooms: &Rooms, plain: &[Free]| {
            let lacking = plain.iter().enumerate().filter_map(|(at, free)| Some((at, ask.lack(free)?)));
            assert_eq!(rooms.lacking(&ask).collect::<Vec<_>>(), lacking.collect::<Vec<_>>());
        };
        for n in 0..200i64 {
            let free = (n * 37 % 101, n * 53 % 89, n * 7 % 5);
            let at = n as usize * 31 % (plain.len() + 1);
            rooms.insert(at, free);
            plain.insert(at, free);
            if n % 3 == 0 {
                let at = n as usize * 17 % plain.len();
                rooms.remove(at);
                plain.remove(at);
            }
            check(&rooms, &plain);
        }
        let (upper, other) = (rooms.split_off(37), plain.split_off(37));
        check(&rooms, &plain);
        check(&upper, &other);
        rooms.extend(upper);
        check(&rooms, &[plain, other].concat());
    }
}
