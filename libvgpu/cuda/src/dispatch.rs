//! cuGetProcAddress: a name means different functions at different versions and for the two kinds of default stream.
//!
//! The driver is always asked first, and what it does not know is not known here. Names without a hook pass through
//! untouched. Nothing on this path allocates.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::table::{KNOWN_VERSION, entry_points};
use crate::{Code, SUCCESS, abi, hook, real};

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

struct Entry {
    /// As cuGetProcAddress is asked.
    name: &'static str,
    /// First CUDA version this ABI is the answer at, and the first it is not.
    versions: std::ops::Range<i32>,
    /// The per-thread default stream flavour.
    per_thread: bool,
    hook: *const c_void,
}
// SAFETY: the pointers are addresses of functions, which never change.
unsafe impl Sync for Entry {}

macro_rules! table {
    ($($class:ident $name:literal $from:literal $until:literal $per_thread:literal
       $symbol:ident($($argument:ident: $type:ty),*);)*) => {
        &[$(Entry {
            name: $name,
            versions: $from..$until,
            per_thread: $per_thread,
            hook: {
                // The hook has the signature of the headers.
                const HOOK: unsafe extern "C" fn($($type),*) -> Code = hook::$symbol;
                HOOK as *const c_void
            },
        }),*]
    };
}

/// Sorted by name.
static TABLE: &[Entry] = entry_points!(table);

/// The hook for a name at a version the table knows. A name without a flavour of its own for per-thread streams means
/// the same function in both.
fn hook_for(name: &CStr, version: i32, flags: u64) -> Option<*const c_void> {
    let name = name.to_str().ok()?;
    let first = TABLE.partition_point(|e| e.name < name);
    let of = |per_thread: bool| {
        let same = TABLE.get(first..)?.iter().take_while(|e| e.name == name);
        let mut fitting = same.filter(|e| e.per_thread == per_thread && e.versions.contains(&version));
        fitting.next().map(|e| e.hook)
    };
    if flags & PER_THREAD == 0 { of(false) } else { of(true).or_else(|| of(false)) }
}

/// The driver's own version: it answers a request for a newer one with the newest it has.
fn driver_version() -> i32 {
    static VERSION: AtomicI32 = AtomicI32::new(0);
    let mut version = VERSION.load(Ordering::Relaxed);
    if version == 0 {
        // SAFETY: a pointer to a local.
        if unsafe { real::driver_version(&raw mut version) } != SUCCESS {
            return i32::MAX;
        }
        VERSION.store(version, Ordering::Relaxed);
    }
    version
}

/// Puts the hook where the driver's answer stands. What a newer CUDA than the table's means by a name is the ABI known
/// here exactly if the driver gives the same function for the table's version.
///
/// # Safety
/// `name` and `function` are as cuGetProcAddress takes them, and the driver has answered `SUCCESS`.
pub(crate) unsafe fn put_hook(
    name: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
    ask: impl FnOnce(&mut *mut c_void, i32) -> Code,
) {
    if name.is_null() || function.is_null() {
        return;
    }
    // SAFETY: the driver has read the name and written the address.
    let (name, answer) = unsafe { (CStr::from_ptr(name), *function) };
    let meant = version.min(driver_version());
    let Some(hook) = hook_for(name, meant.min(KNOWN_VERSION), flags).filter(|_| !answer.is_null()) else {
        return;
    };
    let mut known = answer;
    if meant > KNOWN_VERSION && (ask(&mut known, KNOWN_VERSION) != SUCCESS || known != answer) {
        return;
    }
    // SAFETY: as above.
    unsafe { *function = hook.cast_mut() };
}

#[cfg(test)]
mod tests;
