//! Memory set to a value of 8, 16 or 32 bits, in one row or several.

use crate::capture::{Target, target};
use crate::copy::changed;
use crate::driver::{Driver, driver};
use crate::node::Kind;
use crate::{Code, INVALID_VALUE, code, of_gpu, per_thread};

/// A memset: rows of `width` elements of the pattern, each `pitch` bytes behind the one before.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) to: u64,
    pub(crate) pattern: Vec<u8>,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pitch: usize,
}

impl Set {
    /// Bytes it writes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.width as u64).saturating_mul(self.pattern.len() as u64).saturating_mul(self.height as u64)
    }

    /// Whether all of it lies in memory.
    fn check(&self, driver: &Driver) -> Result<(), Code> {
        let row = self.width.checked_mul(self.pattern.len()).ok_or(INVALID_VALUE)? as u64;
        let last = (self.pitch as u64).checked_mul((self.height as u64).saturating_sub(1));
        let bytes = last.and_then(|last| last.checked_add(row)).ok_or(INVALID_VALUE)?;
        let is_aligned = self.to.is_multiple_of(self.pattern.len() as u64);
        let is_row = self.height <= 1 || self.pitch as u64 >= row;
        if is_aligned && is_row && driver.process.holds(self.to, bytes) { Ok(()) } else { Err(INVALID_VALUE) }
    }

    /// Changes the contents.
    pub(crate) fn apply(&self, driver: &Driver) -> Result<(), Code> {
        self.check(driver)?;
        let row = (self.width * self.pattern.len()) as u64;
        for number in 0..self.height as u64 {
            let to = self.to + number * self.pitch as u64;
            if self.pattern.iter().all(|byte| *byte == 0) {
                changed(driver.process.zero(to, row))?;
                continue;
            }
            // Pieces of memory begin and end at whole elements: both are aligned.
            let put = |there: &mut [u8]| match &self.pattern[..] {
                [byte] => there.fill(*byte),
                pattern => {
                    there.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern))
                }
            };
            changed(driver.process.write(to, row, put))?;
        }
        Ok(())
    }
}

fn set(set: Set, stream: usize) -> Result<(), Code> {
    let driver = driver()?;
    driver.of_stream(stream)?;
    if set.width == 0 || set.height == 0 {
        return Ok(());
    }
    match target(driver, stream)? {
        Target::Graph(id) => crate::capture::add(driver, id, stream, Kind::Set(set)).map(drop),
        Target::Queue(object) => {
            set.apply(driver)?;
            driver.process.queue_set(object.context, set.bytes()).map_err(|e| of_gpu(&e))
        }
    }
}

fn row(to: u64, pattern: &[u8], width: usize) -> Set {
    Set { to, pattern: pattern.to_vec(), width, height: 1, pitch: 0 }
}

macro_rules! sets {
    ($($name:ident $asynchronous:ident $rows:ident $asynchronous_rows:ident $type:ty;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(to: u64, value: $type, count: usize) -> Code {
            code(set(row(to, &value.to_ne_bytes(), count), 0))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $asynchronous(to: u64, value: $type, count: usize, stream: usize) -> Code {
            code(set(row(to, &value.to_ne_bytes(), count), stream))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $rows(to: u64, pitch: usize, value: $type, width: usize, height: usize) -> Code {
            code(set(Set { height, pitch, ..row(to, &value.to_ne_bytes(), width) }, 0))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $asynchronous_rows(
            to: u64, pitch: usize, value: $type, width: usize, height: usize, stream: usize,
        ) -> Code {
            code(set(Set { height, pitch, ..row(to, &value.to_ne_bytes(), width) }, stream))
        }
    )*};
}

sets! {
    cuMemsetD8_v2 cuMemsetD8Async cuMemsetD2D8_v2 cuMemsetD2D8Async u8;
    cuMemsetD16_v2 cuMemsetD16Async cuMemsetD2D16_v2 cuMemsetD2D16Async u16;
    cuMemsetD32_v2 cuMemsetD32Async cuMemsetD2D32_v2 cuMemsetD2D32Async u32;
}

/// The flavours for per-thread default streams of functions that have no stream: they use the thread's own.
macro_rules! of_thread {
    ($($name:ident $asynchronous:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
            // SAFETY: the same arguments under the same contract.
            unsafe { $asynchronous($($argument,)* crate::stream::PER_THREAD) }
        }
    )*};
}

of_thread! {
    cuMemsetD8_v2_ptds cuMemsetD8Async(to: u64, value: u8, count: usize);
    cuMemsetD16_v2_ptds cuMemsetD16Async(to: u64, value: u16, count: usize);
    cuMemsetD32_v2_ptds cuMemsetD32Async(to: u64, value: u32, count: usize);
    cuMemsetD2D8_v2_ptds cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, height: usize);
    cuMemsetD2D16_v2_ptds cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, height: usize);
    cuMemsetD2D32_v2_ptds cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, height: usize);
}

per_thread! {
    cuMemsetD8Async_ptsz = cuMemsetD8Async(to: u64, value: u8, count: usize; stream; );
    cuMemsetD16Async_ptsz = cuMemsetD16Async(to: u64, value: u16, count: usize; stream; );
    cuMemsetD32Async_ptsz = cuMemsetD32Async(to: u64, value: u32, count: usize; stream; );
    cuMemsetD2D8Async_ptsz = cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, height: usize; stream; );
    cuMemsetD2D16Async_ptsz = cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, height: usize; stream; );
    cuMemsetD2D32Async_ptsz = cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, height: usize; stream; );
}
