//! Time of a GPU: which kernel runs when.
//!
//! Nothing runs. A kernel is an interval on the GPU's timeline, and whoever looks at the file first brings it up to
//! date: items begin in order within their context, contexts take turns, and an item begins once the GPU is free and the
//! item was queued. A kernel that was begun runs to its end. Events take no time: an event's stamp is the end of the
//! item before it. Waiting for a kernel is sleeping until its end, so a busy GPU costs no CPU.
//!
//! The clock is an argument everywhere, so that another clock than the machine's can drive the same timeline.

use crate::layout::{EVENTS, Item, Layout, MAX_CONTEXTS, QUEUE, Stamp};

/// Length of a utilisation window, as NVML's sampling on data-centre GPUs.
const WINDOW: u64 = 1_000_000_000;

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Begins everything that begins up to `now`.
pub fn advance(file: &mut Layout, gpu: usize, now: u64) {
    loop {
        let mut best: Option<(u64, u32, usize)> = None;
        let last = file.gpus[gpu].last_context;
        for index in 0..MAX_CONTEXTS {
            let context = &mut file.contexts[index];
            if context.used == 0 || context.gpu as usize != gpu {
                continue;
            }
            pass_events(context);
            if context.begun == context.queued {
                continue;
            }
            let item = context.queue[context.begun as usize % QUEUE];
            let begins = item.queued_at.max(file.gpus[gpu].free_at).max(context.ends_at);
            // Turns go round: the context right behind the last one is first among those that could begin at once.
            let turn = (index as u32 + MAX_CONTEXTS as u32 - last - 1) % MAX_CONTEXTS as u32;
            if best.is_none_or(|(b, t, _)| (begins, turn) < (b, t)) {
                best = Some((begins, turn, index));
            }
        }
        let Some((begins, _, index)) = best.filter(|(begins, ..)| *begins <= now) else { break };
        let context = &mut file.contexts[index];
        let item = &mut context.queue[context.begun as usize % QUEUE];
        item.ends_at = begins.saturating_add(item.length);
        let (ends_at, length) = (item.ends_at, item.length);
        context.ends_at = ends_at;
        context.busy += length;
        context.begun += 1;
        pass_events(context);
        let record = &mut file.gpus[gpu];
        record.free_at = ends_at;
        record.busy += length;
        record.last_context = index as u32;
    }
    let done = busy(file, gpu, now);
    let record = &mut file.gpus[gpu];
    let passed = now.saturating_sub(record.window_start);
    if passed >= WINDOW {
        record.utilization = (done.saturating_sub(record.window_busy) * 100 / passed).min(100) as u32;
        record.window_start = now;
        record.window_busy = done;
    }
}

/// Stamps the events at the head of a queue: they end where the item before them ends, or when they were queued.
fn pass_events(context: &mut crate::layout::ContextRecord) {
    while context.begun < context.queued {
        let number = context.begun;
        let item = &mut context.queue[number as usize % QUEUE];
        if item.stamp == 0 {
            return;
        }
        item.ends_at = item.queued_at.max(context.ends_at);
        context.stamps[(item.stamp as usize - 1) % EVENTS] =
            Stamp { sequence: number + 1, time: item.ends_at };
        context.begun += 1;
    }
}

/// Time the GPU was busy up to `now`.
pub fn busy(file: &Layout, gpu: usize, now: u64) -> u64 {
    let record = &file.gpus[gpu];
    record.busy - record.free_at.saturating_sub(now).min(record.busy)
}

/// Queues an item; gives its number, or when to try again if the queue is full.
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
    let context = &mut file.contexts[context];
    if context.queued - context.begun >= QUEUE as u64 {
        return Err(free_at.max(now + 1_000));
    }
    let number = context.queued;
    let stamp = stamp.map_or(0, |s| s + 1);
    context.queue[number as usize % QUEUE] = Item { queued_at: now, length, ends_at: 0, stamp, pad: 0 };
    // Counted last: a process that dies before this line has queued nothing.
    context.queued = number + 1;
    advance(file, gpu, now);
    Ok(number)
}

