//! Stream-ordered allocations: pools, which keep what is freed to them until something waits.
//!
//! A pool takes whole blocks from the GPU, as many as it lacks. Freed memory stays reserved in the pool; whenever a
//! stream, an event or a context has been waited for, each pool gives back what is above its release threshold.

use std::collections::HashMap;
use std::ffi::c_void;

use fake_gpu::{Process, Store};

use crate::capture::{Target, target};
use crate::driver::{Driver, Objects, driver, is_timeless, timeless_address};
use crate::node::Kind;
use crate::{Code, INVALID_DEVICE, INVALID_VALUE, SUCCESS, code, give, of_gpu, per_thread};

/// What pools and graphs take from the GPU at a time.
pub(crate) const BLOCK: u64 = 2 << 20;

/// Pools and what they handed out.
#[derive(Default)]
pub(crate) struct Pools {
    pools: HashMap<usize, Pool>,
    /// By GPU: the one that is always there, and the one cuMemAllocAsync uses.
    default: HashMap<usize, usize>,
    current: HashMap<usize, usize>,
    /// Address -> pool and bytes.
    pub(crate) live: HashMap<u64, (usize, u64)>,
}

struct Pool {
    gpu: usize,
    reserved: u64,
    reserved_high: u64,
    used: u64,
    used_high: u64,
    /// Bytes kept when something waits.
    threshold: u64,
    /// The three ways of reuse, which make no difference here.
    reuse: [i32; 3],
    /// Ends when its last allocation does.
    is_ended: bool,
}

/// `CUmemPoolProps`, its location inlined.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PoolProps {
    kind: i32,
    handles: i32,
    location: i32,
    device: i32,
    security: *const c_void,
    most: usize,
    usage: u16,
    reserved: [u8; 54],
}

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
pub(crate) const ON_DEVICE: i32 = 1;

impl PoolProps {
    /// GPU of a pool of pinned device memory.
    pub(crate) fn gpu(&self, driver: &Driver) -> Result<usize, Code> {
        if self.kind != 1 || self.location != ON_DEVICE {
            return Err(INVALID_VALUE);
        }
        driver.gpu(self.device)
    }
}

impl Pool {
    fn new(gpu: usize) -> Self {
        let (reserved, reserved_high, used, used_high, threshold) = (0, 0, 0, 0, 0);
        Self { gpu, reserved, reserved_high, used, used_high, threshold, reuse: [1; 3], is_ended: false }
    }

    fn take(&mut self, process: &Process, bytes: u64) -> Result<(), Code> {
        let used = self.used.checked_add(bytes).ok_or(crate::OUT_OF_MEMORY)?;
        if let Some(missing) = used.checked_sub(self.reserved).filter(|m| *m > 0) {
            let blocks = missing.checked_next_multiple_of(BLOCK).ok_or(crate::OUT_OF_MEMORY)?;
            process.charge(self.gpu, blocks).map_err(|e| of_gpu(&e))?;
            self.reserved += blocks;
            self.reserved_high = self.reserved_high.max(self.reserved);
        }
        self.used = used;
        self.used_high = self.used_high.max(used);
        Ok(())
    }

    /// Gives back what is neither used nor to be kept.
    fn trim(&mut self, process: &Process, keep: u64) {
        let kept = self.used.max(keep.min(self.reserved)).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        if let Some(over) = self.reserved.checked_sub(kept).filter(|over| *over > 0) {
            process.uncharge(self.gpu, over);
            self.reserved = kept;
        }
    }
}

/// The pool of a GPU that is always there.
fn default_pool(objects: &mut Objects, gpu: usize) -> usize {
    if let Some(pool) = objects.pools.default.get(&gpu) {
        return *pool;
    }
    let pool = objects.handle();
    objects.pools.pools.insert(pool, Pool::new(gpu));
    objects.pools.default.insert(gpu, pool);
    pool
}

fn current_pool(objects: &mut Objects, gpu: usize) -> usize {
    match objects.pools.current.get(&gpu) {
        Some(pool) => *pool,
        None => default_pool(objects, gpu),
    }
}

/// Something has been waited for: every pool gives back what is above its threshold.
pub(crate) fn settle(driver: &Driver) {
    let mut objects = driver.objects();
    for pool in objects.pools.pools.values_mut() {
        let threshold = pool.threshold;
        pool.trim(&driver.process, threshold);
    }
}

