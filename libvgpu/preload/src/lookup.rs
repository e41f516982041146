//! What a lookup by a handle finds, with the hook where the driver's function was found.
//!
//! The next dlsym is asked first, and what it does not find is not found. A function of another interposer stays that
//! interposer's: it comes here by itself when it looks for the next one.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use vgpu_loader::Library;

/// Names the driver's libraries carry in themselves.
const DRIVER: [&CStr; 2] = [c"libcuda.so.1", c"libnvidia-ml.so.1"];

/// The function after this object's of the same name: glibc's, or another interposer's. Null until first needed.
pub(crate) static NEXT_DLSYM: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// The same.
pub(crate) static NEXT_DLVSYM: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Fills [`NEXT_DLSYM`].
pub(crate) extern "C" fn find_dlsym() -> *mut c_void {
    find(c"dlsym", &NEXT_DLSYM)
}

/// Fills [`NEXT_DLVSYM`].
pub(crate) extern "C" fn find_dlvsym() -> *mut c_void {
    find(c"dlvsym", &NEXT_DLVSYM)
}

fn own() -> Option<Library> {
    Library::containing(own as *const () as usize)
}

/// Libraries stand in the loader's list in the order in which a program's symbols are looked for.
fn find(name: &CStr, to: &AtomicPtr<c_void>) -> *mut c_void {
    let known = to.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let later = std::iter::successors(own().and_then(Library::next), |library| library.next());
    let found = later.map(|library| library.symbol(name)).find(|at| !at.is_null());
    let found = found.unwrap_or(std::ptr::null_mut());
    to.store(found, Ordering::Relaxed);
    found
}

/// # Safety
/// As dlsym's.
pub(crate) unsafe extern "C" fn dlsym_by_handle(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    type Next = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
    let next = find_dlsym();
    if next.is_null() {
        return next;
    }
    // SAFETY: a dlsym, with the caller's arguments; and it has read the name.
    unsafe {
        let found = std::mem::transmute::<*mut c_void, Next>(next)(handle, name);
        hooked(found, name)
    }
}

/// # Safety
/// As dlvsym's.
pub(crate) unsafe extern "C" fn dlvsym_by_handle(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    type Next = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;
    let next = find_dlvsym();
    if next.is_null() {
        return next;
    }
    // SAFETY: a dlvsym, with the caller's arguments; and it has read the name.
    unsafe {
        let found = std::mem::transmute::<*mut c_void, Next>(next)(handle, name, version);
        hooked(found, name)
    }
}

/// The hook in place of a driver's function, anything else as it is.
///
/// # Safety
/// `name` is a C string.
unsafe fn hooked(found: *mut c_void, name: *const c_char) -> *mut c_void {
    if found.is_null() {
        return found;
    }
    // SAFETY: by the contract.
    let name = unsafe { CStr::from_ptr(name) };
    let hook = || {
        let (own, driver) = (own()?, Library::containing(found as usize)?);
        let hook = own.symbol(name);
        let is_driver = driver.soname().is_some_and(|name| DRIVER.contains(&name));
        if hook.is_null() || !is_driver {
            return None;
        }
        let (here, there) = (own.namespace()?, driver.namespace()?);
        if here == there { Some(hook) } else { in_namespace(there, own, name) }
    };
    hook().unwrap_or(found)
}

/// The hook of a copy of this object beside a driver that was loaded into another namespace: each driver has its own
/// state, and the limiter before it too.
fn in_namespace(number: libc::c_long, own: Library, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a path, and the number of a namespace that is there.
    let copy = unsafe { Library::of_handle(libc::dlmopen(number, own.path().as_ptr(), libc::RTLD_NOW)) };
    let hook = copy?.symbol(name);
    (!hook.is_null()).then_some(hook)
}
