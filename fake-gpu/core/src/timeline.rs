//! Time of a GPU that is shared by time slices: which kernel runs when.
//!
//! Nothing runs. A kernel is a length on the GPU's timeline, and whoever looks at the file first plays the timeline up to
//! now ([`advance`]). The rules:
//!
//! * Items of one context run in order. Contexts with work take turns, each for a slice; changing the context costs.
//! * At the end of a slice the kernel under way is stopped and goes on in its context's next turn, unless kernels cannot
//!   be stopped. A lone context runs on, and its slices follow each other.
//! * A context without work gives way at once, or keeps the rest of its slice: that is set.
//! * An event is an item like a kernel. It waits for its context's turn, and is stamped with the GPU's time: so a pair of
//!   events around a kernel holds what the neighbours ran in between, and a lone event waits for their slice to end.
//! * A copy at the head of a queue takes its time whoever has the GPU; the context's later items wait for it.
//!
//! Everything else is bookkeeping: busy time is time in which a kernel ran, changes of context are counted apart.
//!
//! A step is written down before it is done ([`Step`]), so a process that is killed in the middle of one leaves it to the
//! next that looks. The clock is an argument everywhere.

use std::sync::atomic::{Ordering, compiler_fence};

use crate::layout::{COPY, EVENTS, Item, KERNEL, Layout, MAX_CONTEXTS, QUEUE, Scheduler, Stamp, Step};
use crate::samples;

#[cfg(test)]
mod tests;

/// Plays the timeline up to `now`.
pub fn advance(file: &mut Layout, gpu: usize, now: u64) {
    if file.gpus[gpu].step.valid != 0 {
        apply(file, gpu);
    }
    while play(file, gpu, now) {}
}

/// Contexts of a GPU, by index.
pub fn contexts(file: &Layout, gpu: usize) -> impl Iterator<Item = usize> + use<> {
    let words = file.gpus[gpu].contexts;
    let bits = move |(word, mut bits): (usize, u64)| {
        std::iter::from_fn(move || {
            let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(word * 64 + bit)
        })
    };
    words.into_iter().enumerate().flat_map(bits)
}

fn place(number: u64) -> usize {
    number as usize % QUEUE
}

/// First item of a context that has not ended.
fn head(file: &Layout, context: usize) -> Option<&Item> {
    let record = &file.contexts[context];
    (record.begun != record.queued).then(|| &file.queues[context][place(record.begun)])
}

/// Whether a context has work for the GPU itself.
fn is_ready(file: &Layout, context: usize) -> bool {
    head(file, context).is_some_and(|item| item.kind == KERNEL)
}

/// The context whose turn comes after `current`'s, `current` itself left out.
fn next(file: &Layout, gpu: usize, current: Option<usize>) -> Option<usize> {
    let behind = current.map_or(0, |c| c + 1);
    let candidates = contexts(file, gpu).filter(|c| Some(*c) != current && is_ready(file, *c));
    candidates.min_by_key(|c| (c + MAX_CONTEXTS - behind) % MAX_CONTEXTS)
}

/// One step; false once the timeline has been played up to `now`.
fn play(file: &mut Layout, gpu: usize, now: u64) -> bool {
    let scheduler = file.gpus[gpu].scheduler;
    let Some(horizon) = copies(file, gpu, now) else { return true };
    let left = horizon.saturating_sub(scheduler.at);
    if scheduler.switch_left > 0 {
        let passed = left.min(scheduler.switch_left);
        let (at, switch_left) = (scheduler.at + passed, scheduler.switch_left - passed);
        let switching = scheduler.switching + passed;
        write(file, gpu, Scheduler { at, switch_left, switching, ..scheduler }, None);
        return passed > 0;
    }
    let current = (scheduler.current as usize).checked_sub(1);
    let other = next(file, gpu, current);
    match (current.filter(|c| is_ready(file, *c)), other) {
        (Some(context), other) => run(file, gpu, context, other, left),
        (None, Some(other)) => {
            let keeps = current.is_some() && file.header.timing.gives_way == 0;
            let kept = if keeps { scheduler.slice_end.saturating_sub(scheduler.at) } else { 0 };
            match kept {
                0 => change(file, gpu, other),
                kept => wait(file, gpu, left.min(kept), scheduler.slice_end),
            }
        }
        (None, None) => wait(file, gpu, left, 0),
    }
}

/// The GPU does nothing for so long.
fn wait(file: &mut Layout, gpu: usize, time: u64, slice_end: u64) -> bool {
    let scheduler = file.gpus[gpu].scheduler;
    let at = scheduler.at + time;
    if time > 0 || scheduler.slice_end != slice_end {
        write(file, gpu, Scheduler { at, slice_end, ..scheduler }, None);
    }
    time > 0
}

