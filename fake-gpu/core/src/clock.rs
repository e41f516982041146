//! What time it is, and how waiting passes.
//!
//! **Real time** is the machine's monotonic clock.
//!
//! **Virtual time** is kept in the file. It moves only when every attached thread waits, and then to the moment the first
//! of them waits for. Of the attached threads of all processes one runs at a time; whoever waits hands over to the thread
//! that is due first, and among those due at once to the one of lowest rank (`FAKE_GPU_RANK` in a process's environment,
//! else that it came earlier). So an experiment gives the same result every time, however busy the machine is, and takes
//! no longer than its threads compute.
//!
//! A thread attaches with its first wait or GPU call, and leaves when it ends, or for a while with [`Gpus::away`]: a
//! thread that blocks on something the file knows nothing of (another thread, a pipe) would stop the time. A thread whose
//! process was killed is noticed within [`PATIENCE`]. Several libraries of a process may each have this code: a thread is
//! one for all of them, known by its id.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

use crate::layout::{Layout, MAX_THREADS, THREAD_LOCKS, VIRTUAL};
use crate::shared::Opening;
use crate::{Gpus, Locked, lock};

/// Another process may end at any moment, and with it what this one waits behind: no sleep in real time is longer.
const LONGEST_SLEEP: u64 = 20_000_000;

/// How soon the death of the thread that runs is noticed.
pub const PATIENCE: Duration = Duration::from_millis(10);

/// [`crate::layout::ThreadRecord::state`].
const WAITS: u32 = 1;
const AWAY: u32 = 2;

/// Nanoseconds of the machine's monotonic clock.
pub fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// This thread's part in the time of one file.
struct Attachment {
    opening: Weak<Opening>,
    id: (u64, u64),
    index: usize,
    number: u64,
    /// A forked child must not take its parent's for its own.
    process: u32,
    /// Whether it was made here; another library of the process may have been first.
    is_own: bool,
}

thread_local! {
    static ATTACHED: RefCell<Vec<Attachment>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let opening = self.opening.upgrade().filter(|_| self.is_own && self.process == std::process::id());
        let Some(opening) = opening else { return };
        let mut locked = opening.lock();
        if locked.threads[self.index].number == self.number {
            release(&mut locked, self.index);
            lock::give(&opening.file, THREAD_LOCKS + self.index as i64);
        }
    }
}

fn release(file: &mut Layout, index: usize) {
    file.threads[index].used = 0;
    if file.header.clock.running as usize == index + 1 {
        file.header.clock.running = 0;
    }
    hand_over(file);
}

