//! Memory set to a value of 8, 16 or 32 bits. As with copies, no GPU time.

use crate::copy::changed;
use crate::driver::driver;
use crate::{Code, INVALID_VALUE, code, twins};

fn set(to: u64, pattern: &[u8], count: usize, stream: usize) -> Result<(), Code> {
    let driver = driver()?;
    driver.of_stream(stream)?;
    let bytes = count.checked_mul(pattern.len()).ok_or(INVALID_VALUE)? as u64;
    if !to.is_multiple_of(pattern.len() as u64) {
        return Err(INVALID_VALUE);
    }
    if bytes == 0 {
        return Ok(());
    }
    if pattern.iter().all(|byte| *byte == 0) {
        return changed(driver.process.zero(to, bytes));
    }
    let put = |there: &mut [u8]| match pattern {
        [byte] => there.fill(*byte),
        _ => there.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern)),
    };
    changed(driver.process.write(to, bytes, put))
}

macro_rules! sets {
    ($($name:ident $asynchronous:ident $type:ty;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(to: u64, value: $type, count: usize) -> Code {
            code(set(to, &value.to_ne_bytes(), count, 0))
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $asynchronous(to: u64, value: $type, count: usize, stream: usize) -> Code {
            code(set(to, &value.to_ne_bytes(), count, stream))
        }
    )*};
}

sets! {
    cuMemsetD8_v2 cuMemsetD8Async u8;
    cuMemsetD16_v2 cuMemsetD16Async u16;
    cuMemsetD32_v2 cuMemsetD32Async u32;
}

twins! {
    cuMemsetD8_v2_ptds = cuMemsetD8_v2(to: u64, value: u8, count: usize);
    cuMemsetD16_v2_ptds = cuMemsetD16_v2(to: u64, value: u16, count: usize);
    cuMemsetD32_v2_ptds = cuMemsetD32_v2(to: u64, value: u32, count: usize);
    cuMemsetD8Async_ptsz = cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize);
    cuMemsetD16Async_ptsz = cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize);
    cuMemsetD32Async_ptsz = cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize);
}
