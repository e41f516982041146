//! Events: critical Xids, as NVML delivers them.

use std::time::{Duration, Instant};

use crate::{Return, SUCCESS, TIMEOUT, code, gpu, put, with};

/// `nvmlEventTypeXidCriticalError`.
const XID: u64 = 8;

/// `nvmlEventData_t`.
#[repr(C)]
#[derive(Debug)]
pub struct EventData {
    device: usize,
    kind: u64,
    data: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

/// A set is only a handle: every GPU is watched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut usize) -> Return {
    // SAFETY: the caller's pointer.
    code(with(|_| unsafe { put(set, 1) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(_set: usize) -> Return {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: usize, _kinds: u64, _set: usize) -> Return {
    code(with(|nvml| gpu(nvml, device).map(drop)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: usize, kinds: *mut u64) -> Return {
    // SAFETY: the caller's pointer.
    code(with(|nvml| gpu(nvml, device).and_then(|_| unsafe { put(kinds, XID) })))
}

/// Xids of all GPUs, by device.
fn xids() -> Result<Vec<u32>, Return> {
    with(|nvml| {
        let locked = nvml.gpus.lock();
        Ok(nvml.devices.iter().map(|i| locked.gpus[*i].xid).collect())
    })
}

/// Waits until an Xid appears that was not there when the wait began.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(_set: usize, data: *mut EventData, millis: u32) -> Return {
    let end = Instant::now() + Duration::from_millis(millis.into());
    let before = match xids() {
        Ok(before) => before,
        Err(code) => return code,
    };
    loop {
        let now = match xids() {
            Ok(now) => now,
            Err(code) => return code,
        };
        let changed = now.iter().zip(&before).position(|(now, before)| *now != 0 && now != before);
        if let Some(index) = changed {
            let event = EventData {
                device: index + 1,
                kind: XID,
                data: now[index].into(),
                gpu_instance: u32::MAX,
                compute_instance: u32::MAX,
            };
            // SAFETY: the caller's pointer.
            return code(unsafe { put(data, event) });
        }
        if Instant::now() >= end {
            return TIMEOUT;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
