//! A program's clocks and waits in the virtual time of a fake GPU, by `LD_PRELOAD`.
//!
//! `FAKE_GPU_FILE` names the GPU file. If its time is virtual, the program's monotonic clocks show it, its sleeps and
//! futex waits pass in it, and a thread that joins another lets it go on; otherwise nothing is changed. So a program, or
//! a library in it that waits by the clock, takes part in an experiment without knowing of it.
//!
//! What is seen are calls of libc's functions, `syscall` included, by which Rust's standard library waits. Waits inside of
//! libc itself (its mutexes and condition variables) and of the dynamic linker are not: a thread that takes part must not
//! wait there for another that does. Dates (`CLOCK_REALTIME`) and CPU times stay the machine's.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    reason = "names and contracts are libc's"
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use fake_gpu::Gpus;
use fake_gpu::layout::VIRTUAL;
use libc::{clockid_t, pthread_t, timespec};

/// What reading a clock costs, so that a thread that spins on one gets ahead.
const CLOCK_NANOS: u64 = 20;

/// A thread that waits for a word looks at it at least so often: who changes it may not be seen.
const LOOK: u64 = 1_000_000;

/// `FUTEX_WAIT`, `FUTEX_WAKE`, `FUTEX_WAIT_BITSET`; the flag for dates.
const WAIT: c_int = 0;
const WAKE: c_int = 1;
const WAIT_BITSET: c_int = 9;
const COMMAND: c_int = 0x7f;
const REALTIME: c_int = 256;

const SECOND: u64 = 1_000_000_000;