/// Frees what a pool handed out; false if none did.
pub(crate) fn free(driver: &Driver, address: u64) -> bool {
    let mut objects = driver.objects();
    let Some((handle, bytes)) = objects.pools.live.remove(&address) else { return false };
    driver.process.free(address);
    let Some(pool) = objects.pools.pools.get_mut(&handle) else { return true };
    pool.used = pool.used.saturating_sub(bytes);
    if pool.is_ended && pool.used == 0 {
        pool.trim(&driver.process, 0);
        objects.pools.pools.remove(&handle);
    }
    true
}

fn alloc(bytes: usize, pool: Option<usize>, stream: usize) -> Result<u64, Code> {
    let driver = driver()?;
    let (_, object) = driver.of_stream(stream)?;
    let bytes = (bytes as u64).checked_next_multiple_of(512).ok_or(crate::OUT_OF_MEMORY)?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    if let Target::Graph(id) = target(driver, stream)? {
        let gpu = object.context.gpu();
        let address = driver.process.reserve(bytes, BLOCK).ok_or(crate::OUT_OF_MEMORY)?;
        crate::capture::add(driver, id, stream, Kind::Alloc { gpu, bytes, address })?;
        return Ok(address);
    }
    let mut objects = driver.objects();
    let handle = match pool {
        Some(pool) => pool,
        None => current_pool(&mut objects, object.context.gpu()),
    };
    let pool = objects.pools.pools.get_mut(&handle).filter(|p| !p.is_ended).ok_or(INVALID_VALUE)?;
    pool.take(&driver.process, bytes)?;
    let gpu = pool.gpu;
    let address = driver.process.reserve(bytes, 512).ok_or(crate::OUT_OF_MEMORY)?;
    driver.process.map(gpu, address, bytes, &Store::new(bytes), 0);
    objects.pools.live.insert(address, (handle, bytes));
    Ok(address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) -> Code {
    let make = || if is_timeless() { Ok(timeless_address(bytes)) } else { alloc(bytes, None, stream) };
    // SAFETY: the caller's pointer.
    unsafe { give(address, make) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(
    address: *mut u64,
    bytes: usize,
    pool: usize,
    stream: usize,
) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(address, || alloc(bytes, Some(pool), stream)) }
}

/// Frees what a pool or a graph allocated, and linear memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Code {
    if is_timeless() {
        return SUCCESS;
    }
    let run = |driver: &Driver| {
        driver.of_stream(stream)?;
        if let Target::Graph(id) = target(driver, stream)? {
            return crate::capture::add(driver, id, stream, Kind::Free(address)).map(drop);
        }
        crate::memory::free(address, false)
    };
    code(driver().and_then(run))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(pool: *mut usize, props: *const PoolProps) -> Code {
    // SAFETY: the caller's pointer.
    let Some(props) = (unsafe { props.as_ref() }) else { return INVALID_VALUE };
    let make = || {
        let driver = driver()?;
        let gpu = props.gpu(driver)?;
        let mut objects = driver.objects();
        let handle = objects.handle();
        objects.pools.pools.insert(handle, Pool::new(gpu));
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(pool, make) }
}

/// It ends when nothing of it is allocated any more. A device whose current pool it was uses its default again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolDestroy(handle: usize) -> Code {
    let end = |driver: &Driver| {
        let mut objects = driver.objects();
        if objects.pools.default.values().any(|pool| *pool == handle) {
            return Err(INVALID_VALUE);
        }
        let pool = objects.pools.pools.get_mut(&handle).filter(|p| !p.is_ended).ok_or(INVALID_VALUE)?;
        pool.is_ended = true;
        pool.trim(&driver.process, 0);
        if pool.used == 0 {
            objects.pools.pools.remove(&handle);
        }
        objects.pools.current.retain(|_, pool| *pool != handle);
        Ok(())
    };
    code(driver().and_then(end))
}

