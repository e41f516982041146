//! Memory of one process opened in another. The owner pays; what the opener sees at the address is its own.

use std::collections::HashMap;

use fake_gpu::Store;

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, code, give, of_gpu, twins};

/// What was exported and what was opened, by address.
#[derive(Default)]
pub(crate) struct Ipc {
    exported: HashMap<u64, u64>,
    opened: HashMap<u64, u64>,
}

/// `CUipcMemHandle`: number, mark, and zeroes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MemHandle {
    words: [u64; 8],
}

const MARK: u64 = 0x6661_6b65_2069_7063;

/// Only of linear allocations.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcGetMemHandle(handle: *mut MemHandle, address: u64) -> Code {
    let export = || {
        let driver = driver()?;
        let (begin, bytes) = driver.process.allocation_at(address).ok_or(INVALID_VALUE)?;
        let context = driver.process.context_of(begin).ok_or(INVALID_VALUE)?;
        let mut objects = driver.objects();
        if objects.managed.contains(&begin) {
            return Err(INVALID_VALUE);
        }
        let number = match objects.ipc.exported.get(&begin) {
            Some(number) => *number,
            None => {
                // Held for others to find; it is charged by the allocation itself.
                let number = driver.process.export(None, bytes).map_err(|e| of_gpu(&e))?;
                objects.ipc.exported.insert(begin, number);
                number
            }
        };
        Ok(MemHandle { words: [number, MARK, context.gpu() as u64, 0, 0, 0, 0, 0] })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(handle, export) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcOpenMemHandle_v2(address: *mut u64, handle: MemHandle, flags: u32) -> Code {
    let open = || {
        let driver = driver()?;
        driver.current()?;
        let [number, mark, gpu, ..] = handle.words;
        if mark != MARK || flags > 1 {
            return Err(INVALID_VALUE);
        }
        let gpu = gpu as usize;
        if driver.ordinal(gpu) < 0 {
            return Err(INVALID_DEVICE);
        }
        let (_, bytes, is_own) = driver.process.import(number).ok_or(INVALID_VALUE)?;
        if is_own {
            // A process cannot open what is its own.
            return Err(INVALID_CONTEXT);
        }
        let found = driver.process.reserve(bytes, 512).ok_or(crate::OUT_OF_MEMORY)?;
        driver.process.map(gpu, found, bytes, &Store::new(bytes), 0);
        driver.objects().ipc.opened.insert(found, number);
        Ok(found)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(address, open) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcCloseMemHandle(address: u64) -> Code {
    let close = |driver: &Driver| {
        let number = driver.objects().ipc.opened.remove(&address).ok_or(INVALID_VALUE)?;
        driver.process.free(address);
        driver.process.drop_export(number);
        Ok(())
    };
    code(driver().and_then(close))
}

/// Whether an address is of opened memory, which only cuIpcCloseMemHandle gives back.
pub(crate) fn is_opened(driver: &Driver, address: u64) -> bool {
    driver.objects().ipc.opened.contains_key(&address)
}

/// An allocation is gone: its handle cannot be opened any more.
pub(crate) fn forget(driver: &Driver, address: u64) {
    if let Some(number) = driver.objects().ipc.exported.remove(&address) {
        driver.process.drop_export(number);
    }
}

twins! {
    cuIpcOpenMemHandle = cuIpcOpenMemHandle_v2(address: *mut u64, handle: MemHandle, flags: u32);
}
