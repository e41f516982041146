//! One GPU: contexts take turns by slices, and a change of context costs.
//!
//! Contexts with queued work are served round robin. A context without work gives way at once; a lone one runs on. A
//! kernel is stopped at the end of a slice and goes on in its context's next turn. A marker is an item of the queue like a
//! kernel, so its stamp is delayed by neighbours' slices as a real event's is.

use std::collections::VecDeque;

use crate::{MS, Nanos, US};

/// How a GPU shares itself.
#[derive(Debug, Clone, Copy)]
pub struct Slicing {
    /// Longest turn of a context while others have work.
    pub slice: Nanos,
    /// A change of context.
    pub switch: Nanos,
}

impl Default for Slicing {
    fn default() -> Self {
        Self { slice: 2 * MS, switch: 100 * US }
    }
}

/// What a marker costs on the GPU.
const MARKER: Nanos = 500;
/// Busy time is kept in windows of this length.
pub const WINDOW: Nanos = 10 * MS;

#[derive(Debug, Clone, Copy)]
struct Item {
    left: Nanos,
    marker: bool,
}

#[derive(Debug, Default)]
struct Context {
    queue: VecDeque<Item>,
    /// Items taken so far, and ended so far.
    queued: u64,
    done: u64,
    /// Stamps of markers, oldest first, and how many have been taken away.
    stamps: VecDeque<Nanos>,
    taken: u64,
    markers: u64,
    /// Tell when so many items have ended.
    tell_at: Option<u64>,
    busy: Vec<Nanos>,
    dead: bool,
}

/// The GPU and its truth.
#[derive(Debug)]
pub struct Gpu {
    slicing: Slicing,
    now: Nanos,
    contexts: Vec<Context>,
    /// Whose registers are loaded.
    current: Option<usize>,
    /// Whether it is at work or switching to it.
    running: bool,
    switch_left: Nanos,
    slice_left: Nanos,
    ready: usize,
}

impl Gpu {
    /// Idle, with so many contexts.
    pub fn new(slicing: Slicing, contexts: usize) -> Self {
        Self {
            slicing,
            now: 0,
            contexts: (0..contexts).map(|_| Context::default()).collect(),
            current: None,
            running: false,
            switch_left: 0,
            slice_left: 0,
            ready: 0,
        }
    }

    /// Queues a kernel.
    pub fn launch(&mut self, context: usize, length: Nanos) {
        self.push(context, Item { left: length.max(1), marker: false });
    }

    /// Queues a marker; its number is for [`Gpu::stamp`].
    pub fn record(&mut self, context: usize) -> u64 {
        self.push(context, Item { left: MARKER, marker: true });
        let context = &mut self.contexts[context];
        context.markers += 1;
        context.markers - 1
    }

    fn push(&mut self, at: usize, item: Item) {
        let context = &mut self.contexts[at];
        if context.dead {
            return;
        }
        context.queued += 1;
        context.queue.push_back(item);
        self.ready += usize::from(context.queue.len() == 1);
        if !self.running {
            self.choose();
        }
    }

    /// When a marker was reached.
    pub fn stamp(&self, context: usize, marker: u64) -> Option<Nanos> {
        let context = &self.contexts[context];
        let index = usize::try_from(marker.checked_sub(context.taken)?).ok()?;
        context.stamps.get(index).copied()
    }

    /// Forgets the stamps of markers up to this one.
    pub fn forget(&mut self, context: usize, marker: u64) {
        let context = &mut self.contexts[context];
        while context.taken <= marker && context.stamps.pop_front().is_some() {
            context.taken += 1;
        }
    }

    /// Items queued so far.
    pub fn queued(&self, context: usize) -> u64 {
        self.contexts[context].queued
    }

    /// Items of a context that have not ended.
    pub fn depth(&self, context: usize) -> usize {
        self.contexts[context].queue.len()
    }

    /// Asks to be told by [`Gpu::step`] when so many items of a context have ended. False: they have.
    pub fn tell_at(&mut self, context: usize, items: u64) -> bool {
        let context = &mut self.contexts[context];
        let later = context.done < items;
        context.tell_at = later.then_some(items);
        later
    }

    /// Ends a context and what it had queued.
    pub fn kill(&mut self, at: usize) {
        let context = &mut self.contexts[at];
        self.ready -= usize::from(!context.queue.is_empty());
        context.queue.clear();
        context.tell_at = None;
        context.dead = true;
        if self.current == Some(at) {
            self.running = false;
            self.switch_left = 0;
            self.choose();
        }
    }

