//! Where GPUs are to each other and to the host's memory.

use std::ffi::c_ulong;

use crate::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, Nvml, Return, SUCCESS, give, gpu, with};

/// `nvmlGpuTopologyLevel_t`: the same board, the same root, the same NUMA node, neither.
const INTERNAL: u32 = 0;
const HOSTBRIDGE: u32 = 30;
const NODE: u32 = 40;
const SYSTEM: u32 = 50;

fn level(nvml: &Nvml, one: usize, other: usize) -> Result<u32, Return> {
    let (one, other) = (gpu(nvml, one)?, gpu(nvml, other)?);
    let locked = nvml.gpus.lock();
    let (a, b) = (&locked.gpus[one], &locked.gpus[other]);
    Ok(match () {
        () if one == other => INTERNAL,
        () if a.root == b.root => HOSTBRIDGE,
        () if a.numa == b.numa => NODE,
        () => SYSTEM,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    one: usize,
    other: usize,
    found: *mut u32,
) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(found, |nvml| level(nvml, one, other)) }
}

/// `NVML_P2P_CAPS_INDEX_NVLINK`, and the last index there is.
const NVLINK: u32 = 2;
const LAST_INDEX: u32 = 4;
/// `nvmlGpuP2PStatus_t`: it works, it is not supported.
const P2P_OK: u32 = 0;
const P2P_NOT_SUPPORTED: u32 = 5;

/// Whether two GPUs reach each other in a way. The fake has NVLink and nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    one: usize,
    other: usize,
    index: u32,
    status: *mut u32,
) -> Return {
    if index > LAST_INDEX {
        return INVALID_ARGUMENT;
    }
    let found = |nvml: &Nvml| {
        let (one, other) = (gpu(nvml, one)?, gpu(nvml, other)?);
        let locked = nvml.gpus.lock();
        let (a, b) = (locked.gpus[one].nvlink, locked.gpus[other].nvlink);
        let is_linked = one != other && a != 0 && a == b && index == NVLINK;
        Ok(if is_linked { P2P_OK } else { P2P_NOT_SUPPORTED })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(status, found) }
}

/// GPUs at exactly a level from one. The count holds the room in the list, then how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyNearestGpus(
    device: usize,
    wanted: u32,
    count: *mut u32,
    list: *mut usize,
) -> Return {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let near = with(|nvml| {
        gpu(nvml, device)?;
        let handles = (1..=nvml.devices.len()).filter(|other| *other != device);
        Ok(handles.filter(|other| level(nvml, device, *other) == Ok(wanted)).collect::<Vec<usize>>())
    });
    let near = match near {
        Ok(near) => near,
        Err(code) => return code,
    };
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(near.len() as u32) } as usize;
    if list.is_null() {
        return if room == 0 { SUCCESS } else { INVALID_ARGUMENT };
    }
    if room < near.len() {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the caller gives `room` entries, and there are not more than that.
    near.iter().enumerate().for_each(|(i, handle)| unsafe { list.add(i).write(*handle) });
    SUCCESS
}

/// NUMA nodes near the GPU, a bit each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: usize,
    words: u32,
    nodes: *mut c_ulong,
    _scope: u32,
) -> Return {
    if nodes.is_null() || words == 0 {
        return INVALID_ARGUMENT;
    }
    let numa = with(|nvml| {
        let index = gpu(nvml, device)?;
        Ok(nvml.gpus.lock().gpus[index].numa)
    });
    match numa {
        Ok(numa) => {
            for word in 0..words {
                let bit = numa.checked_sub(word * c_ulong::BITS).filter(|bit| *bit < c_ulong::BITS);
                // SAFETY: the caller gives so many words.
                unsafe { nodes.add(word as usize).write(bit.map_or(0, |bit| 1 << bit)) };
            }
            SUCCESS
        }
        Err(code) => code,
    }
}
