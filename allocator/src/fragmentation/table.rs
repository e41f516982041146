//! Scores of nodes by kind of pod, kept between decisions: only nodes that changed are scored again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::Room;
use crate::demand::{Demand, Request};

/// Kinds of pods whose scores are kept.
const TABLES: usize = 256;
/// Kinds of pods are expected again that came among so many.
const RECENT: u64 = 256;
/// Score of a node that does not take the pod.
pub(crate) const NEVER: i64 = i64::MIN;

/// What scores depend on of a demand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    pub(crate) room: Room,
    /// Without names.
    pub(crate) requests: Vec<Request>,
}

/// Scores of one kind of pod.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By slot.
    pub(crate) scores: Vec<i64>,
    /// Changes it has taken in.
    seen: usize,
    /// When it was last used.
    used: u64,
    /// Uses since prices moved.
    uses: u32,
}

/// Every table, and the changes they have to catch up with.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    known: HashMap<Arc<Ask>, Table>,
    /// Slots in the order they changed.
    changes: Vec<u32>,
    clock: u64,
}

impl Ask {
    pub(crate) fn of(demand: &Demand) -> Self {
        let blank = |r: &Request| Request { claim: String::new(), name: String::new(), ..r.clone() };
        Self { room: demand.room, requests: demand.requests.iter().map(blank).collect() }
    }
}

impl Tables {
    /// A slot of so many has something else in it.
    pub(crate) fn changed(&mut self, slot: usize, slots: usize) {
        self.changes.push(slot as u32);
        if self.changes.len() > 4 * slots + 1024 {
            // Whoever has not seen the oldest is behind by more than it costs to begin anew.
            let dropped = self.changes.len() / 2;
            self.changes.drain(..dropped);
            self.known.retain(|_, table| table.seen >= dropped);
            self.known.values_mut().for_each(|table| table.seen -= dropped);
        }
    }

    /// Forgets all scores. Returns the kinds of pods that came more than once since the last time, in a fixed order.
    pub(crate) fn reset(&mut self) -> Vec<Arc<Ask>> {
        let mut known: Vec<_> = self.known.drain().filter(|(_, table)| table.uses > 1).collect();
        known.sort_by_key(|(_, table)| table.used);
        self.changes.clear();
        known.into_iter().map(|(ask, _)| ask).collect()
    }

    /// Takes a table out, with the slots that are to be scored again.
    pub(crate) fn take(&mut self, ask: &Ask, slots: usize) -> (Table, Vec<u32>) {
        // One that never came back is empty: it is begun anew.
        let Some(mut table) = self.known.get_mut(ask).map(std::mem::take).filter(|t| !t.scores.is_empty())
        else {
            let table = Table { scores: vec![NEVER; slots], ..Table::default() };
            return (table, (0..slots as u32).collect());
        };
        let due = distinct(&self.changes[table.seen..]);
        table.seen = self.changes.len();
        table.scores.resize(slots, NEVER);
        (table, due)
    }

    /// Takes the table out that is furthest behind of those that will be asked for again, with at most so many slots that
    /// are to be scored again. It may be behind still when they are.
    pub(crate) fn take_behind(&mut self, most: usize, slots: usize) -> Option<(Arc<Ask>, Table, Vec<u32>)> {
        let is_due = |t: &Table| t.seen < self.changes.len() && t.used + RECENT > self.clock;
        let tables = self.known.iter_mut().filter(|(_, table)| is_due(table) && !table.scores.is_empty());
        let (ask, table) = tables.min_by_key(|(_, table)| (table.seen, table.used))?;
        let mut table = std::mem::take(table);
        let end = self.changes.len().min(table.seen + most);
        let due = distinct(&self.changes[table.seen..end]);
        table.seen = end;
        table.scores.resize(slots, NEVER);
        Some((ask.clone(), table, due))
    }

    /// Brings a table back.
    pub(crate) fn keep(&mut self, ask: &Arc<Ask>, table: Table) {
        if self.known.len() >= TABLES && !self.known.contains_key(ask) {
            let oldest = self.known.iter().min_by_key(|(_, t)| t.used).map(|(ask, _)| ask.clone());
            oldest.map(|ask| self.known.remove(&ask));
        }
        self.known.insert(ask.clone(), table);
    }

    /// The same after it was asked for and all its scores were current.
    pub(crate) fn keep_used(&mut self, ask: &Arc<Ask>, mut table: Table) {
        self.clock += 1;
        table.seen = self.changes.len();
        table.used = self.clock;
        table.uses = table.uses.saturating_add(1);
        self.keep(ask, table);
    }
}

fn distinct(slots: &[u32]) -> Vec<u32> {
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    slots.dedup();
    slots
}
