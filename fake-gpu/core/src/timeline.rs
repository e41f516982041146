//! Time of a GPU: which kernel runs when.
//!
//! Nothing runs. A kernel is an interval on the GPU's timeline, and whoever looks at the file first brings it up to
//! date: items begin in order within their context, contexts take turns kernel by kernel, and an item begins once the
//! GPU is free and the item was queued. A kernel that was begun runs to its end. Waiting for a kernel is sleeping until
//! its end, so a busy GPU costs no CPU.
//!
//! An event is an item of no length: it waits for its context's turn like a kernel, is stamped with the GPU's time then,
//! and uses the turn up only if a kernel follows. So a pair of events around a kernel holds what the neighbours ran in
//! between, as on a GPU that is shared by time slices. A lone event is stamped when the kernel under way ends.
//!
//! When a process dies its queue is dropped and its kernel under way is cut off, at the moment another process notices:
//! until then the GPU works on. Waiting processes look every 20 ms.
//!
//! A process that is killed while it begins an item leaves that item begun once or, at worst, counted twice.
//!
//! The clock is an argument everywhere ([`crate::clock`]).

use crate::layout::{EVENTS, Item, Layout, MAX_CONTEXTS, QUEUE, Stamp};

#[cfg(test)]
mod tests;

/// Who is next.
struct Turn {
    context: usize,
    begins: u64,
}

/// Begins everything that begins up to `now`.
pub fn advance(file: &mut Layout, gpu: usize, now: u64) {
    while let Some(turn) = next(file, gpu).filter(|turn| turn.begins <= now) {
        begin(file, gpu, &turn);
    }
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

fn next(file: &Layout, gpu: usize) -> Option<Turn> {
    let (last, free_at) = (file.gpus[gpu].last_context as usize, file.gpus[gpu].free_at);
    let candidate = |index: usize| {
        let context = &file.contexts[index];
        let item = (context.begun != context.queued).then(|| &file.queues[index][slot(context.begun)])?;
        let begins = item.queued_at.max(free_at);
        // The context behind the last one is first of those that could begin at once. The last one comes at the end of
        // the round, but for its events: nobody has taken the GPU from it yet.
        let distance = (index + MAX_CONTEXTS - last - 1) % MAX_CONTEXTS + 1;
        let rank = if item.stamp != 0 && index == last { 0 } else { distance };
        Some(((begins, rank), Turn { context: index, begins }))
    };
    contexts(file, gpu).filter_map(candidate).min_by_key(|(key, _)| *key).map(|(_, turn)| turn)
}

fn slot(number: u64) -> usize {
    number as usize % QUEUE
}

fn begin(file: &mut Layout, gpu: usize, turn: &Turn) {
    let (index, begins) = (turn.context, turn.begins);
    let context = &mut file.contexts[index];
    let number = context.begun;
    let Item { length, stamp, .. } = file.queues[index][slot(number)];
    context.ends_at = begins.saturating_add(length);
    if stamp == 0 {
        let ends_at = context.ends_at;
        context.busy += length;
        context.samples.begin(begins, ends_at);
        if let Some(process) = file.slots.get_mut(context.slot as usize) {
            process.busy[gpu] += length;
        }
        let record = &mut file.gpus[gpu];
        record.free_at = ends_at;
        record.busy += length;
        record.last_context = index as u32;
        record.samples.begin(begins, ends_at);
    } else {
        file.stamps[index][(stamp as usize - 1) % EVENTS] = Stamp { sequence: number + 1, time: begins };
    }
    // Last: a process that dies before this line leaves the item to the next one.
    file.contexts[index].begun = number + 1;
}

/// Time left to the kernel under way.
fn remainder(file: &Layout, gpu: usize, now: u64) -> u64 {
    file.gpus[gpu].free_at.saturating_sub(now)
}

/// Time the GPU was busy up to `now`.
pub fn busy(file: &Layout, gpu: usize, now: u64) -> u64 {
    file.gpus[gpu].busy.saturating_sub(remainder(file, gpu, now))
}

/// Time of it that kernels of one process took.
pub fn busy_of(file: &Layout, gpu: usize, process: usize, now: u64) -> u64 {
    let under_way = file.contexts.get(file.gpus[gpu].last_context as usize);
    let is_its =
        under_way.is_some_and(|c| c.used != 0 && c.slot as usize == process && c.gpu as usize == gpu);
    let left = if is_its { remainder(file, gpu, now) } else { 0 };
    file.slots[process].busy[gpu].saturating_sub(left)
}

/// Queues an item; gives its number, or when to try again if the queue is full.
///
/// # Errors
/// The moment room may be there.
pub fn queue(
    file: &mut Layout,
    context: usize,
    length: u64,
    stamp: Option<u32>,
    now: u64,
) -> Result<u64, u64> {
    let gpu = file.contexts[context].gpu as usize;
    advance(file, gpu, now);
    let free_at = file.gpus[gpu].free_at;
    let number = file.contexts[context].queued;
    if number - file.contexts[context].begun >= QUEUE as u64 {
        return Err(free_at.max(now + 1_000));
    }
    let stamp = stamp.map_or(0, |s| s + 1);
    file.queues[context][slot(number)] = Item { queued_at: now, length, stamp, pad: 0 };
    // Counted last: a process that dies before this line has queued nothing.
    file.contexts[context].queued = number + 1;
    advance(file, gpu, now);
    Ok(number)
}

/// Earliest moment at which the items of a context before `until` have ended, given that nobody else has a turn.
fn earliest(file: &Layout, context: usize, until: u64, now: u64) -> u64 {
    let record = &file.contexts[context];
    let pending: u64 =
        (record.begun..until.min(record.queued)).map(|n| file.queues[context][slot(n)].length).sum();
    let begins = if record.begun < until { file.gpus[record.gpu as usize].free_at } else { record.ends_at };
    begins.saturating_add(pending).max(now + 1_000)
}

/// `Ok` once everything a context queued has ended.
///
/// # Errors
/// The earliest moment to ask again.
pub fn idle(file: &mut Layout, context: usize, now: u64) -> Result<(), u64> {
    advance(file, file.contexts[context].gpu as usize, now);
    let record = &file.contexts[context];
    if record.begun == record.queued && record.ends_at <= now {
        return Ok(());
    }
    Err(earliest(file, context, record.queued, now))
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
    (context.ends_at, context.busy) = (0, 0);
    (context.samples.open_from, context.samples.open_until) = (0, 0);
    context.samples.ring.iter_mut().for_each(|s| (s.number, s.busy) = (0, 0));
    context.used = 1;
    file.gpus[gpu].contexts[index / 64] |= 1 << (index % 64);
}

/// Drops a context: what it queued does not run, its kernel under way ends now.
pub fn end_context(file: &mut Layout, index: usize, now: u64) {
    let gpu = file.contexts[index].gpu as usize;
    advance(file, gpu, now);
    let left = remainder(file, gpu, now);
    if file.gpus[gpu].last_context as usize == index && left > 0 {
        let record = &mut file.gpus[gpu];
        record.free_at = now;
        record.busy = record.busy.saturating_sub(left);
        record.samples.cut(now);
        if let Some(process) = file.slots.get_mut(file.contexts[index].slot as usize) {
            process.busy[gpu] = process.busy[gpu].saturating_sub(left);
        }
    }
    file.gpus[gpu].contexts[index / 64] &= !(1 << (index % 64));
    file.contexts[index].used = 0;
}
