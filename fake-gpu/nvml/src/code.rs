//! `nvmlReturn_t`: numbers and texts.

use std::ffi::{CStr, c_char};

/// `nvmlReturn_t`.
pub(crate) type Return = u32;

macro_rules! codes {
    ($($number:literal $constant:ident $text:literal;)*) => {
        $(#[allow(dead_code, reason = "the table is for nvmlErrorString; not every code is used here")]
        pub(crate) const $constant: Return = $number;)*
        const TABLE: &[(Return, &CStr)] = &[$(($number, $text)),*];
    };
}

codes! {
    0 SUCCESS c"Success";
    1 UNINITIALIZED c"Uninitialized";
    2 INVALID_ARGUMENT c"Invalid Argument";
    3 NOT_SUPPORTED c"Not Supported";
    4 NO_PERMISSION c"Insufficient Permissions";
    5 ALREADY_INITIALIZED c"Already Initialized";
    6 NOT_FOUND c"Not Found";
    7 INSUFFICIENT_SIZE c"Insufficient Size";
    8 INSUFFICIENT_POWER c"Insufficient External Power";
    9 DRIVER_NOT_LOADED c"Driver Not Loaded";
    10 TIMEOUT c"Timeout";
    11 IRQ_ISSUE c"Interrupt Request Issue";
    12 LIBRARY_NOT_FOUND c"NVML Shared Library Not Found";
    13 FUNCTION_NOT_FOUND c"Function Not Found";
    14 CORRUPTED_INFOROM c"Corrupted infoROM";
    15 GPU_IS_LOST c"GPU is lost";
    16 RESET_REQUIRED c"GPU requires reset";
    17 OPERATING_SYSTEM c"GPU access blocked by the operating system";
    18 LIB_RM_VERSION_MISMATCH c"Driver/library version mismatch";
    19 IN_USE c"In use by another client";
    20 MEMORY c"Insufficient Memory";
    21 NO_DATA c"No data";
    23 INSUFFICIENT_RESOURCES c"Insufficient Resources";
    25 ARGUMENT_VERSION_MISMATCH c"Argument version mismatch";
    999 UNKNOWN c"Unknown Error";
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(error: Return) -> *const c_char {
    let known = TABLE.iter().find(|e| e.0 == error);
    known.map_or(c"Unknown Error", |e| e.1).as_ptr()
}
