//! Events: critical Xids of the GPUs a set is registered for.
//!
//! A set gets every Xid raised after its registration, in order, each once, whether anybody waited at that moment or
//! not; of more than [`XIDS`] that nobody fetched only the latest are kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fake_gpu::layout::{XIDS, XidRecord};

use crate::{
    INVALID_ARGUMENT, NOT_SUPPORTED, Nvml, Return, SUCCESS, TIMEOUT, UNINITIALIZED, give, gpu, with,
};

/// `nvmlEventTypeXidCriticalError`.
const XID: u64 = 8;

/// How often a waiter looks.
const PERIOD: Duration = Duration::from_millis(20);

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

/// Event sets by handle.
#[derive(Debug, Default)]
pub(crate) struct Sets(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: usize,
    sets: HashMap<usize, Set>,
}

/// GPU of the file -> number of the first Xid that counts.
#[derive(Debug, Default)]
struct Set {
    registered: HashMap<usize, u64>,
    /// Number of the first Xid not looked at yet.
    next: u64,
}

impl Sets {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut usize) -> Return {
    let create = |nvml: &Nvml| {
        let next = nvml.gpus.lock().header.raised;
        let mut table = nvml.sets.table();
        table.last += 1;
        let handle = table.last;
        table.sets.insert(handle, Set { next, ..Set::default() });
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(set, create) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: usize) -> Return {
    let free = |nvml: &Nvml| nvml.sets.table().sets.remove(&set).ok_or(INVALID_ARGUMENT);
    with(free).map_or_else(|code| code, |_| SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(device: usize, kinds: u64, set: usize) -> Return {
    let register = |nvml: &Nvml| {
        let index = gpu(nvml, device)?;
        if kinds & !XID != 0 {
            return Err(NOT_SUPPORTED);
        }
        let raised = nvml.gpus.lock().header.raised;
        let mut table = nvml.sets.table();
        let set = table.sets.get_mut(&set).ok_or(INVALID_ARGUMENT)?;
        if kinds != 0 {
            set.registered.entry(index).or_insert(raised);
        }
        Ok(())
    };
    with(register).map_or_else(|code| code, |()| SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: usize, kinds: *mut u64) -> Return {
    // SAFETY: the caller's pointer.
    unsafe { give(kinds, |nvml| gpu(nvml, device).map(|_| XID)) }
}

impl Set {
    /// The next Xid that counts.
    fn take(&mut self, raised: u64, xids: &[XidRecord; XIDS]) -> Option<XidRecord> {
        self.next = self.next.max(raised.saturating_sub(XIDS as u64));
        while self.next < raised {
            let number = self.next;
            self.next += 1;
            let record = xids[number as usize % XIDS];
            if self.registered.get(&(record.gpu as usize)).is_some_and(|from| *from <= number) {
                return Some(record);
            }
        }
        None
    }
}

fn next(nvml: &Nvml, set: usize) -> Result<Option<EventData>, Return> {
    let (raised, xids) = {
        let locked = nvml.gpus.lock();
        (locked.header.raised, locked.header.xids)
    };
    let mut table = nvml.sets.table();
    let found = table.sets.get_mut(&set).ok_or(INVALID_ARGUMENT)?.take(raised, &xids);
    Ok(found.map(|record| EventData {
        device: nvml.devices.iter().position(|i| *i == record.gpu as usize).map_or(0, |i| i + 1),
        kind: XID,
        data: record.xid.into(),
        gpu_instance: u32::MAX,
        compute_instance: u32::MAX,
    }))
}

/// Waits for an Xid, or until the time is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(set: usize, data: *mut EventData, millis: u32) -> Return {
    if data.is_null() {
        return INVALID_ARGUMENT;
    }
    let end = Instant::now() + Duration::from_millis(millis.into());
    loop {
        // The library is let go between looks, so that nvmlShutdown need not wait.
        match with(|nvml| next(nvml, set)) {
            Ok(Some(event)) => {
                // SAFETY: the caller's pointer, not null.
                unsafe { data.write(event) };
                return SUCCESS;
            }
            Ok(None) if Instant::now() >= end => return TIMEOUT,
            Ok(None) => std::thread::sleep(PERIOD.min(end.saturating_duration_since(Instant::now()))),
            Err(UNINITIALIZED) => return UNINITIALIZED,
            Err(code) => return code,
        }
    }
}

/// The first version of the structure has no instances.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait(set: usize, data: *mut EventDataV1, millis: u32) -> Return {
    if data.is_null() {
        return INVALID_ARGUMENT;
    }
    let mut wide = EventData { device: 0, kind: 0, data: 0, gpu_instance: 0, compute_instance: 0 };
    // SAFETY: a pointer to a local.
    let code = unsafe { nvmlEventSetWait_v2(set, &raw mut wide, millis) };
    if code == SUCCESS {
        // SAFETY: the caller's pointer, not null.
        unsafe { data.write(EventDataV1 { device: wide.device, kind: wide.kind, data: wide.data }) };
    }
    code
}

/// `nvmlEventData_t` of the first version.
#[repr(C)]
#[derive(Debug)]
pub struct EventDataV1 {
    device: usize,
    kind: u64,
    data: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xids(records: &[(u32, u32)]) -> [XidRecord; XIDS] {
        let mut xids = [XidRecord { gpu: 0, xid: 0 }; XIDS];
        for (i, (gpu, xid)) in records.iter().enumerate() {
            xids[i] = XidRecord { gpu: *gpu, xid: *xid };
        }
        xids
    }

    #[test]
    fn a_set_gets_what_its_gpus_raised_since_in_order_and_each_once() {
        let mut set = Set { registered: HashMap::from([(0, 1), (2, 0)]), next: 0 };
        let raised = xids(&[(0, 31), (0, 79), (1, 48), (2, 63)]);
        let mut take = || set.take(4, &raised).map(|x| (x.gpu, x.xid));
        assert_eq!([take(), take(), take()], [Some((0, 79)), Some((2, 63)), None]);
    }

    #[test]
    fn of_too_many_only_the_latest_are_kept() {
        let mut set = Set { registered: HashMap::from([(0, 0)]), next: 0 };
        let raised = [XidRecord { gpu: 0, xid: 31 }; XIDS];
        let count = std::iter::from_fn(|| set.take(1_000, &raised)).count();
        assert_eq!(count, XIDS);
    }
}
