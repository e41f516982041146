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
    let (limit, overhead) = match device.shares.as_slice() {
        [] => return Ok((free, total)),
        [share] => {
            let limits = share.limits.read();
            (limits.memory, limits.overhead)
        }
        _ => (device.limit().unwrap_or(u64::MAX), device.overhead()),
    };
    device.settle_overhead_of(overhead);
    pool::settle_all();
    graph::settle(ordinal);
    let room = usize::try_from(limit.saturating_sub(device.used())).unwrap_or(usize::MAX);
    Ok((free.min(room), total.min(usize::try_from(limit).unwrap_or(usize::MAX))))
}

/// Total bytes of a GPU: the share's.
pub(crate) fn total(ordinal: i32) -> Result<usize, Code> {
    let mut total = 0;
    // SAFETY: a pointer to a local.
    check(unsafe { real::cuDeviceTotalMem_v2(&raw mut total, ordinal) })?;
    let limit = state().device(ordinal)?.limit();
    Ok(limit.map_or(total, |limit| total.min(usize::try_from(limit).unwrap_or(usize::MAX))))
}
