//! cuGetProcAddress: which function a (name, version, flags) means.
//!
//! A name has an entry per ABI with the CUDA version it came with; the newest that is not newer than the version asked
//! for is the answer. Flag 2 asks for per-thread default streams: those functions have entries of their own, and a name
//! without one means the same function in both flavours.

use std::ffi::{CStr, c_char, c_void};

use crate::{Code, INVALID_VALUE, NOT_FOUND, SUCCESS};

mod table;

use table::TABLE;

/// `CU_GET_PROC_ADDRESS_LEGACY_STREAM` and `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// `CUdriverProcAddressQueryResult`.
const FOUND: i32 = 0;
const UNKNOWN: i32 = 1;
const TOO_NEW: i32 = 2;

fn find(name: &str, version: i32, flags: u64) -> Option<*const c_void> {
    let newest = |per_thread: bool| {
        let fits = |e: &&table::Entry| e.name == name && e.version <= version && e.per_thread == per_thread;
        TABLE.iter().filter(fits).max_by_key(|e| e.version).map(|e| e.function)
    };
    if flags & PER_THREAD != 0 { newest(true).or_else(|| newest(false)) } else { newest(false) }
}

/// The answer, with a status.
fn lookup(name: &CStr, version: i32, flags: u64) -> (Option<*const c_void>, i32) {
    let name = name.to_str().unwrap_or_default();
    match find(name, version, flags) {
        Some(function) => (Some(function), FOUND),
        None if TABLE.iter().any(|e| e.name == name) => (None, TOO_NEW),
        None => (None, UNKNOWN),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    name: *const c_char,
    function: *mut *const c_void,
    version: i32,
    flags: u64,
) -> Code {
    // SAFETY: the caller's pointers, passed on; the status is not wanted.
    unsafe { cuGetProcAddress_v2(name, function, version, flags, std::ptr::null_mut()) }
}

/// With a status, if wanted. What is not found is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char,
    function: *mut *const c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> Code {
    if name.is_null() || function.is_null() || flags & !(LEGACY | PER_THREAD) != 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let (found, why) = lookup(unsafe { CStr::from_ptr(name) }, version, flags);
    // SAFETY: the caller's pointers; the first was found not to be null.
    unsafe {
        function.write(found.unwrap_or(std::ptr::null()));
        crate::give_if_wanted(status, why);
    }
    if found.is_some() { SUCCESS } else { NOT_FOUND }
}

/// NVIDIA's private tables: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, id: *const c_void) -> Code {
    if table.is_null() || id.is_null() { INVALID_VALUE } else { NOT_FOUND }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{context, launch, memory};

    #[test]
    fn the_newest_abi_not_newer_than_asked_is_the_answer() {
        assert_eq!(find("cuMemAlloc", 2000, 0), Some(memory::cuMemAlloc as *const c_void));
        assert_eq!(find("cuMemAlloc", 12000, 0), Some(memory::cuMemAlloc_v2 as *const c_void));
        assert_eq!(find("cuCtxCreate", 3020, 0), Some(context::cuCtxCreate_v2 as *const c_void));
        assert_eq!(find("cuCtxCreate", 12000, 0), Some(context::cuCtxCreate_v3 as *const c_void));
        assert_eq!(find("cuCtxCreate", 12050, 0), Some(context::cuCtxCreate_v4 as *const c_void));
        assert_eq!(find("cuLaunchKernelEx", 11000, 0), None);
    }

    #[test]
    fn cuda_11_3_gets_the_four_argument_lookup_and_cuda_12_the_other() {
        assert_eq!(find("cuGetProcAddress", 11030, 0), Some(cuGetProcAddress as *const c_void));
        assert_eq!(find("cuGetProcAddress", 12000, 0), Some(cuGetProcAddress_v2 as *const c_void));
    }

    #[test]
    fn per_thread_streams_have_their_own_functions() {
        assert_eq!(find("cuLaunchKernel", 12000, 2), Some(launch::cuLaunchKernel_ptsz as *const c_void));
        assert_eq!(find("cuLaunchKernel", 12000, 1), Some(launch::cuLaunchKernel as *const c_void));
        assert_eq!(find("cuMemAlloc", 12000, 2), Some(memory::cuMemAlloc_v2 as *const c_void));
    }

    #[test]
    fn unknown_and_too_new_are_told_apart() {
        assert_eq!(lookup(c"", 0, 0), (None, UNKNOWN));
        assert_eq!(lookup(c"cuOfNoVersion", 12000, 0), (None, UNKNOWN));
        assert_eq!(lookup(c"cuLaunchKernelEx", 11050, 0), (None, TOO_NEW));
    }

    #[test]
    fn no_two_entries_answer_the_same_question() {
        let mut keys: Vec<_> = TABLE.iter().map(|e| (e.name, e.version, e.per_thread)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), TABLE.len());
    }
}
