//! The exported functions: the driver's signatures around one operation each.

mod array;
mod context;
mod graph;
mod launch;
mod memory;
mod order;
mod pool;
mod report;
mod symbol;
mod virtual_memory;

pub use array::*;
pub use context::*;
pub use graph::*;
pub use launch::*;
pub use memory::*;
pub use order::*;
pub use pool::*;
pub use report::*;
pub use symbol::*;
pub use virtual_memory::*;

/// Defines a hook for the legacy and the per-thread default stream, which do the same around their own function. `DEFAULT`
/// is the stream that 0 means.
macro_rules! twins {
    ($($name:ident $twin:ident($($argument:ident: $type:ty),*) => |$real:ident| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::Code {
            use $crate::real::$name as $real;
            #[allow(dead_code, reason = "not every hook asks")]
            const DEFAULT: usize = $crate::launch::LEGACY;
            $body
        }
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $twin($($argument: $type),*) -> $crate::Code {
            use $crate::real::$twin as $real;
            #[allow(dead_code, reason = "not every hook asks")]
            const DEFAULT: usize = $crate::launch::PER_THREAD;
            $body
        }
    )*};
}
use twins;

/// Reads what the driver wrote, after it said that it did.
///
/// # Safety
/// `from` is the caller's pointer, which the driver has just written.
unsafe fn given<T: Copy>(done: crate::Code, from: *const T) -> Result<T, crate::Code> {
    crate::check(done)?;
    // SAFETY: the driver has written there.
    Ok(unsafe { *from })
}
