//! The GPUs of a node, and one round of looking at them after another.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

use vgpu_core::compute::arbiter::{Arbiter, Id};
use vgpu_core::compute::view::View;
use vgpu_core::compute::words::Turn;

use crate::clock::{Clock, Fds};
use crate::seat::{Files, Seat, SeatError};

/// A GPU is looked at no more often than this, in nanoseconds, however often its bells ring.
pub const LEAST_LOOK: u64 = 20_000;

/// A GPU with several shares, one of them at work, is looked at this often though nobody rings: two that began at the
/// very moment at which it was decided that only one wants the GPU would not.
pub const MOST_LOOK: u64 = 50_000_000;

/// A share of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// UUID of the GPU.
    pub gpu: String,
    /// Tells shares of the node apart.
    pub name: String,
    /// Its files.
    pub files: Files,
    /// Others may have been promised the same GPU time.
    pub oversubscribed: bool,
}

/// All GPUs of a node that have shares.
#[derive(Debug, Default)]
pub struct Arbitration {
    gpus: BTreeMap<String, Gpu>,
    members: BTreeMap<String, (Member, Id)>,
    next: Id,
    turns: u64,
    ears: Ears,
}

/// What is listened to: bells, then what the caller waits for.
#[derive(Debug, Default)]
struct Ears {
    fds: Fds,
    bells: Vec<(String, Id)>,
    others: Vec<RawFd>,
    are_current: bool,
}

/// One GPU.
#[derive(Debug, Default)]
struct Gpu {
    arbiter: Arbiter,
    seats: BTreeMap<Id, Seat>,
    /// Those of them that others may have been promised the time of.
    oversubscribed: BTreeSet<Id>,
    /// When to look at the latest.
    due: u64,
    looked: u64,
    holder: Option<Id>,
}

impl Arbitration {
    /// Takes these shares, and lets go of all others. Gives those that cannot take part, to be tried again with the next
    /// call.
    pub fn set(&mut self, now: u64, members: Vec<Member>) -> Vec<(Member, SeatError)> {
        let gpus = &self.gpus;
        let stays = |known: &Member, id: &Id| {
            let seat = gpus.get(&known.gpu).and_then(|gpu| gpu.seats.get(id));
            members.contains(known) && seat.is_some_and(|seat| seat.is_of(&known.files))
        };
        let gone = self.members.iter().filter(|(_, (known, id))| !stays(known, id));
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let Some((member, id)) = self.members.remove(&name) else { continue };
            if let Some(gpu) = self.gpus.get_mut(&member.gpu)
                && let Some(seat) = gpu.seats.remove(&id)
            {
                gpu.oversubscribed.remove(&id);
                seat.release(now);
                gpu.due = 0;
            }
        }
        let mut failed = Vec::new();
        for member in members {
            if self.members.contains_key(&member.name) {
                continue;
            }
            match Seat::open(&member.files) {
                Ok(seat) => {
                    let gpu = self.gpus.entry(member.gpu.clone()).or_default();
                    gpu.seats.insert(self.next, seat);
                    if member.oversubscribed {
                        gpu.oversubscribed.insert(self.next);
                    }
                    gpu.due = 0;
                    self.members.insert(member.name.clone(), (member, self.next));
                    self.next = self.next.wrapping_add(1);
                }
                Err(error) => failed.push((member, error)),
            }
        }
        self.gpus.retain(|_, gpu| !gpu.seats.is_empty());
        self.ears.are_current = false;
        failed
    }

    /// Looks at every GPU that is due, then waits until a share rings, the next is due, one of `others` has something to
    /// read, or until that moment. True: one of `others` has. To be called again and again.
    pub fn round(&mut self, clock: &mut impl Clock, others: &[RawFd], until: u64) -> bool {
        self.look(clock);
        if !self.ears.are_current || self.ears.others != others {
            self.listen(others);
        }
        let due = self.gpus.values().map(|gpu| gpu.due).min().unwrap_or(u64::MAX);
        let Ears { fds, bells, .. } = &mut self.ears;
        clock.wait(fds, due.min(until));
        for (index, (gpu, id)) in bells.iter().enumerate() {
            if fds.is_ready(index)
                && let Some(gpu) = self.gpus.get_mut(gpu)
            {
                if let Some(seat) = gpu.seats.get(id) {
                    seat.silence();
                }
                gpu.due = gpu.due.min(gpu.looked.saturating_add(LEAST_LOOK));
            }
        }
        (bells.len()..bells.len() + others.len()).any(|index| fds.is_ready(index))
    }

    /// Times a GPU that several shares wanted went to another of them.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Opens every turn, and lets go of all shares: nobody arbitrates from now on.
    pub fn release(&mut self, clock: &mut impl Clock) {
        self.set(clock.now(), Vec::new());
        clock.turned();
    }

    fn listen(&mut self, others: &[RawFd]) {
        let mut fds = Vec::new();
        let mut bells = Vec::new();
        for (uuid, gpu) in &self.gpus {
            for (id, seat) in &gpu.seats {
                if let Some(fd) = seat.fd() {
                    bells.push((uuid.clone(), *id));
                    fds.push(fd);
                }
            }
        }
        let fds = Fds::new(fds.into_iter().chain(others.iter().copied()));
        self.ears = Ears { fds, bells, others: others.to_vec(), are_current: true };
    }

    fn look(&mut self, clock: &mut impl Clock) {
        let mut turned = false;
        for gpu in self.gpus.values_mut() {
            let now = clock.now();
            if gpu.due <= now {
                let holder = gpu.holder;
                turned |= gpu.look(now);
                let is_another = gpu.holder.is_some() && gpu.holder != holder;
                self.turns = self.turns.saturating_add(is_another.into());
            }
        }
        if turned {
            clock.turned();
        }
    }
}

impl Gpu {
    /// One look. True if a turn has come or gone.
    fn look(&mut self, now: u64) -> bool {
        let (mut views, mut untold) = (Vec::with_capacity(self.seats.len()), 0u32);
        for (id, seat) in &mut self.seats {
            let view = View { oversubscribed: self.oversubscribed.contains(id), ..seat.view(now) };
            match seat.fd() {
                Some(_) => views.push((*id, view)),
                None => untold = untold.saturating_add(view.busy),
            }
        }
        let (notices, due) = self.arbiter.evaluate(now, &views);
        let mut changed = false;
        for notice in notices {
            let mut notice = *notice;
            notice.neighbours = notice.neighbours.saturating_add(untold);
            match notice.turn {
                Turn::Held => self.holder = Some(notice.id),
                Turn::Open => self.holder = None,
                Turn::Denied => {}
            }
            if let Some(seat) = self.seats.get(&notice.id) {
                changed |= seat.tell(now, &notice);
            }
        }
        let is_at_work = self.seats.len() > 1 && (untold > 0 || views.iter().any(|(_, view)| view.busy > 0));
        let most = if is_at_work { now.saturating_add(MOST_LOOK) } else { u64::MAX };
        (self.looked, self.due) = (now, due.min(most));
        changed
    }
}

#[cfg(test)]
mod tests;
