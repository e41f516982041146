//! A thread that takes in what has ended while the program launches nothing.
//!
//! Begun by the first launch that is metered, once per process, with every signal blocked. It sleeps without end while
//! nothing is in flight, and looks more often while another share waits for the turn. It calls the driver for what needs
//! no context and no stream, and never for longer than that takes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use vgpu_share::Share;

use crate::launch::now;
use crate::state::{State, state};

/// Between two looks while something is in flight. Launches look for themselves.
const LOOK: Duration = Duration::from_millis(1);
/// Nanoseconds between two looks for processes of a share that have died.
const REAP: u64 = 256_000_000;
/// Nanoseconds by which the kernel may let a sleep of it last longer.
const SLACK: libc::c_ulong = 1_000;

/// The thread of this process.
#[derive(Debug, Default)]
pub(crate) struct Poller {
    /// `None`: it could not be started.
    thread: OnceLock<Option<Thread>>,
    sleeps: AtomicBool,
}

impl Poller {
    /// Something is in flight now.
    pub(crate) fn wake(&self) {
        let thread = self.thread.get_or_init(start);
        if self.sleeps.load(Ordering::SeqCst)
            && self.sleeps.swap(false, Ordering::SeqCst)
            && let Some(thread) = thread
        {
            thread.unpark();
        }
    }
}

fn start() -> Option<Thread> {
    // SAFETY: plain data, filled before it is used.
    let mut own: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: pointers to locals. The new thread inherits that all signals are blocked, so none of the program's handlers
    // run on it.
    unsafe {
        let mut all = own;
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut own);
    }
    let state = state();
    let begun = std::thread::Builder::new().name("vgpu".into()).spawn(move || run(state));
    // SAFETY: the set that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const own, std::ptr::null_mut()) };
    begun.ok().map(|handle| handle.thread().clone())
}

fn run(state: &State) {
    // A look that somebody waits for must not come 50 us late.
    // SAFETY: changes the timer slack of this thread, which is the limiter's own.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK) };
    let mut reaped = now();
    // The launch that began it looks after itself.
    std::thread::sleep(LOOK);
    loop {
        let (mut is_busy, mut next) = (false, LOOK);
        let reaps = now().saturating_sub(reaped) >= REAP;
        if reaps {
            reaped = now();
        }
        for device in state.opened() {
            let mut metering = device.metering();
            metering.look_after(device, now());
            metering.ring(device);
            is_busy |= metering.is_busy();
            next = next.min(metering.poll_after(device, now()).unwrap_or(LOOK));
            drop(metering);
            if reaps {
                // What a dead process of a share said stands as long as nobody takes it back.
                let others =
                    |share: &&Share| share.usage.compute.present().any(|slot| slot != share.ledger.slot());
                device.shares.iter().filter(others).for_each(Share::reap);
            }
        }
        if is_busy {
            state.poller.sleeps.store(false, Ordering::SeqCst);
            std::thread::sleep(next);
        } else if state.poller.sleeps.swap(true, Ordering::SeqCst) {
            // The second look in a row that found nothing.
            std::thread::park();
        }
    }
}
