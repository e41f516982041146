//! Limits of a context. Larger buffers for printf and for malloc in kernels take memory of the GPU.

use std::collections::HashMap;

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_VALUE, NOT_SUPPORTED, code, give, of_gpu};

/// `CUlimit` below the first that is not here; the first two that take memory are printf's buffer and malloc's heap.
const DEFAULTS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 128, 0];
const BUFFERS: std::ops::RangeInclusive<usize> = 1..=2;

/// (context, limit) -> value.
#[derive(Default)]
pub(crate) struct Limits(HashMap<(usize, usize), usize>);

fn number(limit: i32) -> Result<usize, Code> {
    let number = usize::try_from(limit).map_err(|_| INVALID_VALUE)?;
    if number < DEFAULTS.len() { Ok(number) } else { Err(NOT_SUPPORTED) }
}

/// What a limit takes beyond its default.
fn extra(limit: usize, value: usize) -> u64 {
    if BUFFERS.contains(&limit) { value.saturating_sub(DEFAULTS[limit]) as u64 } else { 0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetLimit(limit: i32, value: usize) -> Code {
    let set = |driver: &Driver| {
        let (context, object) = driver.current()?;
        let (limit, gpu) = (number(limit)?, object.context.gpu());
        let key = (context, limit);
        let old = driver.objects().limits.0.get(&key).copied().unwrap_or(DEFAULTS[limit]);
        driver.process.charge_overhead(gpu, extra(limit, value)).map_err(|e| of_gpu(&e))?;
        driver.process.uncharge_overhead(gpu, extra(limit, old));
        driver.objects().limits.0.insert(key, value);
        Ok(())
    };
    code(driver().and_then(set))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(value: *mut usize, limit: i32) -> Code {
    let find = || {
        let driver = driver()?;
        let (context, _) = driver.current()?;
        let limit = number(limit)?;
        Ok(driver.objects().limits.0.get(&(context, limit)).copied().unwrap_or(DEFAULTS[limit]))
    };
    // SAFETY: the caller's pointer.
    unsafe { give(value, find) }
}

/// A context is gone, and with it what its limits took of its GPU.
pub(crate) fn forget(driver: &Driver, context: usize, gpu: usize) {
    let mut objects = driver.objects();
    let mut taken = 0;
    objects.limits.0.retain(|(of, limit), value| {
        taken += if *of == context { extra(*limit, *value) } else { 0 };
        *of != context
    });
    drop(objects);
    driver.process.uncharge_overhead(gpu, taken);
}
