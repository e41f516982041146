//! How busy the GPU is, as a share has it: percent of its cap, by what was charged to it.
//!
//! NVML says what part of the last sixth of a second to second something ran. A share's processes count GPU time in its
//! region; two looks at that give the same, whatever the container's pid namespace is. Where nothing was ever counted
//! (no cap, and no arbiter on the node) it is what NVML says of the share's processes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::share::{View, view};
use crate::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, Return, SUCCESS, real};

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Utilization {
    gpu: u32,
    memory: u32,
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pid: u32,
    time: u64,
    sm: u32,
    memory: u32,
    encoder: u32,
    decoder: u32,
}

/// The shortest time NVML looks at.
const PERIOD: Duration = Duration::from_nanos(1_000_000_000 / 6);

/// What was seen of a GPU last.
#[derive(Debug, Clone, Copy)]
struct Look {
    device: usize,
    at: Instant,
    nanos: u64,
    /// Percent, once there were two looks.
    percent: Option<u32>,
}

static LOOKS: Mutex<Vec<Look>> = Mutex::new(Vec::new());

/// Percent of a cap. Kernels in flight are charged when they have ended, so a moment may seem to hold more than all of it.
fn scaled(percent: u64, cap: u32) -> u32 {
    let of_cap = percent.saturating_mul(100).checked_div(cap.into()).unwrap_or(0);
    u32::try_from(of_cap.min(100)).unwrap_or(100)
}

/// Percent of the time between two looks, in which so many GPU nanoseconds were charged.
fn percent(nanos: u64, passed: Duration, cap: u32) -> u32 {
    let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX).max(1);
    scaled(nanos.saturating_mul(100).checked_div(passed).unwrap_or(0), cap)
}

/// The share's percent now: of the last two looks that lie a period apart. A program's first look takes a period.
fn charged(device: usize, before: &View) -> Result<u32, Return> {
    let known = {
        let looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        looks.iter().find(|look| look.device == device).copied()
    };
    let begin = Look { device, at: Instant::now(), nanos: before.gpu_nanos, percent: None };
    let known = known.unwrap_or(begin);
    let passed = known.at.elapsed();
    let now = match known.percent {
        Some(percent) if passed < PERIOD => return Ok(percent),
        Some(_) => before.gpu_nanos,
        None => {
            std::thread::sleep(PERIOD.saturating_sub(passed));
            view(device)?.map_or(known.nanos, |view| view.gpu_nanos)
        }
    };
    let percent = percent(now.saturating_sub(known.nanos), known.at.elapsed(), before.cap);
    let look = Look { device, at: Instant::now(), nanos: now, percent: Some(percent) };
    let mut looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    looks.retain(|look| look.device != device);
    looks.push(look);
    Ok(percent)
}

/// NVML's samples of the share's processes since a moment, in microseconds; percent of the cap.
fn samples(device: usize, view: &View, since: u64) -> Result<Vec<Sample>, Return> {
    let mut found = vec![Sample::default(); 128];
    loop {
        let mut count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        // SAFETY: room for so many entries.
        let asked =
            unsafe { real::process_utilization(device, found.as_mut_ptr().cast(), &raw mut count, since) };
        match asked {
            SUCCESS => {
                found.truncate(count as usize);
                break;
            }
            INSUFFICIENT_SIZE if count as usize > found.len() => {
                found.resize(count as usize, Sample::default());
            }
            code => return Err(code),
        }
    }
    found.retain(|sample| view.processes.iter().any(|process| process.pid == sample.pid));
    found.iter_mut().for_each(|sample| sample.sm = scaled(sample.sm.into(), view.cap));
    Ok(found)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: usize, rates: *mut Utilization) -> Return {
    // SAFETY: the caller's arguments, unchanged.
    let asked = unsafe { real::utilization_rates(device, rates.cast()) };
    let view = match view(device) {
        Ok(Some(view)) if asked == SUCCESS => view,
        Ok(_) => return asked,
        Err(code) => return code,
    };
    let gpu = if view.gpu_nanos == 0 && !view.is_capped {
        samples(device, &view, 0).map(|own| own.iter().map(|sample| sample.sm).fold(0, u32::saturating_add))
    } else {
        charged(device, &view)
    };
    let gpu = match gpu {
        Ok(gpu) => gpu.min(100),
        Err(NOT_FOUND) => 0,
        Err(code) => return code,
    };
    // SAFETY: the real function has just written there.
    unsafe { rates.write(Utilization { gpu, memory: (*rates).memory.min(gpu) }) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: usize,
    to: *mut Sample,
    count: *mut u32,
    since: u64,
) -> Return {
    let view = match view(device) {
        Ok(Some(view)) => view,
        // SAFETY: the caller's arguments, unchanged.
        Ok(None) => return unsafe { real::process_utilization(device, to.cast(), count, since) },
        Err(code) => return code,
    };
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let own = match samples(device, &view, since) {
        Ok(own) => own,
        Err(code) => return code,
    };
    // SAFETY: the caller's pointer, not null.
    let room = unsafe { count.replace(u32::try_from(own.len()).unwrap_or(u32::MAX)) };
    match own.len() {
        0 => NOT_FOUND,
        found if to.is_null() || (room as usize) < found => INSUFFICIENT_SIZE,
        found => {
            // SAFETY: the caller gives `room` entries, and there are not more than that.
            unsafe { to.copy_from_nonoverlapping(own.as_ptr(), found) };
            SUCCESS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_of_the_cap_and_never_more_than_all_of_it() {
        let second = Duration::from_secs(1);
        assert_eq!(percent(150_000_000, second, 30), 50);
        assert_eq!(percent(300_000_000, second, 30), 100);
        assert_eq!(percent(320_000_000, second, 30), 100);
        assert_eq!(percent(250_000_000, second, 100), 25);
        assert_eq!((percent(1, Duration::ZERO, 100), scaled(50, 0)), (100, 0));
    }
}
