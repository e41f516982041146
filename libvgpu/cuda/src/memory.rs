//! Allocations: charged before the driver is called, given back if it refuses, on free, and with their context.

use vgpu_core::pointers::Allocation;

use crate::state::{Device, State, state};
use crate::{Code, OUT_OF_MEMORY, check, real};

/// A charge that is given back unless it is kept.
struct Charge<'a> {
    device: &'a Device,
    parts: Vec<(usize, u64)>,
}

impl Charge<'_> {
    fn keep(mut self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.parts)
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        give_back(self.device, &self.parts);
    }
}

fn give_back(device: &Device, parts: &[(usize, u64)]) {
    for (index, bytes) in parts {
        if let Some(held) = device.shares.get(*index) {
            held.ledger.release(*bytes);
        }
    }
}

/// Charges to the GPU's shares in order; one allocation may lie in several.
fn reserve(device: &Device, bytes: u64) -> Option<Charge<'_>> {
    let mut charge = Charge { device, parts: Vec::with_capacity(1) };
    let mut left = bytes;
    for (index, held) in device.shares.iter().enumerate() {
        let limit = held.share.limits.read().memory;
        let part =
            if held.ledger.reserve(left, limit) { left } else { held.ledger.reserve_up_to(left, limit) };
        if part > 0 {
            charge.parts.push((index, part.min(left)));
            left = left.saturating_sub(part);
        }
        if left == 0 {
            return Some(charge);
        }
    }
    None
}

/// Charges `bytes` to the current GPU, then calls the driver, which gives the address.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` if it does not fit (the driver is not called), else the driver's own code, with nothing
/// charged.
pub(crate) fn alloc(bytes: u64, call: impl FnOnce() -> Result<u64, Code>) -> Result<(), Code> {
    let state = state();
    let Ok((device, ordinal, context)) = state.current() else {
        // No context, no device: the driver says what is wrong in its own words.
        return call().and_then(|address| refuse_unknown(state, address));
    };
    if device.shares.is_empty() {
        return call().map(drop);
    }
    let charge = reserve(device, bytes).or_else(|| {
        device.reap();
        reserve(device, bytes)
    });
    let charge = charge.ok_or(OUT_OF_MEMORY)?;
    let address = call()?;
    state.pointers.insert(address, Allocation { device: ordinal, context, charges: charge.keep() });
    Ok(())
}

/// The driver allocated though its share could not be found out: that must not stand.
fn refuse_unknown(state: &State, address: u64) -> Result<(), Code> {
    match state.current() {
        Ok((device, ..)) if device.shares.is_empty() => Ok(()),
        Ok(_) => Ok(()),
        Err(code) => {
            // SAFETY: the address was just allocated and nobody has seen it.
            unsafe { real::mem_free(address) };
            Err(code)
        }
    }
}

/// Calls the driver to free, then gives back what the address was charged.
///
/// # Errors
/// The driver's.
pub(crate) fn free(address: u64, call: impl FnOnce() -> Code) -> Result<(), Code> {
    let state = state();
    // Forgotten first: as soon as the driver has freed it, another thread may be given the same address.
    let known = state.pointers.remove(address);
    let freed = check(call());
    if let Some(allocation) = known {
        match freed {
            Ok(()) => forget(state, &allocation),
            Err(_) => state.pointers.insert(address, allocation),
        }
    }
    freed
}

fn forget(state: &State, allocation: &Allocation) {
    if let Ok(device) = state.device(allocation.device) {
        give_back(device, &allocation.charges);
    }
}

/// A context is gone, and with it what was allocated in it.
pub(crate) fn end_context(context: usize) {
    let state = state();
    for allocation in state.pointers.remove_context(context) {
        forget(state, &allocation);
    }
}

/// Remembers which context is a device's primary one.
pub(crate) fn know_primary(device: i32, context: usize) {
    let mut primaries = state().primaries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    primaries.retain(|(d, _)| *d != device);
    primaries.push((device, context));
}

/// After a release or reset: if the primary context is not active any more, it is gone.
pub(crate) fn end_primary(device: i32) {
    let (mut flags, mut active) = (0, 1);
    // SAFETY: pointers to locals.
    let asked = unsafe { real::primary_state(device, &raw mut flags, &raw mut active) };
    if asked != crate::SUCCESS || active != 0 {
        return;
    }
    let mut primaries = state().primaries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let gone: Vec<usize> = primaries.iter().filter(|(d, _)| *d == device).map(|(_, c)| *c).collect();
    primaries.retain(|(d, _)| *d != device);
    drop(primaries);
    gone.into_iter().for_each(end_context);
}