    /// Busy time of a context by windows of [`WINDOW`].
    pub fn busy(&self, context: usize) -> &[Nanos] {
        &self.contexts[context].busy
    }

    /// When something happens next if nobody queues anything.
    pub fn next(&self) -> Nanos {
        let Some(current) = self.current.filter(|_| self.running) else { return Nanos::MAX };
        if self.switch_left > 0 {
            return self.now + self.switch_left;
        }
        let head = self.contexts[current].queue.front().map_or(0, |i| i.left);
        self.now + if self.ready > 1 { head.min(self.slice_left) } else { head }
    }

    /// Plays on to `to`, at most to [`Gpu::next`]. Gives a context that asked to be told.
    pub fn step(&mut self, to: Nanos) -> Option<usize> {
        let passed = to.min(self.next()) - self.now;
        let from = self.now;
        self.now = if self.running { from + passed } else { to };
        let current = self.current.filter(|_| self.running)?;
        if self.switch_left > 0 {
            self.switch_left -= passed;
            return None;
        }
        let context = &mut self.contexts[current];
        count(&mut context.busy, from, passed);
        self.slice_left = match self.slice_left.checked_sub(passed) {
            Some(left) => left,
            // Slices of a lone context follow each other.
            None => self.slicing.slice - (passed - self.slice_left) % self.slicing.slice,
        };
        let mut tell = None;
        if let Some(head) = context.queue.front_mut() {
            head.left -= passed;
            if head.left == 0 {
                if head.marker {
                    context.stamps.push_back(self.now);
                }
                context.queue.pop_front();
                context.done += 1;
                if context.tell_at == Some(context.done) {
                    context.tell_at = None;
                    tell = Some(current);
                }
            }
        }
        if context.queue.is_empty() {
            self.ready -= 1;
            self.choose();
        } else if self.slice_left == 0 {
            self.choose();
        }
        tell
    }

    /// Gives the next slice.
    fn choose(&mut self) {
        let count = self.contexts.len();
        let from = self.current.map_or(0, |c| c + 1);
        let next = (from..from + count).map(|c| c % count).find(|c| !self.contexts[*c].queue.is_empty());
        self.running = next.is_some();
        let Some(next) = next else { return };
        self.switch_left = if self.current == Some(next) { 0 } else { self.slicing.switch };
        self.slice_left = self.slicing.slice;
        self.current = Some(next);
    }
}

/// Adds a stretch of time to its windows.
fn count(windows: &mut Vec<Nanos>, mut from: Nanos, mut left: Nanos) {
    while left > 0 {
        let index = (from / WINDOW) as usize;
        if windows.len() <= index {
            windows.resize(index + 1, 0);
        }
        let part = left.min((index as Nanos + 1) * WINDOW - from);
        windows[index] += part;
        from += part;
        left -= part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(gpu: &mut Gpu, until: Nanos) {
        while gpu.next() <= until {
            gpu.step(until);
        }
        gpu.step(until);
    }

    #[test]
    fn contexts_take_turns_and_a_lone_one_runs_on() {
        let mut gpu = Gpu::new(Slicing { slice: 2 * MS, switch: 100 * US }, 2);
        gpu.launch(0, 5 * MS);
        let alone = gpu.record(0);
        play(&mut gpu, 10 * MS);
        assert_eq!(gpu.stamp(0, alone), Some(5 * MS + 100 * US + MARKER));
        gpu.launch(0, 3 * MS);
        gpu.launch(1, MS);
        let (first, second) = (gpu.record(0), gpu.record(1));
        play(&mut gpu, 20 * MS);
        // 2 ms of the first, a switch, 1 ms of the second and its marker, a switch, 1 ms of the first.
        assert_eq!(gpu.stamp(1, second), Some(13 * MS + 100 * US + MARKER));
        assert_eq!(gpu.stamp(0, first), Some(14 * MS + 200 * US + 2 * MARKER));
    }

    #[test]
    fn the_truth_is_in_windows() {
        let mut gpu = Gpu::new(Slicing { slice: 2 * MS, switch: 0 }, 1);
        gpu.launch(0, 25 * MS);
        play(&mut gpu, 40 * MS);
        assert_eq!(gpu.busy(0), [10 * MS, 10 * MS, 5 * MS]);
    }
}