/// Begins the turn of another context.
fn change(file: &mut Layout, gpu: usize, to: usize) -> bool {
    let scheduler = file.gpus[gpu].scheduler;
    // What ran last may be gone; then there is nothing to save.
    let switch_left = if scheduler.current == 0 { 0 } else { file.header.timing.switch };
    let slice_end = scheduler.at.saturating_add(switch_left).saturating_add(file.header.timing.slice);
    write(file, gpu, Scheduler { current: to as u32 + 1, switch_left, slice_end, ..scheduler }, None);
    true
}

/// Runs the current context, which has work, for at most `left`.
fn run(file: &mut Layout, gpu: usize, context: usize, other: Option<usize>, left: u64) -> bool {
    let timing = file.header.timing;
    let mut scheduler = file.gpus[gpu].scheduler;
    if scheduler.slice_end == 0 {
        scheduler.slice_end = scheduler.at.saturating_add(timing.slice);
    }
    let Some(Item { length, stamp, .. }) = head(file, context).copied() else { return false };
    let record = &file.contexts[context];
    let (begun, done, slot) = (record.begun, record.done, record.slot as usize);
    let may_stop = timing.preemptible != 0 || done == 0;
    if let Some(other) = other
        && may_stop
        && scheduler.at >= scheduler.slice_end
    {
        return change(file, gpu, other);
    }
    let slice = match other {
        Some(_) if timing.preemptible != 0 => scheduler.slice_end - scheduler.at,
        _ => u64::MAX,
    };
    let remaining = length - done;
    let time = remaining.min(left).min(slice);
    if time == 0 && remaining > 0 {
        return false;
    }
    let from = scheduler.at;
    scheduler.at += time;
    scheduler.busy += time;
    if other.is_none() && scheduler.at >= scheduler.slice_end {
        // Slices of a lone context follow each other.
        let over = scheduler.at - scheduler.slice_end;
        let slices = over / timing.slice.max(1) + 1;
        scheduler.slice_end = scheduler.slice_end.saturating_add(slices.saturating_mul(timing.slice.max(1)));
    }
    samples::add(&mut file.gpus[gpu].samples, from, scheduler.at);
    samples::add(&mut file.contexts[context].samples, from, scheduler.at);
    let busy = file.slots[slot].busy[gpu] + time;
    let step = match time == remaining {
        true => Change { context, begun: begun + 1, done: 0, busy, stamp },
        false => Change { context, begun, done: done + time, busy, stamp: 0 },
    };
    write(file, gpu, scheduler, Some(step));
    true
}

/// Ends copies that end now and begins those that begin now. Gives the moment up to which nothing of that happens, or
/// `None` if something has.
fn copies(file: &mut Layout, gpu: usize, now: u64) -> Option<u64> {
    let at = file.gpus[gpu].scheduler.at;
    let mut horizon = now;
    for context in contexts(file, gpu) {
        let Some(Item { length, stamp, kind: COPY }) = head(file, context).copied() else { continue };
        match file.contexts[context].copy_until {
            0 => file.contexts[context].copy_until = at.saturating_add(length).max(1),
            until if until <= at => {
                let record = &mut file.contexts[context];
                record.copy_until = 0;
                let (begun, busy) = (record.begun + 1, file.slots[record.slot as usize].busy[gpu]);
                let scheduler = file.gpus[gpu].scheduler;
                write(file, gpu, scheduler, Some(Change { context, begun, done: 0, busy, stamp }));
                return None;
            }
            _ => {}
        }
        horizon = horizon.min(file.contexts[context].copy_until);
    }
    Some(horizon)
}

/// What a step changes beside the GPU.
struct Change {
    context: usize,
    begun: u64,
    done: u64,
    busy: u64,
    stamp: u32,
}

/// Writes a step down and does it.
fn write(file: &mut Layout, gpu: usize, scheduler: Scheduler, change: Option<Change>) {
    let step = &mut file.gpus[gpu].step;
    step.scheduler = scheduler;
    step.context = 0;
    if let Some(change) = change {
        step.context = change.context as u32 + 1;
        (step.begun, step.done, step.busy, step.stamp) =
            (change.begun, change.done, change.busy, change.stamp);
    }
    compiler_fence(Ordering::SeqCst);
    step.valid = 1;
    apply(file, gpu);
}

/// Does the step that is written down. Doing it twice is doing it once.
fn apply(file: &mut Layout, gpu: usize) {
    compiler_fence(Ordering::SeqCst);
    let Step { context, scheduler, begun, done, busy, stamp, .. } = file.gpus[gpu].step;
    file.gpus[gpu].scheduler = scheduler;
    if let Some(index) = (context as usize).checked_sub(1).filter(|index| *index < MAX_CONTEXTS) {
        let record = &mut file.contexts[index];
        (record.begun, record.done) = (begun, done);
        if let Some(slot) = file.slots.get_mut(record.slot as usize) {
            slot.busy[gpu] = busy;
        }
        if stamp != 0 {
            // The item is the one before the first that has not ended.
            file.stamps[index][(stamp as usize - 1) % EVENTS] = Stamp { sequence: begun, time: scheduler.at };
        }
    }
    compiler_fence(Ordering::SeqCst);
    file.gpus[gpu].step.valid = 0;
}

