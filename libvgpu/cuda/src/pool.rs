//! Memory pools: a pool is charged what it has reserved from the GPU, used or not.
//!
//! Only the driver knows how much that is, and it changes when streams are synchronised. So an allocation is charged in
//! full before it is made, and afterwards the pool is charged what the driver says and the rest given back. A pool's
//! lock is held meanwhile: two allocations from one pool would each take the other's growth for its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vgpu_core::pointers::{Allocation, Parts};

use crate::state::{Device, state};
use crate::{Code, SUCCESS, check, graph, memory, real};

/// `CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT`.
const RESERVED: i32 = 5;
/// `CU_MEMPOOL_ATTR_USED_MEM_CURRENT`.
const USED: i32 = 7;

/// A pool and what it is charged.
pub(crate) struct Pool {
    /// `None`: its memory is not a GPU's.
    device: Option<i32>,
    charged: Mutex<Charged>,
}

#[derive(Default)]
struct Charged {
    parts: Parts,
    /// Allocations from it.
    live: u64,
    destroyed: bool,
}

/// Whether this process has known any pool: programs without need not look for what has become of them.
static ANY: AtomicBool = AtomicBool::new(false);

/// By CUmemoryPool.
pub(crate) type Pools = Mutex<HashMap<usize, Arc<Pool>>>;

fn attribute(pool: usize, attribute: i32) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: both attributes asked for have 64 bits; a pointer to a local.
    let asked = unsafe { real::pool_attribute(pool, attribute, (&raw mut value).cast()) };
    (asked == SUCCESS).then_some(value)
}

fn pools() -> MutexGuard<'static, HashMap<usize, Arc<Pool>>> {
    state().pools.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool that was made, with the device its memory is on. One of that handle before is gone, and its memory with it.
pub(crate) fn know(pool: usize, device: Option<i32>) {
    ANY.store(true, Ordering::Relaxed);
    let before = pools().insert(pool, Arc::new(Pool { device, charged: Mutex::default() }));
    if let Some(before) = before
        && let Some(Ok(device)) = before.device.map(|d| state().device(d))
    {
        device.give_back(&std::mem::take(&mut lock(&before).parts));
    }
}

/// A pool by its handle; one nobody made here is the current GPU's.
fn known(pool: usize, current: i32) -> Arc<Pool> {
    let fresh = || Arc::new(Pool { device: Some(current), charged: Mutex::default() });
    ANY.store(true, Ordering::Relaxed);
    Arc::clone(pools().entry(pool).or_insert_with(fresh))
}

fn lock(pool: &Pool) -> MutexGuard<'_, Charged> {
    pool.charged.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Brings a charge to what is reserved; growth is first taken from what the caller has charged for it.
pub(crate) fn bring(
    device: &Device,
    charged: &mut Parts,
    reserved: u64,
    paid: Option<&mut memory::Charge<'_>>,
) {
    let before = charged.bytes();
    let grown = reserved.saturating_sub(before);
    device.give_back(&charged.take(before.saturating_sub(reserved)));
    let from_paid = paid.map(|paid| paid.split(grown)).unwrap_or_default();
    let missing = grown.saturating_sub(from_paid.bytes());
    charged.merge(&from_paid);
    if missing > 0 {
        charged.merge(&device.charge_anyway(missing));
    }
}

/// Allocates from a pool; `None` is the current GPU's current one.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` if it does not fit, else the driver's.
pub(crate) fn alloc(
    pool: Option<usize>,
    bytes: u64,
    stream: usize,
    call: impl FnOnce() -> Result<u64, Code>,
) -> Result<(), Code> {
    let (_, current, _) = state().current()?;
    if graph::is_captured(stream, current, bytes) {
        return call().map(drop);
    }
    let mut handle = pool.unwrap_or(0);
    if pool.is_none() {
        // SAFETY: a pointer to a local.
        check(unsafe { real::device_pool(&raw mut handle, current) })?;
    }
    let pool = known(handle, current);
    let Some(ordinal) = pool.device else { return call().map(drop) };
    let device = state().device(ordinal)?;
    if device.shares.is_empty() {
        return call().map(drop);
    }
    device.settle_overhead();
    settle(handle);
    // Not under the pool's lock: making room settles every pool.
    let mut charge = device.charge(ordinal, bytes)?;
    let mut charged = lock(&pool);
    let address = call()?;
    if let Some(reserved) = attribute(handle, RESERVED) {
        bring(device, &mut charged.parts, reserved, Some(&mut charge));
    } else {
        charged.parts.merge(&charge.split(bytes));
    }
    charged.live = charged.live.saturating_add(1);
    let allocation = Allocation { device: ordinal, context: 0, pool: handle, parts: Parts::default() };
    state().pointers.insert(address, allocation);
    Ok(())
}

/// Brings a pool's charge to what it has reserved now.
pub(crate) fn settle(handle: usize) {
    settle_after(handle, |_| {});
}

/// An allocation of the pool was freed.
pub(crate) fn freed(handle: usize) {
    settle_after(handle, |charged| charged.live = charged.live.saturating_sub(1));
}

fn settle_after(handle: usize, change: impl FnOnce(&mut Charged)) {
    let Some(pool) = pools().get(&handle).cloned() else { return };
    let Some(Ok(device)) = pool.device.map(|d| state().device(d)) else { return };
    let mut charged = lock(&pool);
    change(&mut charged);
    let reserved = match (charged.destroyed, charged.live) {
        (false, _) => attribute(handle, RESERVED),
        (true, 0) => Some(0),
        (true, _) => None,
    };
    if let Some(reserved) = reserved {
        bring(device, &mut charged.parts, reserved, None);
    }
}

/// Settles every pool of this process: synchronising a stream may have shrunk them.
#[inline]
pub(crate) fn settle_all() {
    if ANY.load(Ordering::Relaxed) {
        settle_every();
    }
}

#[cold]
fn settle_every() {
    let handles: Vec<usize> = pools().keys().copied().collect();
    handles.into_iter().for_each(settle);
}

/// Gives what the GPU's pools keep unused back to it.
pub(crate) fn trim_all(ordinal: i32) {
    let of_device = |(handle, pool): (&usize, &Arc<Pool>)| (pool.device == Some(ordinal)).then_some(*handle);
    let handles: Vec<usize> = pools().iter().filter_map(of_device).collect();
    for handle in handles {
        if attribute(handle, RESERVED) > attribute(handle, USED) {
            // SAFETY: a pool of this process. Failing leaves it as it was.
            unsafe { real::cuMemPoolTrimTo(handle, 0) };
        }
        settle(handle);
    }
}

/// Calls the driver to destroy a pool. Its memory goes with the last allocation from it; till then what is in use stays
/// charged.
pub(crate) fn destroy(handle: usize, call: impl FnOnce() -> Code) -> Code {
    settle(handle);
    let used = attribute(handle, USED).unwrap_or(0);
    let done = call();
    if done == SUCCESS {
        settle_after(handle, |charged| charged.destroyed = true);
        let Some(pool) = pools().get(&handle).cloned() else { return done };
        let Some(Ok(device)) = pool.device.map(|d| state().device(d)) else { return done };
        let mut charged = lock(&pool);
        let surplus = charged.parts.bytes().saturating_sub(used);
        device.give_back(&charged.parts.take(surplus));
    }
    done
}
