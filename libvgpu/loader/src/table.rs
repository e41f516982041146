//! A loaded library's dynamic section, and the two kinds of hash table by which its symbols are found.

use std::ffi::{CStr, c_char};

/// `Elf64_Dyn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dynamic {
    tag: i64,
    value: usize,
}

/// `Elf64_Sym`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: u64,
}

const END: i64 = 0;
const HASH: i64 = 4;
const STRINGS: i64 = 5;
const SYMBOLS: i64 = 6;
const SONAME: i64 = 14;
const GNU_HASH: i64 = 0x6fff_fef5;
/// Kinds that have an address of their own: no type, data, function.
const KINDS: [u8; 3] = [0, 1, 2];

/// Where a library's tables lie; null: it has none of the kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbols {
    symbols: *const Symbol,
    strings: *const c_char,
    soname: Option<usize>,
    hash: *const u32,
    gnu_hash: *const u32,
}

impl Symbols {
    /// # Safety
    /// `dynamic` is null or the dynamic section of a loaded library, which lies at `base`.
    pub(crate) unsafe fn read(dynamic: *const Dynamic, base: usize) -> Self {
        let mut found = Self {
            symbols: std::ptr::null(),
            strings: std::ptr::null(),
            soname: None,
            hash: std::ptr::null(),
            gnu_hash: std::ptr::null(),
        };
        // The loader leaves the section of some libraries (the kernel's own) as it is in the file.
        let address = |value: usize| if value < base { value.wrapping_add(base) } else { value };
        let mut at = dynamic;
        while !at.is_null() {
            // SAFETY: the section ends with an entry of that tag, before which this stops.
            let entry = unsafe { *at };
            match entry.tag {
                END => break,
                HASH => found.hash = address(entry.value) as *const u32,
                GNU_HASH => found.gnu_hash = address(entry.value) as *const u32,
                STRINGS => found.strings = address(entry.value) as *const c_char,
                SYMBOLS => found.symbols = address(entry.value) as *const Symbol,
                SONAME => found.soname = Some(entry.value),
                _ => {}
            }
            at = at.wrapping_add(1);
        }
        found
    }

    /// Lives as long as the library is loaded.
    pub(crate) fn soname<'a>(self) -> Option<&'a CStr> {
        let offset = self.soname.filter(|_| !self.strings.is_null())?;
        // SAFETY: the offset of a C string in the string table.
        Some(unsafe { CStr::from_ptr(self.strings.wrapping_add(offset)) })
    }

    /// Offset of a symbol from where the library lies.
    pub(crate) fn find(self, name: &CStr) -> Option<usize> {
        if self.symbols.is_null() || self.strings.is_null() {
            return None;
        }
        // SAFETY: the tables of a loaded library.
        unsafe {
            if !self.gnu_hash.is_null() {
                self.find_gnu(name)
            } else if !self.hash.is_null() {
                self.find_system_v(name)
            } else {
                None
            }
        }
    }

    /// # Safety
    /// `index` is of an entry.
    unsafe fn fits(self, index: u32, name: &CStr) -> Option<usize> {
        // SAFETY: by the contract; names are offsets of C strings.
        unsafe {
            let symbol = *self.symbols.wrapping_add(index as usize);
            let is_defined = symbol.section != 0 && KINDS.contains(&(symbol.info & 15));
            let same = CStr::from_ptr(self.strings.wrapping_add(symbol.name as usize)) == name;
            (is_defined && same).then_some(symbol.value)
        }
    }

    /// # Safety
    /// It has that table.
    unsafe fn find_system_v(self, name: &CStr) -> Option<usize> {
        let mut hash = 0u32;
        for byte in name.to_bytes() {
            hash = (hash << 4).wrapping_add(u32::from(*byte));
            hash = (hash ^ ((hash & 0xf000_0000) >> 24)) & 0x0fff_ffff;
        }
        let word = |at: usize| {
            // SAFETY: the table has two counts, that many buckets, and a chain word for each symbol.
            unsafe { *self.hash.wrapping_add(at) }
        };
        let buckets = word(0);
        let mut index = word(2 + hash.checked_rem(buckets)? as usize);
        while index != 0 {
            // SAFETY: an index out of the table.
            if let Some(value) = unsafe { self.fits(index, name) } {
                return Some(value);
            }
            index = word(2 + buckets as usize + index as usize);
        }
        None
    }

    /// # Safety
    /// It has that table.
    unsafe fn find_gnu(self, name: &CStr) -> Option<usize> {
        let hash =
            name.to_bytes().iter().fold(5381u32, |h, b| h.wrapping_mul(33).wrapping_add(u32::from(*b)));
        let word = |at: usize| {
            // SAFETY: the table has four counts, a filter of 64-bit words, buckets, and a hash for each symbol from
            // `first` on, the last of a bucket with its lowest bit set.
            unsafe { *self.gnu_hash.wrapping_add(at) }
        };
        let (buckets, first, filter) = (word(0), word(1), word(2));
        let start = 4 + 2 * filter as usize;
        let mut index = word(start + hash.checked_rem(buckets)? as usize);
        if index < first {
            return None;
        }
        loop {
            let other = word(start + buckets as usize + index.wrapping_sub(first) as usize);
            if other | 1 == hash | 1 {
                // SAFETY: an index out of the table.
                let value = unsafe { self.fits(index, name) };
                if value.is_some() {
                    return value;
                }
            }
            if other & 1 == 1 {
                return None;
            }
            index = index.wrapping_add(1);
        }
    }
}
