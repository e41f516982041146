//! Reports: a program sees its share as if it were the GPU.

use crate::state::state;
use crate::{Code, check, graph, pool, real};

/// Free and total bytes of the current GPU: the share's, and never more than the GPU has.
pub(crate) fn memory() -> Result<(usize, usize), Code> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: pointers to locals.
    check(unsafe { real::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
    // Without a share, and when it cannot be told which GPU this is, the driver's figures are the answer.
    let Ok((device, ordinal, _)) = state().current() else { return Ok((free, total)) };
    let (limit, overhead, resident) = match device.shares.as_slice() {
        [] => return Ok((free, total)),
        [share] => {
            let limits = share.limits.read();
            (limits.memory, limits.overhead, limits.on_gpu())
        }
        _ => (device.limit().unwrap_or(u64::MAX), device.overhead(), device.resident()),
    };
    device.settle_overhead_of(overhead);
    pool::settle_all();
    graph::settle(ordinal);
    let room = usize::try_from(resident.saturating_sub(device.used())).unwrap_or(usize::MAX);
    let (on_gpu, of_gpu) = (free.min(room), total.min(usize::try_from(resident).unwrap_or(usize::MAX)));
    if limit == resident {
        return Ok((on_gpu, of_gpu));
    }
    // What may lie in the host's memory is beside what the GPU has.
    let on_host = limit.saturating_sub(resident);
    let free_on_host = on_host.saturating_sub(device.used_on_host());
    let beside = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok((on_gpu.saturating_add(beside(free_on_host)), of_gpu.saturating_add(beside(on_host))))
}

/// Total bytes of a GPU: the share's.
pub(crate) fn total(ordinal: i32) -> Result<usize, Code> {
    let mut total = 0;
    // SAFETY: a pointer to a local.
    check(unsafe { real::cuDeviceTotalMem_v2(&raw mut total, ordinal) })?;
    let device = state().device(ordinal)?;
    let Some(limit) = device.limit() else { return Ok(total) };
    let resident = device.resident();
    let of = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(total.min(of(resident)).saturating_add(of(limit.saturating_sub(resident))))
}