fn with_pool<T>(handle: usize, work: impl FnOnce(&Process, &mut Pool) -> Result<T, Code>) -> Result<T, Code> {
    let driver = driver()?;
    let mut objects = driver.objects();
    let pool = objects.pools.pools.get_mut(&handle).filter(|p| !p.is_ended).ok_or(INVALID_VALUE)?;
    work(&driver.process, pool)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolTrimTo(pool: usize, keep: usize) -> Code {
    let trim = |process: &Process, pool: &mut Pool| {
        pool.trim(process, keep as u64);
        Ok(())
    };
    code(with_pool(pool, trim))
}

/// `CUmemPool_attribute`: 1 to 3 ways of reuse (int), 4 the threshold, 5 and 6 reserved now and at most, 7 and 8 used
/// (cuuint64_t).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(pool: usize, attribute: i32, value: *mut c_void) -> Code {
    let find = |_: &Process, pool: &mut Pool| match attribute {
        4 => Ok(pool.threshold),
        5 => Ok(pool.reserved),
        6 => Ok(pool.reserved_high),
        7 => Ok(pool.used),
        8 => Ok(pool.used_high),
        _ => Err(INVALID_VALUE),
    };
    if (1..=3).contains(&attribute) {
        let flag = |_: &Process, pool: &mut Pool| Ok(pool.reuse[attribute as usize - 1]);
        // SAFETY: the caller's pointer, of an int.
        return unsafe { give(value.cast::<i32>(), || with_pool(pool, flag)) };
    }
    // SAFETY: the caller's pointer, of a cuuint64_t.
    unsafe { give(value.cast::<u64>(), || with_pool(pool, find)) }
}

/// Of the high-water marks only 0 can be set, which is what is there now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: *mut c_void) -> Code {
    if value.is_null() {
        return INVALID_VALUE;
    }
    let wanted = match attribute {
        // SAFETY: the caller's pointer, of an int.
        1..=3 => unsafe { value.cast::<i32>().read() as u64 },
        // SAFETY: the caller's pointer, of a cuuint64_t.
        4 | 6 | 8 => unsafe { value.cast::<u64>().read() },
        _ => return INVALID_VALUE,
    };
    let set = |_: &Process, pool: &mut Pool| {
        match (attribute, wanted) {
            (1..=3, flag) => pool.reuse[attribute as usize - 1] = flag as i32,
            (4, bytes) => pool.threshold = bytes,
            (6, 0) => pool.reserved_high = pool.reserved,
            (8, 0) => pool.used_high = pool.used,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    };
    code(with_pool(pool, set))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut usize, device: i32) -> Code {
    let find = || {
        let driver = driver()?;
        let gpu = driver.gpu(device)?;
        Ok(default_pool(&mut driver.objects(), gpu))
    };
    // SAFETY: the caller's pointer.
    unsafe { give(pool, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut usize, device: i32) -> Code {
    let find = || {
        let driver = driver()?;
        let gpu = driver.gpu(device)?;
        Ok(current_pool(&mut driver.objects(), gpu))
    };
    // SAFETY: the caller's pointer.
    unsafe { give(pool, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceSetMemPool(device: i32, pool: usize) -> Code {
    let set = |driver: &Driver| {
        let gpu = driver.gpu(device)?;
        if with_pool(pool, |_, pool| Ok(pool.gpu))? != gpu {
            return Err(INVALID_DEVICE);
        }
        driver.objects().pools.current.insert(gpu, pool);
        Ok(())
    };
    code(driver().and_then(set))
}

/// There is no other GPU a pool could be used from.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAccess(pool: usize, access: *const c_void, count: usize) -> Code {
    if access.is_null() && count > 0 { INVALID_VALUE } else { code(with_pool(pool, |_, _| Ok(()))) }
}

/// Pool an address was handed out by.
pub(crate) fn pool_of(objects: &Objects, address: u64) -> Option<usize> {
    objects.pools.live.get(&address).map(|(pool, _)| *pool)
}

per_thread! {
    cuMemAllocAsync_ptsz = cuMemAllocAsync(address: *mut u64, bytes: usize; stream; );
    cuMemAllocFromPoolAsync_ptsz = cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: usize; stream; );
    cuMemFreeAsync_ptsz = cuMemFreeAsync(address: u64; stream; );
}

#[cfg(test)]
mod tests {
    #[test]
    fn properties_are_those_of_cuda_h() {
        assert_eq!(size_of::<super::PoolProps>(), 88);
    }
}
