//! cuMemCreate and its kin: charged to the GPU the memory is on, until handles and mappings are gone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vgpu_core::pointers::Parts;
use vgpu_core::virtual_memory::VirtualMemory;

use crate::state::state;
use crate::{Code, SUCCESS, memory};

/// A GPU's ordinal and what is charged to it.
pub(crate) type Blocks = Mutex<VirtualMemory<(i32, Parts)>>;

fn blocks() -> MutexGuard<'static, VirtualMemory<(i32, Parts)>> {
    state().blocks.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget((ordinal, parts): (i32, Parts)) {
    if let Ok(device) = state().device(ordinal) {
        device.give_back(&parts);
    }
}

/// Makes memory on a GPU; `None` is memory that is no GPU's.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` if it does not fit, else the driver's.
pub(crate) fn create(
    device: Option<i32>,
    bytes: u64,
    call: impl FnOnce() -> Result<u64, Code>,
) -> Result<(), Code> {
    let Some(ordinal) = device else { return call().map(drop) };
    // An ordinal that is none: the driver says so.
    if state().device(ordinal).is_err_and(|code| code != crate::OPERATING_SYSTEM) {
        return call().map(drop);
    }
    let (handle, parts) = memory::on_device(ordinal, Some(bytes), |_| call())?;
    if let Some(parts) = parts {
        blocks().create(handle, (ordinal, parts));
    }
    Ok(())
}

/// The driver gave a handle once more.
pub(crate) fn retained(handle: u64, address: Option<u64>) {
    blocks().retain(handle, address);
}

/// Calls the driver to give a handle back. The lock is held: the number may be another block's right after.
pub(crate) fn release(handle: u64, call: impl FnOnce() -> Code) -> Code {
    let mut blocks = blocks();
    let done = call();
    let gone = if done == SUCCESS { blocks.release(handle) } else { None };
    drop(blocks);
    gone.into_iter().for_each(forget);
    done
}

/// Calls the driver to map.
pub(crate) fn map(address: u64, bytes: u64, handle: u64, call: impl FnOnce() -> Code) -> Code {
    let mut blocks = blocks();
    let done = call();
    if done == SUCCESS {
        blocks.map(address, bytes, handle);
    }
    done
}

/// Calls the driver to unmap.
pub(crate) fn unmap(address: u64, bytes: u64, call: impl FnOnce() -> Code) -> Code {
    let mut blocks = blocks();
    let done = call();
    let gone = if done == SUCCESS { blocks.unmap(address, bytes) } else { Vec::new() };
    drop(blocks);
    gone.into_iter().for_each(forget);
    done
}
