//! Nodes by kind, each kind in the order of fullness, with summaries of every few: a decision looks at summaries and at
//! the few nodes they cannot rule out. Nothing here is truth: it is made from a node and what is taken of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::Node;
use crate::room::{Free, Rooms, free_room};
use crate::summary::{Scale, Summary};
use crate::taken::{NodeTaken, Taken};
use crate::tally::Tally;
use crate::vacancy::Vacancy;

/// Most nodes of a block.
const BLOCK: usize = 64;

/// What nodes of a kind have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KindKey {
    /// [`Node::class`].
    pub(crate) class: u32,
    /// More is held on some GPU than it has. It cannot happen, and where it does fullness is no order.
    over: bool,
    /// More may be promised of some GPU than it has.
    pub(crate) overcommitted: bool,
    /// Shape, memory and cores of each GPU, sorted.
    pub(crate) gpus: Vec<(u32, u64, u32)>,
}

/// Order of a kind's nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Memory in use x all cores + cores in use x all memory: the order of the mean of both, without rounding.
    pub(crate) used: u128,
    pub(crate) memory: u64,
    pub(crate) cores: u64,
    pub(crate) shares: u32,
    pub(crate) name: Arc<str>,
}

impl Key {
    /// Equal for nodes that are equally full in memory and in cores.
    pub(crate) fn level(&self) -> (u128, u64, u64) {
        (self.used, self.memory, self.cores)
    }

    /// Equal for nodes that only their names tell apart.
    pub(crate) fn run(&self) -> (u128, u64, u64, u32) {
        (self.used, self.memory, self.cores, self.shares)
    }
}

/// A node in its place.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) key: Key,
    pub(crate) summary: Summary,
    /// Of each GPU.
    pub(crate) vacancies: Box<[Vacancy]>,
}

/// Nodes beside each other in the order.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) seats: Vec<Seat>,
    /// What is free for pods, by seat.
    pub(crate) rooms: Rooms,
    pub(crate) summary: Summary,
}

/// Nodes with the same GPUs and the same class.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) key: Arc<KindKey>,
    /// All memory and cores of one node.
    pub(crate) total: (u64, u64),
    pub(crate) scale: Scale,
    pub(crate) blocks: Vec<Block>,
    /// GPUs of all nodes: many are alike.
    pub(crate) tally: Tally,
}

/// Every node.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) kinds: BTreeMap<Arc<KindKey>, Kind>,
    places: HashMap<Arc<str>, (Arc<KindKey>, Key)>,
}

impl KindKey {
    fn of(node: &Node, taken: &[Taken]) -> Self {
        let mut gpus: Vec<_> = node.gpus.iter().map(|g| (g.shape, g.memory, g.cores)).collect();
        gpus.sort_unstable();
        let over = node
            .gpus
            .iter()
            .zip(taken)
            .any(|(gpu, taken)| taken.memory(gpu) > gpu.memory || taken.cores(gpu) > gpu.cores);
        let overcommitted = node.gpus.iter().any(|gpu| gpu.overcommit.is_any());
        Self { class: node.class, over, overcommitted, gpus }
    }

    /// All GPUs have the same memory, so a request takes the same of each.
    pub(crate) fn is_even(&self) -> bool {
        self.gpus.windows(2).all(|pair| pair[0].1 == pair[1].1)
    }

    /// Whether fullness orders its nodes.
    pub(crate) fn is_ordered(&self) -> bool {
        !self.over
    }
}

impl Index {
    /// A node came, went (`None`) or has something else taken of it.
    pub(crate) fn set(&mut self, name: &str, node: Option<(&Node, Option<&NodeTaken>)>) {
        let known = self.places.get_key_value(name).map(|(name, _)| name.clone());
        if let Some((kind_key, key)) = self.places.remove(name)
            && let Some(kind) = self.kinds.get_mut(&kind_key)
        {
            kind.remove(&key);
            if kind.blocks.is_empty() {
                self.kinds.remove(&kind_key);
            }
        }
        let Some((node, taken)) = node else { return };
        let room = free_room(node, taken);
        let taken = NodeTaken::along(taken, &node.gpus);
        let kind_key = KindKey::of(node, &taken);
        let kind = match self.kinds.get_mut(&kind_key) {
            Some(kind) => kind,
            None => {
                let kind = Kind::new(Arc::new(kind_key));
                self.kinds.entry(kind.key.clone()).or_insert(kind)
            }
        };
        let name = known.unwrap_or_else(|| name.into());
        let key = kind.key_of(name.clone(), node, &taken);
        self.places.insert(name, (kind.key.clone(), key.clone()));
        // Whether there is a place is all that matters here, and more GPUs are alike without how many.
        let alike = |v: Vacancy| Vacancy { places: v.places.min(1), ..v };
        let gpus = node.gpus.iter().zip(&taken);
        let vacancies: Box<[Vacancy]> = gpus.map(|(gpu, taken)| alike(Vacancy::of(gpu, taken))).collect();
        let summary = Summary::of(room, &vacancies, kind.scale);
        kind.insert(Seat { key, summary, vacancies }, room);
    }