/// Queues an item; gives its number, or when to try again if the queue is full.
///
/// # Errors
/// The moment room may be there.
pub fn queue(file: &mut Layout, context: usize, item: Item, now: u64) -> Result<u64, u64> {
    advance(file, file.contexts[context].gpu as usize, now);
    let (begun, number) = (file.contexts[context].begun, file.contexts[context].queued);
    if number - begun >= u64::from(file.header.timing.queue).clamp(1, QUEUE as u64) {
        return Err(earliest(file, context, begun + 1, now));
    }
    file.queues[context][place(number)] = item;
    compiler_fence(Ordering::SeqCst);
    // Counted last: a process that dies before this line has queued nothing.
    file.contexts[context].queued = number + 1;
    // What takes no time and has its turn is over at once.
    advance(file, file.contexts[context].gpu as usize, now);
    Ok(number)
}

/// A moment before which the items of a context up to number `until` cannot have ended, whatever others queue.
fn earliest(file: &Layout, context: usize, until: u64, now: u64) -> u64 {
    let record = &file.contexts[context];
    let lengths = |context: usize, until: u64| -> u64 {
        let record = &file.contexts[context];
        let items = record.begun..until.min(record.queued);
        items.map(|n| file.queues[context][place(n)].length).fold(0, u64::saturating_add)
    };
    let copied = match record.copy_until {
        0 => record.done,
        copy_until => {
            let length = head(file, context).map_or(0, |item| item.length);
            length.saturating_sub(copy_until.saturating_sub(now))
        }
    };
    let own = lengths(context, until).saturating_sub(copied);
    let scheduler = &file.gpus[record.gpu as usize].scheduler;
    let ahead = match (scheduler.current as usize).checked_sub(1) {
        _ if !is_ready(file, context) => 0,
        Some(current) if current == context => scheduler.switch_left,
        // It has its turn, at most until it has no kernels.
        Some(current) => {
            let record = &file.contexts[current];
            let items = (record.begun..record.queued).map(|n| &file.queues[current][place(n)]);
            let kernels = items.take_while(|item| item.kind == KERNEL).map(|item| item.length);
            let work = kernels.fold(0, u64::saturating_add).saturating_sub(record.done);
            let slice = scheduler.slice_end.saturating_sub(scheduler.at);
            if work == 0 { 0 } else { work.min(slice).saturating_add(file.header.timing.switch) }
        }
        None => 0,
    };
    now.saturating_add(own).saturating_add(ahead).max(now + 1)
}

/// `Ok` once everything a context queued has ended.
///
/// # Errors
/// The earliest moment to ask again.
pub fn idle(file: &mut Layout, context: usize, now: u64) -> Result<(), u64> {
    advance(file, file.contexts[context].gpu as usize, now);
    let record = &file.contexts[context];
    if record.begun == record.queued { Ok(()) } else { Err(earliest(file, context, record.queued, now)) }
}

/// When an event was reached. `sequence` is what [`queue`] gave, plus one.
///
/// # Errors
/// The earliest moment to ask again.
pub fn stamped(file: &mut Layout, context: usize, stamp: u32, sequence: u64, now: u64) -> Result<u64, u64> {
    advance(file, file.contexts[context].gpu as usize, now);
    let found = file.stamps[context][stamp as usize % EVENTS];
    if found.sequence >= sequence { Ok(found.time) } else { Err(earliest(file, context, sequence, now)) }
}

/// Makes a context of a free record.
pub fn begin_context(file: &mut Layout, index: usize, slot: usize, gpu: usize) {
    let context = &mut file.contexts[index];
    (context.slot, context.gpu) = (slot as u32, gpu as u32);
    // The count goes on from the context that was here before, so its events cannot be taken for new ones.
    context.begun = context.queued;
    (context.done, context.copy_until) = (0, 0);
    context.samples.iter_mut().for_each(|s| (s.number, s.busy) = (0, 0));
    context.used = 1;
    file.gpus[gpu].contexts[index / 64] |= 1 << (index % 64);
}

/// Drops a context: what it queued does not run, its kernel under way ends now.
pub fn end_context(file: &mut Layout, index: usize, now: u64) {
    let gpu = file.contexts[index].gpu as usize;
    advance(file, gpu, now);
    file.gpus[gpu].contexts[index / 64] &= !(1 << (index % 64));
    file.contexts[index].used = 0;
    let scheduler = file.gpus[gpu].scheduler;
    if scheduler.current as usize == index + 1 {
        write(file, gpu, Scheduler { current: 0, switch_left: 0, slice_end: 0, ..scheduler }, None);
    }
}
