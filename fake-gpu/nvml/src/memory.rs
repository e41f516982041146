//! Memory of a GPU.

use crate::{ARGUMENT_VERSION_MISMATCH, INVALID_ARGUMENT, Nvml, Return, give, gpu};

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Debug)]
pub struct MemoryV2 {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2`: size and version.
const VERSION_2: u32 = size_of::<MemoryV2>() as u32 | 2 << 24;

/// Total, reserved, used by processes.
fn memory(nvml: &Nvml, device: usize) -> Result<(u64, u64, u64), Return> {
    let index = gpu(nvml, device)?;
    let mut locked = nvml.gpus.lock();
    locked.reap(None);
    Ok((locked.gpus[index].total, locked.gpus[index].reserved, locked.used(index)))
}

/// The first version counts the driver's part as used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: usize, info: *mut Memory) -> Return {
    let read = |nvml: &Nvml| {
        let (total, reserved, used) = memory(nvml, device)?;
        let used = used + reserved;
        Ok(Memory { total, free: total.saturating_sub(used), used })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(info, read) }
}

/// The caller says in the structure which version it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, info: *mut MemoryV2) -> Return {
    if info.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and the caller has filled in the version.
    let version = unsafe { (*info).version };
    let read = |nvml: &Nvml| {
        let (total, reserved, used) = memory(nvml, device)?;
        if version != VERSION_2 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        let free = total.saturating_sub(reserved + used);
        Ok(MemoryV2 { version, total, reserved, free, used })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(info, read) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_nvml_h() {
        assert_eq!(super::VERSION_2, 33_554_472);
    }
}