thread_local! {
    /// Calls of this library's own are the real ones.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static GPUS: OnceLock<Option<Gpus>> = OnceLock::new();

/// Runs with the virtual GPUs; `None` if there are none or this library itself is the caller.
fn with<T>(work: impl FnOnce(&Gpus) -> Option<T>) -> Option<T> {
    let entered = INSIDE.try_with(|inside| !inside.replace(true)).unwrap_or(false);
    if !entered {
        return None;
    }
    let open = || {
        let file = std::env::var_os("FAKE_GPU_FILE")?;
        Gpus::open(file.as_ref()).ok().filter(|gpus| gpus.timing().mode == VIRTUAL)
    };
    let gpus = GPUS.get_or_init(open).as_ref().filter(|gpus| !gpus.is_inherited());
    let done = gpus.and_then(work);
    let _ = INSIDE.try_with(|inside| inside.set(false));
    done
}

/// The next library's function of that name.
fn real(name: &CStr) -> *mut c_void {
    // SAFETY: a C string; the answer is an address or null.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

macro_rules! real {
    ($name:ident($($argument:expr => $type:ty),*) -> $result:ty) => {{
        static ADDRESS: OnceLock<usize> = OnceLock::new();
        let name = const { CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) };
        let address = *ADDRESS.get_or_init(|| name.map_or(0, |name| real(name) as usize));
        if address == 0 {
            -1
        } else {
            // SAFETY: libc's function of that name has this signature.
            let function: unsafe extern "C" fn($($type),*) -> $result = unsafe { std::mem::transmute(address) };
            // SAFETY: the caller's arguments.
            unsafe { function($($argument),*) }
        }
    }};
}

fn is_monotonic(clock: clockid_t) -> bool {
    let monotonic = [
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_MONOTONIC_RAW,
        libc::CLOCK_MONOTONIC_COARSE,
        libc::CLOCK_BOOTTIME,
    ];
    monotonic.contains(&clock)
}

fn nanos(time: &timespec) -> u64 {
    (time.tv_sec.max(0) as u64).saturating_mul(SECOND).saturating_add(time.tv_nsec.max(0) as u64)
}

fn pass(gpus: &Gpus, until: u64) {
    gpus.wait_until(until, || false);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let now = with(|gpus| {
        if !is_monotonic(clock) || time.is_null() {
            return None;
        }
        Some(gpus.look(CLOCK_NANOS))
    });
    let Some(now) = now else {
        return real!(clock_gettime(clock => clockid_t, time => *mut timespec) -> c_int);
    };
    // SAFETY: the caller's pointer, not null.
    unsafe { time.write(timespec { tv_sec: (now / SECOND) as _, tv_nsec: (now % SECOND) as _ }) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanosleep(time: *const timespec, left: *mut timespec) -> c_int {
    let slept = with(|gpus| {
        // SAFETY: the caller's pointer.
        let length = nanos(unsafe { time.as_ref()? });
        pass(gpus, gpus.now().saturating_add(length));
        Some(())
    });
    match slept {
        Some(()) => 0,
        None => real!(nanosleep(time => *const timespec, left => *mut timespec) -> c_int),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    time: *const timespec,
    left: *mut timespec,
) -> c_int {
    let slept = with(|gpus| {
        // SAFETY: the caller's pointer.
        let time = nanos(unsafe { time.as_ref()? });
        match flags & libc::TIMER_ABSTIME {
            0 => pass(gpus, gpus.now().saturating_add(time)),
            _ if is_monotonic(clock) => pass(gpus, time),
            _ => return None,
        }
        Some(())
    });
    match slept {
        Some(()) => 0,
        None => {
            real!(clock_nanosleep(clock => clockid_t, flags => c_int, time => *const timespec, left => *mut timespec) -> c_int)
        }
    }
}

/// Waits for a word to change. `None` leaves it to the kernel.
///
/// # Safety
/// The arguments are those of a futex wait.
unsafe fn wait(gpus: &Gpus, word: usize, command: c_int, expected: u32, timeout: usize) -> Option<c_long> {
    // SAFETY: by the contract of the call, null or a timespec.
    let timeout = unsafe { (timeout as *const timespec).as_ref() }.map(nanos);
    // A thread that does not take part and waits without end is not waited for; one that waits for its turn is inside of
    // the driver.
    if timeout.is_none() && !gpus.takes_part() || gpus.waits_for_turn() {
        return None;
    }
    let until = match (timeout, command) {
        (None, _) => u64::MAX,
        (Some(length), WAIT) => gpus.now().saturating_add(length),
        (Some(moment), _) => moment,
    };
    // SAFETY: by the contract of the call, an aligned word that lives as long as the wait.
    let word = unsafe { AtomicU32::from_ptr(word as *mut u32) };
    loop {
        if word.load(Ordering::SeqCst) != expected {
            return Some(0);
        }
        let now = gpus.now();
        if now >= until {
            // SAFETY: the address of this thread's errno.
            unsafe { *libc::__errno_location() = libc::ETIMEDOUT };
            return Some(-1);
        }
        gpus.sleep_until(until.min(now + LOOK));
    }
}

/// The futex calls of a program; all others go through. All of a system call's arguments are words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let operation = b as c_int;
    let command = operation & COMMAND;
    if number == libc::SYS_futex && operation & REALTIME == 0 && matches!(command, WAIT | WAIT_BITSET) {
        // SAFETY: the caller's arguments.
        let done = with(|gpus| unsafe { wait(gpus, a, command, c as u32, d) });
        if let Some(result) = done {
            return result;
        }
    }
    let result = real!(syscall(
        number => c_long, a => usize, b => usize, c => usize, d => usize, e => usize, f => usize) -> c_long);
    if number == libc::SYS_futex && command == WAKE {
        // Who waits in virtual time is not woken by the kernel.
        with(|gpus| {
            if !gpus.waits_for_turn() {
                gpus.notify();
            }
            Some(())
        });
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    let join = || real!(pthread_join(thread => pthread_t, value => *mut *mut c_void) -> c_int);
    let joined = with(|gpus| gpus.takes_part().then(|| gpus.away(join)));
    joined.unwrap_or_else(join)
}