    /// Kind and order of a node.
    pub(crate) fn place(&self, name: &str) -> Option<&(Arc<KindKey>, Key)> {
        self.places.get(name)
    }
}

impl Kind {
    fn new(key: Arc<KindKey>) -> Self {
        let total = key.gpus.iter().fold((0u64, 0u64), |(memory, cores), gpu| {
            (memory.saturating_add(gpu.1), cores + u64::from(gpu.2))
        });
        let scale = Scale {
            memory: key.gpus.iter().map(|g| g.1).max().unwrap_or(0),
            cores: key.gpus.iter().map(|g| g.2).max().unwrap_or(0),
        };
        Self { key, total, scale, blocks: Vec::new(), tally: Tally::default() }
    }

    fn key_of(&self, name: Arc<str>, node: &Node, taken: &[Taken]) -> Key {
        let (mut memory, mut cores, mut shares) = (0u64, 0u64, 0u32);
        for (gpu, taken) in node.gpus.iter().zip(taken) {
            memory = memory.saturating_add(taken.memory(gpu));
            cores += u64::from(taken.cores(gpu));
            shares = shares.saturating_add(taken.shares);
        }
        let used = u128::from(memory) * u128::from(self.total.1.max(1))
            + u128::from(cores) * u128::from(self.total.0.max(1));
        Key { used, memory, cores, shares, name }
    }

    /// Block a key is in, or would go to.
    fn block_of(&self, key: &Key) -> usize {
        let at = self.blocks.partition_point(|b| b.seats.last().is_some_and(|last| last.key < *key));
        at.min(self.blocks.len().saturating_sub(1))
    }

    /// Block and place in it of a node that is there.
    pub(crate) fn find(&self, key: &Key) -> Option<(usize, usize)> {
        let at = self.block_of(key);
        let seat = self.blocks.get(at)?.seats.binary_search_by(|s| s.key.cmp(key)).ok()?;
        Some((at, seat))
    }

    fn insert(&mut self, seat: Seat, room: Free) {
        seat.vacancies.iter().for_each(|vacancy| self.tally.add(*vacancy));
        if self.blocks.is_empty() {
            self.blocks.push(Block::new(Vec::new(), Rooms::default()));
        }
        let at = self.block_of(&seat.key);
        let block = &mut self.blocks[at];
        block.summary.merge(&seat.summary);
        let place = block.seats.partition_point(|s| s.key < seat.key);
        block.seats.insert(place, seat);
        block.rooms.insert(place, room);
        if block.seats.len() > BLOCK {
            let upper = Block::new(block.seats.split_off(BLOCK / 2), block.rooms.split_off(BLOCK / 2));
            block.summarise();
            self.blocks.insert(at + 1, upper);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some((at, seat)) = self.find(key) else { return };
        self.blocks[at].rooms.remove(seat);
        let seat = self.blocks[at].seats.remove(seat);
        seat.vacancies.iter().for_each(|vacancy| self.tally.remove(vacancy));
        // A block that became small joins the one before it.
        let len = |at: usize| self.blocks[at].seats.len();
        let joins = at > 0 && len(at) + len(at - 1) <= BLOCK / 2;
        if joins {
            let Block { seats, rooms, .. } = self.blocks.remove(at);
            self.blocks[at - 1].seats.extend(seats);
            self.blocks[at - 1].rooms.extend(rooms);
            self.blocks[at - 1].summarise();
        } else if len(at) == 0 {
            self.blocks.remove(at);
        } else {
            self.blocks[at].summarise();
        }
    }

    /// First node, from the first one not `below`, that passes.
    pub(crate) fn first(
        &self,
        below: impl Fn(&Key) -> bool,
        may: impl Fn(&Summary) -> bool,
        mut passes: impl FnMut(&Seat) -> bool,
    ) -> Option<&Seat> {
        let start = self.blocks.partition_point(|b| b.seats.last().is_some_and(|s| below(&s.key)));
        for block in &self.blocks[start..] {
            if may(&block.summary) {
                let from = block.seats.partition_point(|s| below(&s.key));
                let found = block.seats[from..].iter().find(|s| may(&s.summary) && passes(s));
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Last node of those `below` that passes.
    pub(crate) fn last(
        &self,
        below: impl Fn(&Key) -> bool,
        may: impl Fn(&Summary) -> bool,
        mut passes: impl FnMut(&Seat) -> bool,
    ) -> Option<&Seat> {
        let end = self.blocks.partition_point(|b| b.seats.first().is_some_and(|s| below(&s.key)));
        for block in self.blocks[..end].iter().rev() {
            if may(&block.summary) {
                let to = block.seats.partition_point(|s| below(&s.key));
                let found = block.seats[..to].iter().rev().find(|s| may(&s.summary) && passes(s));
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }
}

impl Block {
    fn new(seats: Vec<Seat>, rooms: Rooms) -> Self {
        let mut block = Self { seats, rooms, summary: Summary::NONE };
        block.summarise();
        block
    }

    fn summarise(&mut self) {
        self.summary = Summary::NONE;
        for seat in &self.seats {
            self.summary.merge(&seat.summary);
        }
    }
}