/// Lets the thread that is due first run, if none does. Time moves to the moment it waits for.
fn hand_over(file: &mut Layout) {
    let clock = &file.header.clock;
    if clock.running != 0 || clock.joined < file.header.timing.participants {
        return;
    }
    let waiting =
        (0..threads(file)).filter(|i| file.threads[*i].used != 0 && file.threads[*i].state == WAITS);
    let first = waiting.min_by_key(|i| {
        let thread = &file.threads[*i];
        (thread.wake_at.max(file.header.clock.now), thread.rank, thread.number)
    });
    let Some(index) = first else { return };
    let thread = &mut file.threads[index];
    thread.state = 0;
    file.header.clock.now = file.header.clock.now.max(thread.wake_at);
    file.header.clock.running = index as u32 + 1;
    thread.word = thread.word.wrapping_add(1);
    // SAFETY: an aligned word of the mapping, which outlives this call.
    let word = unsafe { AtomicU32::from_ptr(&raw mut thread.word) };
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// Lets the thread that runs go on at a later moment, if nobody else is due before.
fn run_on(file: &mut Layout, index: usize, until: u64) -> bool {
    let is_due = |i: usize| {
        let thread = &file.threads[i];
        thread.used != 0 && i != index && thread.state == WAITS && thread.wake_at <= until
    };
    if file.header.clock.running as usize != index + 1 || (0..threads(file)).any(is_due) {
        return false;
    }
    file.header.clock.now = until;
    true
}

/// This thread's id, and the inode number of the pid namespace that is in.
fn identity() -> (u64, u64) {
    static NAMESPACE: OnceLock<u64> = OnceLock::new();
    let inode = || std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
    (rustix::thread::gettid().as_raw_nonzero().get() as u64, *NAMESPACE.get_or_init(inode))
}

fn threads(file: &Layout) -> usize {
    (file.header.threads as usize).min(MAX_THREADS)
}

/// Whoever waits looks again: something has ended before its time.
pub(crate) fn hurry(file: &mut Layout) {
    let now = file.header.clock.now;
    for index in 0..threads(file) {
        let thread = &mut file.threads[index];
        if thread.used != 0 && thread.state == WAITS {
            thread.wake_at = thread.wake_at.min(now);
        }
    }
}

/// Frees the records of threads whose process is gone.
fn reap_threads(locked: &mut Locked<'_>, opening: &Opening) {
    for index in 0..threads(locked) {
        if locked.threads[index].used != 0 && !lock::is_held(&opening.probe, THREAD_LOCKS + index as i64) {
            release(locked, index);
        }
    }
}

impl Gpus {
    /// Now.
    pub fn now(&self) -> u64 {
        match self.timing().mode {
            VIRTUAL => self.lock().now(),
            _ => monotonic(),
        }
    }

    /// Returns at that moment or earlier; the caller looks again.
    pub fn sleep_until(&self, moment: u64) {
        if self.timing().mode == VIRTUAL {
            return self.wait(WAITS, moment);
        }
        let left = moment.saturating_sub(monotonic()).clamp(1_000, LONGEST_SLEEP);
        std::thread::sleep(Duration::from_nanos(left));
    }

    /// Waits until something holds, or until that moment: false if it came first. What makes it hold calls
    /// [`Gpus::notify`]; in real time it is also looked at again within milliseconds.
    pub fn wait_until(&self, moment: u64, mut holds: impl FnMut() -> bool) -> bool {
        loop {
            if holds() {
                return true;
            }
            if self.now() >= moment {
                return false;
            }
            self.sleep_until(moment);
        }
    }

    /// Whoever sleeps in virtual time looks again, now.
    pub fn notify(&self) {
        if self.timing().mode == VIRTUAL {
            hurry(&mut self.lock());
        }
    }

    /// In virtual time, what a call costs its thread; in real time a call costs what it costs.
    pub fn spend(&self, nanos: u64) {
        if self.timing().mode == VIRTUAL && nanos > 0 {
            let Some(until) = self.spend_at_once(nanos) else { return };
            self.wait(WAITS, until);
        }
    }

    /// Moves the time on if nobody else is due before then; gives the moment to wait for otherwise.
    fn spend_at_once(&self, nanos: u64) -> Option<u64> {
        let index = self.attach();
        let mut locked = self.lock();
        let until = locked.header.clock.now + nanos;
        (!run_on(&mut locked, index, until)).then_some(until)
    }

    /// Now, after what looking costs a thread that takes part.
    pub fn look(&self, nanos: u64) -> u64 {
        if self.timing().mode != VIRTUAL {
            return monotonic();
        }
        let mut locked = self.lock();
        let (now, found) = (locked.header.clock.now, self.find(&locked));
        match found {
            None => now,
            Some((index, _)) if run_on(&mut locked, index, now + nanos) => now + nanos,
            Some(_) => {
                drop(locked);
                self.wait(WAITS, now + nanos);
                self.now()
            }
        }
    }

    /// Does something this clock knows nothing of, while time goes on for the others.
    pub fn away<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.timing().mode != VIRTUAL {
            return work();
        }
        self.leave();
        let done = work();
        self.wait(WAITS, 0);
        done
    }

    /// Lets time go on without this thread until its next wait.
    pub fn leave(&self) {
        if self.timing().mode != VIRTUAL {
            return;
        }
        let index = self.attach();
        let mut locked = self.lock();
        locked.threads[index].state = AWAY;
        if locked.header.clock.running as usize == index + 1 {
            locked.header.clock.running = 0;
        }
        hand_over(&mut locked);
    }

    /// In virtual time, takes part from now on: returns when it is this thread's turn.
    pub fn join(&self) {
        if self.timing().mode == VIRTUAL {
            self.attach();
        }
    }

    /// As [`Gpus::join`], by a process that is one of those virtual time waits for before it begins.
    pub(crate) fn join_as_process(&self) {
        if self.timing().mode == VIRTUAL {
            self.attach_as(true);
        }
    }

    /// Whether this thread takes part in virtual time.
    pub fn takes_part(&self) -> bool {
        self.timing().mode == VIRTUAL && self.find(&self.lock()).is_some()
    }

    /// Whether this thread has handed over and waits to run on: then it is inside of the driver.
    pub fn waits_for_turn(&self) -> bool {
        if self.timing().mode != VIRTUAL {
            return false;
        }
        let locked = self.lock();
        self.find(&locked).is_some_and(|(index, _)| locked.threads[index].state == WAITS)
    }

    /// This thread's record, and whether it was found by its id.
    fn find(&self, file: &Layout) -> Option<(usize, bool)> {
        let (id, process) = (self.opening.id, std::process::id());
        let is_live =
            |index: usize, number: u64| file.threads[index].used != 0 && file.threads[index].number == number;
        let known = ATTACHED.try_with(|attached| {
            let attached = attached.borrow();
            let known = attached.iter().find(|a| a.id == id && a.process == process);
            known.filter(|a| is_live(a.index, a.number)).map(|a| a.index)
        });
        if let Ok(Some(index)) = known {
            return Some((index, false));
        }
        let (thread, namespace) = identity();
        let is_it = |i: &usize| {
            let record = &file.threads[*i];
            let is_same = record.used != 0 && record.thread == thread && record.namespace == namespace;
            is_same && lock::is_held(&self.opening.probe, THREAD_LOCKS + *i as i64)
        };
        (0..threads(file)).find(is_it).map(|index| (index, true))
    }

    /// Keeps a record at hand.
    fn remember(&self, index: usize, number: u64, is_own: bool) {
        let (id, opening, process) = (self.opening.id, Arc::downgrade(&self.opening), std::process::id());
        let attachment = Attachment { opening, id, index, number, process, is_own };
        // At a thread's very end it takes part without leaving: its record goes with its process.
        let old = ATTACHED.try_with(|attached| {
            let mut attached = attached.borrow_mut();
            let old = attached.iter().position(|a| a.id == id).map(|at| attached.swap_remove(at));
            attached.push(attachment);
            old
        });
        drop(old);
    }

    /// This thread's record, made and waited for if need be.
    fn attach(&self) -> usize {
        self.attach_as(false)
    }

    /// A participant is counted under the same lock that makes its thread's record: counted earlier, time would begin for
    /// the others while it is not there yet, for as long as the machine keeps it from its next step.
    fn attach_as(&self, participant: bool) -> usize {
        let opening = &self.opening;
        let mut locked = self.lock();
        if let Some((index, is_new)) = self.find(&locked) {
            let number = locked.threads[index].number;
            locked.header.clock.joined += u32::from(participant);
            if locked.header.clock.running as usize != index + 1 && locked.threads[index].state == 0 {
                // Its turn went with another opening of it.
                locked.threads[index].state = WAITS;
            }
            drop(locked);
            if is_new {
                self.remember(index, number, false);
            }
            return index;
        }
        reap_threads(&mut locked, opening);
        let free = |i: &usize| {
            locked.threads[*i].used == 0 && lock::try_take(&opening.file, THREAD_LOCKS + *i as i64)
        };
        let index = (0..MAX_THREADS).find(free).expect("there are more thread records than threads");
        let number = locked.header.clock.attached + 1;
        locked.header.clock.attached = number;
        locked.header.threads = locked.header.threads.max(index as u32 + 1);
        let rank = std::env::var("FAKE_GPU_RANK").ok().and_then(|rank| rank.parse().ok()).unwrap_or(u32::MAX);
        let now = locked.header.clock.now;
        let (id, namespace) = identity();
        let thread = &mut locked.threads[index];
        (thread.rank, thread.number, thread.wake_at, thread.state) = (rank, number, now, WAITS);
        (thread.thread, thread.namespace) = (id, namespace);
        thread.used = 1;
        locked.header.clock.joined += u32::from(participant);
        drop(locked);
        self.remember(index, number, true);
        self.wait_for_turn(index);
        index
    }

    fn wait(&self, state: u32, moment: u64) {
        let index = self.attach();
        let mut locked = self.lock();
        let now = locked.header.clock.now;
        (locked.threads[index].state, locked.threads[index].wake_at) = (state, moment.max(now));
        if locked.header.clock.running as usize == index + 1 {
            locked.header.clock.running = 0;
        }
        drop(locked);
        self.wait_for_turn(index);
    }

    fn wait_for_turn(&self, index: usize) {
        let Some(map) = &self.opening.map else { return };
        // SAFETY: a place inside the mapping.
        let word = unsafe { &raw mut (*map.as_mut_ptr().cast::<Layout>()).threads[index].word };
        // SAFETY: aligned, in a mapping that lives as long as `self`; only ever used as an atomic while threads sleep on it.
        let word = unsafe { AtomicU32::from_ptr(word) };
        let patience = Timespec { tv_sec: 0, tv_nsec: PATIENCE.subsec_nanos().into() };
        let mut is_late = false;
        loop {
            let mut locked = self.lock();
            if is_late {
                reap_threads(&mut locked, &self.opening);
                locked.reap(None);
            }
            hand_over(&mut locked);
            if locked.header.clock.running as usize == index + 1 {
                return;
            }
            let seen = word.load(Ordering::SeqCst);
            drop(locked);
            is_late = futex::wait(word, futex::Flags::empty(), seen, Some(&patience)).is_err();
        }
    }
}

#[cfg(test)]
mod tests;
