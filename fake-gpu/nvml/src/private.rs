//! The private table NVIDIA's own nvidia-smi asks for before anything else: each of its functions is there and answers
//! `NVML_ERROR_NOT_SUPPORTED`, with which the program is content and goes on with the public functions.
//!
//! On real boards it has more in it, the list of processes for one, which nvidia-smi takes from there.

use std::ffi::c_void;

use crate::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Return, SUCCESS};

/// As nvidia-smi of the branches 535 and 550 asks.
const ID: [u8; 16] = *b"\xc4\xfe\x3e\x6c\xc9\x8f\x6c\x4e\xa3\x27\xee\x69\x6e\x12\xf7\xc4";
/// More than it looks at.
const SLOTS: usize = 511;

/// Its size in bytes, then functions.
#[repr(C)]
struct Table {
    size: usize,
    functions: [extern "C" fn() -> Return; SLOTS],
}

static TABLE: Table = Table { size: std::mem::size_of::<Table>(), functions: [absent; SLOTS] };

extern "C" fn absent() -> Return {
    NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInternalGetExportTable(
    table: *mut *const c_void,
    id: *const [u8; 16],
) -> Return {
    if table.is_null() || id.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller's pointers, not null.
    unsafe {
        if *id != ID {
            return NOT_FOUND;
        }
        table.write((&raw const TABLE).cast());
    }
    SUCCESS
}
