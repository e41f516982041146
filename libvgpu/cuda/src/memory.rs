//! Allocations: charged before the driver is called, given back if it refuses, on free, and with their context.

use vgpu_core::pointers::{Allocation, Found, Parts};

use crate::credit::thread;
use crate::pointers::Known;
use crate::state::{Device, state};
use crate::{Code, OUT_OF_MEMORY, check, graph, movable, pool};

/// A charge that is given back unless it is kept.
pub(crate) struct Charge<'a> {
    device: &'a Device,
    parts: Parts,
}

impl Charge<'_> {
    pub(crate) fn keep(mut self) -> Parts {
        std::mem::take(&mut self.parts)
    }

    /// Gives back all above so many bytes.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let surplus = self.parts.bytes().saturating_sub(bytes);
        self.device.give_back(&self.parts.take(surplus));
    }

    /// Takes so many bytes out of it, or all there are.
    pub(crate) fn split(&mut self, bytes: u64) -> Parts {
        self.parts.take(bytes)
    }

    /// Charges more, or nothing.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let more = self.device.reserve(bytes);
        if let Some(parts) = &more {
            self.parts.merge(parts);
        }
        more.is_some()
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.device.give_back(&self.parts);
    }
}

impl Device {
    /// Charges to the GPU's shares in order; one allocation may lie in several.
    fn reserve(&self, bytes: u64) -> Option<Parts> {
        let mut parts = Parts::default();
        let mut left = bytes;
        for (index, share) in self.shares.iter().enumerate() {
            let limit = share.limits.read().on_gpu();
            let part = if share.ledger.reserve(left, limit) {
                left
            } else {
                share.ledger.reserve_up_to(left, limit)
            };
            parts.add(index, part);
            left = left.saturating_sub(part);
            if left == 0 {
                return Some(parts);
            }
        }
        self.give_back(&parts);
        None
    }

    /// Gives back what was charged.
    pub(crate) fn give_back(&self, parts: &Parts) {
        parts.iter().for_each(|(place, bytes)| self.release(place, bytes));
    }

    /// The same of one part: a share's number, or one of [`movable::ON_HOST`] and above.
    #[inline]
    fn release(&self, place: usize, bytes: u64) {
        match self.shares.get(place) {
            Some(share) => share.ledger.release(bytes),
            None => self.release_on_host(place, bytes),
        }
    }

    #[cold]
    fn release_on_host(&self, place: usize, bytes: u64) {
        if let Some(share) = place.checked_sub(movable::ON_HOST).and_then(|index| self.shares.get(index)) {
            share.on_host.release(bytes);
        }
    }

    /// Charges what is in use already, to the first share.
    pub(crate) fn charge_anyway(&self, bytes: u64) -> Parts {
        let mut parts = Parts::default();
        if let Some(share) = self.shares.first() {
            share.ledger.charge(bytes);
            parts.add(0, bytes);
        }
        parts
    }

    /// Charges, after making room once if need be: what dead processes left, and what our own pools keep unused.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    pub(crate) fn charge(&self, ordinal: i32, bytes: u64) -> Result<Charge<'_>, Code> {
        self.charge_by(ordinal, || self.reserve(bytes))
    }

    /// The same by another way of reserving.
    pub(crate) fn charge_by(
        &self,
        ordinal: i32,
        reserve: impl Fn() -> Option<Parts>,
    ) -> Result<Charge<'_>, Code> {
        let parts = reserve().or_else(|| {
            pool::trim_all(ordinal);
            graph::trim(ordinal);
            self.reap();
            reserve()
        });
        match parts {
            Some(parts) => Ok(Charge { device: self, parts }),
            None => {
                self.shares.iter().for_each(|share| share.ledger.refuse());
                Err(OUT_OF_MEMORY)
            }
        }
    }
}

/// Charges `bytes` to a GPU, then calls the driver. What the call gives may be charged differently in the end: it gets
/// the charge to change. `None` for a GPU without limits.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` if it does not fit (the driver is not called), else the driver's own code, with nothing
/// charged.
pub(crate) fn on_device<T>(
    ordinal: i32,
    bytes: Option<u64>,
    call: impl FnOnce(Option<&mut Charge<'_>>) -> Result<T, Code>,
) -> Result<(T, Option<Parts>), Code> {
    let device = state().device(ordinal)?;
    if device.shares.is_empty() {
        return call(None).map(|made| (made, None));
    }
    device.settle_overhead();
    let mut charge = device.charge(ordinal, bytes.unwrap_or(u64::MAX))?;
    let made = call(Some(&mut charge))?;
    Ok((made, Some(charge.keep())))
}

/// The same on the current GPU, and remembered by the address or handle that the driver gives.
///
/// # Errors
/// As [`on_device`]; without a current context the driver's own.
pub(crate) fn alloc(
    kind: impl Fn() -> &'static Known,
    bytes: Option<u64>,
    call: impl FnOnce(Option<&mut Charge<'_>>) -> Result<u64, Code>,
) -> Result<(), Code> {
    let (_, device, context) = state().current()?;
    let (address, parts) = on_device(device, bytes, call)?;
    if let Some(parts) = parts {
        kind().insert(address, Allocation { device, context, pool: 0, parts });
    }
    Ok(())
}

/// The same of memory that is charged what was asked for.
///
/// # Errors
/// As [`alloc`].
#[inline]
pub(crate) fn alloc_plain(bytes: u64, call: impl FnOnce() -> Result<u64, Code>) -> Result<(), Code> {
    let state = state();
    let (device, ordinal, context) = state.current()?;
    if let [share] = device.shares.as_slice() {
        let (on_gpu, overhead) = share.limits.read_memory();
        device.settle_overhead_of(overhead);
        if share.ledger.reserve(bytes, on_gpu) {
            return match call() {
                Ok(address) => {
                    state.pointers.insert_usual(thread(), address, (context, ordinal), 0, bytes);
                    Ok(())
                }
                Err(code) => {
                    share.ledger.release(bytes);
                    Err(code)
                }
            };
        }
    }
    alloc(pointers, Some(bytes), |_| call())
}

/// Linear memory.
pub(crate) fn pointers() -> &'static Known {
    &state().pointers
}

/// Arrays and mipmapped arrays.
pub(crate) fn arrays() -> &'static Known {
    &state().arrays
}

/// Calls the driver to free, then gives back what the address or handle was charged.
///
/// # Errors
/// The driver's.
#[inline]
pub(crate) fn free(kind: &Known, address: u64, call: impl FnOnce() -> Code) -> Result<(), Code> {
    // Forgotten first: as soon as the driver has freed it, another thread may be given the same address.
    let known = kind.remove(thread(), address);
    let freed = check(call());
    match (known, freed) {
        (None, _) => {}
        (Some(Found::Usual((_, ordinal), share, bytes)), Ok(())) => {
            if let Ok(device) = state().device(ordinal) {
                device.release(share, bytes);
            }
        }
        (Some(Found::Other(allocation)), Ok(())) => forget(&allocation),
        (Some(found), Err(_)) => kind.insert(address, found.into()),
    }
    freed
}

fn forget(allocation: &Allocation) {
    if allocation.pool != 0 {
        pool::freed(allocation.pool);
    }
    if let Ok(device) = state().device(allocation.device) {
        device.give_back(&allocation.parts);
    }
}

/// A context is gone, and with it what was allocated in it.
pub(crate) fn end_context(context: usize) {
    let state = state();
    for allocation in [&state.pointers, &state.arrays].into_iter().flat_map(|p| p.remove_context(context)) {
        forget(&allocation);
    }
}