/// `Ok` once everything a context queued has ended, else the earliest moment to ask again.
pub fn idle(file: &mut Layout, context: usize, now: u64) -> Result<(), u64> {
    let gpu = file.contexts[context].gpu as usize;
    advance(file, gpu, now);
    let record = &file.contexts[context];
    if record.begun == record.queued && record.ends_at <= now {
        return Ok(());
    }
    let turn = if record.begun == record.queued { record.ends_at } else { file.gpus[gpu].free_at };
    Err(turn.max(now + 1_000))
}

/// When an event was reached, or the earliest moment to ask again. `sequence` is what [`queue`] gave, plus one.
pub fn stamped(file: &mut Layout, context: usize, stamp: u32, sequence: u64, now: u64) -> Result<u64, u64> {
    let gpu = file.contexts[context].gpu as usize;
    advance(file, gpu, now);
    let found = file.contexts[context].stamps[stamp as usize % EVENTS];
    match found.sequence >= sequence {
        true if found.time <= now => Ok(found.time),
        true => Err(found.time),
        false => Err(file.gpus[gpu].free_at.max(now + 1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with contexts on GPU 0, one per entry.
    fn file(contexts: usize) -> Box<Layout> {
        // SAFETY: Layout is plain integers, for which all zeroes is a value.
        let mut file: Box<Layout> = unsafe { Box::<Layout>::new_zeroed().assume_init() };
        file.header.gpus = 1;
        file.contexts.iter_mut().take(contexts).for_each(|c| c.used = 1);
        file
    }

    #[test]
    fn kernels_of_one_context_run_one_after_another() {
        let mut f = file(1);
        queue(&mut f, 0, 100, None, 1_000).unwrap();
        queue(&mut f, 0, 50, None, 1_000).unwrap();
        assert_eq!(idle(&mut f, 0, 1_149), Err(2_149));
        assert_eq!(idle(&mut f, 0, 1_150), Ok(()));
        assert_eq!(busy(&f, 0, 1_150), 150);
    }

    #[test]
    fn contexts_take_turns_kernel_by_kernel() {
        let mut f = file(2);
        for _ in 0..3 {
            queue(&mut f, 0, 100, None, 0).unwrap();
        }
        queue(&mut f, 1, 100, None, 0).unwrap();
        // Context 0 began first; context 1 comes second, not fourth.
        assert_eq!(idle(&mut f, 1, 200), Ok(()));
        assert!(idle(&mut f, 0, 200).is_err());
    }

    #[test]
    fn a_gpu_that_waited_is_not_busy() {
        let mut f = file(1);
        queue(&mut f, 0, 100, None, 0).unwrap();
        queue(&mut f, 0, 100, None, 1_000).unwrap();
        assert_eq!(idle(&mut f, 0, 1_100), Ok(()));
        assert_eq!(busy(&f, 0, 1_100), 200);
    }

    #[test]
    fn a_kernel_under_way_counts_as_far_as_it_got() {
        let mut f = file(1);
        queue(&mut f, 0, 1_000, None, 0).unwrap();
        assert_eq!(busy(&f, 0, 300), 300);
    }

    #[test]
    fn an_event_is_stamped_with_the_end_of_what_is_before_it() {
        let mut f = file(1);
        queue(&mut f, 0, 0, Some(0), 10).unwrap();
        queue(&mut f, 0, 500, None, 20).unwrap();
        let number = queue(&mut f, 0, 0, Some(1), 30).unwrap();
        assert_eq!(stamped(&mut f, 0, 0, 1, 30), Ok(10));
        assert_eq!(stamped(&mut f, 0, 1, number + 1, 30), Err(520));
        assert_eq!(stamped(&mut f, 0, 1, number + 1, 520), Ok(520));
    }

    #[test]
    fn a_full_queue_says_when_to_try_again() {
        let mut f = file(1);
        for _ in 0..=QUEUE {
            queue(&mut f, 0, 10_000, None, 0).unwrap();
        }
        assert_eq!(queue(&mut f, 0, 10_000, None, 0), Err(10_000));
        assert!(queue(&mut f, 0, 10_000, None, 10_000).is_ok());
    }

    #[test]
    fn utilisation_is_of_the_last_whole_window() {
        let mut f = file(1);
        advance(&mut f, 0, WINDOW);
        queue(&mut f, 0, WINDOW / 4, None, WINDOW).unwrap();
        advance(&mut f, 0, 2 * WINDOW);
        assert_eq!(f.gpus[0].utilization, 25);
    }
}
