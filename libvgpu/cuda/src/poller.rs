//! A thread that takes in what has ended while the program launches nothing.
//!
//! Begun by the first launch under a cap, once per process, with every signal blocked. It sleeps without end while nothing
//! is in flight. It calls the driver for what needs no context and no stream, and never for longer than that takes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use vgpu_share::Share;

use crate::launch::now;
use crate::state::{State, state};

/// Between two looks while something is in flight. Launches look for themselves.
const LOOK: Duration = Duration::from_millis(1);
/// Looks between two at which processes of a share that died are looked for.
const REAP: u32 = 256;

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
    let mut looks = 0u32;
    // The launch that began it looks after itself.
    std::thread::sleep(LOOK);
    loop {
        looks = looks.wrapping_add(1);
        let mut is_busy = false;
        for device in state.opened() {
            let mut metering = device.metering();
            metering.look_after(device, now());
            is_busy |= metering.is_busy();
            drop(metering);
            if looks.is_multiple_of(REAP) {
                // What a dead process of a share said stands as long as nobody takes it back.
                let others =
                    |share: &&Share| share.usage.compute.present().any(|slot| slot != share.ledger.slot());
                device.shares.iter().filter(others).for_each(Share::reap);
            }
        }
        if is_busy {
            state.poller.sleeps.store(false, Ordering::SeqCst);
            std::thread::sleep(LOOK);
        } else if state.poller.sleeps.swap(true, Ordering::SeqCst) {
            // The second look in a row that found nothing.
            std::thread::park();
        }
    }
}
