//! Loaded libraries and the functions they export, read from the loader's own list.
//!
//! dlsym is not asked, because others may stand in front of it: a tracer, a profiler, and the limiter's own preload object.
//! Asked for a driver's function they would answer with the limiter's. Nothing here takes memory from the heap, so it may
//! run inside the first dlsym of an allocator that is starting.
//!
//! Formats: the System V ABI's dynamic section and hash table, and the GNU hash table of binutils. As glibc leaves it, the
//! addresses in a dynamic section are absolute.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::ffi::{CStr, c_char, c_int, c_void};

mod table;

use table::{Dynamic, Symbols};

/// `struct link_map` of <link.h>: the part of it that is public.
#[repr(C)]
#[derive(Debug)]
pub struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const Dynamic,
    next: *mut LinkMap,
    previous: *mut LinkMap,
}

/// `RTLD_DL_LINKMAP` of <dlfcn.h>.
const LINK_MAP_OF: c_int = 2;
/// `RTLD_DI_LMID`.
const NAMESPACE: c_int = 1;
/// `RTLD_DI_LINKMAP`.
const LINK_MAP: c_int = 2;

unsafe extern "C" {
    fn dladdr1(
        address: *const c_void,
        info: *mut libc::Dl_info,
        extra: *mut *mut c_void,
        what: c_int,
    ) -> c_int;
    fn dlinfo(handle: *mut c_void, what: c_int, to: *mut c_void) -> c_int;
}

/// A library that stays loaded for as long as it is used.
#[derive(Debug, Clone, Copy)]
pub struct Library(*const LinkMap);

impl Library {
    /// The one of a name, if it is loaded where the caller of this is; it stays loaded from now on. A name without a slash
    /// is compared with the names libraries carry in themselves.
    pub fn loaded(name: &CStr) -> Option<Self> {
        // SAFETY: a C string. With this flag nothing is loaded and nothing runs.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        // SAFETY: null, or a handle that stays open.
        unsafe { Self::of_handle(handle) }
    }

    /// The one of a handle.
    ///
    /// # Safety
    /// It is null, or was given by dlopen and is never closed.
    pub unsafe fn of_handle(handle: *mut c_void) -> Option<Self> {
        if handle.is_null() {
            return None;
        }
        let mut map: *const LinkMap = std::ptr::null();
        // SAFETY: an open handle and a pointer to a local of the kind asked for.
        let answered = unsafe { dlinfo(handle, LINK_MAP, (&raw mut map).cast()) };
        (answered == 0 && !map.is_null()).then_some(Self(map))
    }

    /// The one an address lies in; the caller knows that it stays loaded.
    pub fn containing(address: usize) -> Option<Self> {
        let mut map: *mut c_void = std::ptr::null_mut();
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: any address may be asked for; pointers to locals.
        let found =
            unsafe { dladdr1(address as *const c_void, info.as_mut_ptr(), &raw mut map, LINK_MAP_OF) };
        (found != 0 && !map.is_null()).then_some(Self(map.cast()))
    }

    /// From what [`Library::as_ptr`] gave.
    ///
    /// # Safety
    /// It is of a library that is still loaded.
    pub unsafe fn from_ptr(map: *const LinkMap) -> Option<Self> {
        (!map.is_null()).then_some(Self(map))
    }

    /// To be kept in an atomic.
    pub fn as_ptr(self) -> *const LinkMap {
        self.0
    }

    /// The one that was loaded after this one.
    pub fn next(self) -> Option<Self> {
        // SAFETY: the library is loaded, so its entry is there.
        let next = unsafe { (*self.0).next };
        (!next.is_null()).then_some(Self(next))
    }

    /// Path it was loaded from.
    pub fn path(&self) -> &CStr {
        // SAFETY: as above; the name lives as long as the entry.
        unsafe { if (*self.0).name.is_null() { c"" } else { CStr::from_ptr((*self.0).name) } }
    }

    /// Number of the namespace it is in, as dlmopen takes it.
    pub fn namespace(self) -> Option<libc::c_long> {
        let mut number: libc::c_long = 0;
        // SAFETY: glibc's handles are these entries; a pointer to a local of the kind asked for.
        let answered = unsafe { dlinfo(self.0.cast_mut().cast(), NAMESPACE, (&raw mut number).cast()) };
        (answered == 0).then_some(number)
    }

    /// The name it carries in itself.
    pub fn soname(&self) -> Option<&CStr> {
        self.symbols().soname()
    }

    /// Address of a function or variable it exports; null if it has none of that name. Versions are not looked at.
    pub fn symbol(self, name: &CStr) -> *mut c_void {
        self.symbols().find(name).map_or(std::ptr::null_mut(), |offset| {
            // SAFETY: the library is loaded.
            let base = unsafe { (*self.0).base };
            base.wrapping_add(offset) as *mut c_void
        })
    }

    fn symbols(&self) -> Symbols {
        // SAFETY: the library is loaded; its dynamic section is as the loader left it.
        unsafe { Symbols::read((*self.0).dynamic, (*self.0).base) }
    }
}

/// The driver's library behind a limiter: of the name the limiter needs it by, or, where the limiter was preloaded, the
/// program's own. `own` is an address in the limiter, which may carry the second name itself.
pub fn behind(own: usize, real: &CStr, plain: &CStr) -> Option<Library> {
    let is_own = |library: &Library| Library::containing(own).is_some_and(|l| l.0 == library.0);
    Library::loaded(real).or_else(|| Library::loaded(plain).filter(|library| !is_own(library)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_finds_is_what_dlsym_finds() {
        let libc = Library::loaded(c"libc.so.6").unwrap();
        for name in [c"open", c"read", c"getpid", c"environ", c"pthread_create"] {
            // SAFETY: a C string.
            let expected = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            assert_eq!(libc.symbol(name), expected, "{name:?}");
            assert!(!expected.is_null());
        }
        assert!(libc.symbol(c"no_such_function").is_null());
        assert_eq!(libc.soname(), Some(c"libc.so.6"));
    }

    #[test]
    fn a_library_that_is_not_loaded_is_none() {
        assert!(Library::loaded(c"libcuda-real.so").is_none());
        assert!(behind(Library::loaded as *const () as usize, c"libcuda-real.so", c"libcuda.so.1").is_none());
    }

    #[test]
    fn a_library_is_not_behind_itself() {
        let own = libc::getpid as *const () as usize;
        let libc = Library::containing(own).unwrap();
        assert_eq!(libc.0, Library::loaded(c"libc.so.6").unwrap().0);
        assert!(behind(own, c"no-such.so", c"libc.so.6").is_none());
    }

    #[test]
    fn namespaces_and_the_order_of_loading_are_known() {
        let program =
            Library::containing(namespaces_and_the_order_of_loading_are_known as *const () as usize).unwrap();
        assert_eq!(program.namespace(), Some(0));
        let rest = std::iter::successors(program.next(), |l| l.next());
        assert!(rest.into_iter().any(|l| l.soname() == Some(c"libc.so.6")));
    }
}
