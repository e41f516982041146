//! A libnvidia-ml.so.1 over fake-gpu: what nvml-wrapper, device plugins and nvidia-smi ask.
//!
//! * A handle is the NVML index plus one. NVML indices count the GPUs whose device node is there, in minor order.
//! * **Process ids** are those of the caller's pid namespace where they can be known: a process of the same namespace by
//!   its own id, one of another namespace by what `/proc` of the caller shows of it (so on the host, and in pods with
//!   `hostPID`, every id is the host's). A process that cannot be seen from here keeps the id it has in its own namespace.
//! * **Utilisation** is the mean of the last whole second, in whole percent, as sampled by sixths of a second.
//! * A GPU with Xid 79 is lost: no handle is given and every call on one is `NVML_ERROR_GPU_IS_LOST`. Other Xids are
//!   delivered to event sets and change nothing else.
//! * What a board of this kind would measure and a fake cannot (power, temperature, clocks, fans) is
//!   `NVML_ERROR_NOT_SUPPORTED`, as is MIG. Anything else is not exported.
//!
//! Return codes and structures are those of nvml.h. Nothing panics across the boundary. A forked child must call nvmlInit
//! for itself.
#![allow(
    non_snake_case,
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    reason = "names and contracts are those of NVML"
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod absent;
mod code;
mod device;
mod event;
mod handle;
mod identity;
mod memory;
mod pids;
mod private;
mod process;
mod system;
mod topology;

use std::ffi::c_char;
use std::sync::{PoisonError, RwLock};

pub(crate) use code::*;
use fake_gpu::Gpus;
use fake_gpu::place::Place;

/// What nvmlInit set up.
pub(crate) struct Nvml {
    pub(crate) gpus: Gpus,
    /// NVML index -> GPU of the file, which is its minor number too.
    pub(crate) devices: Vec<usize>,
    pub(crate) sets: event::Sets,
    users: u32,
}

static NVML: RwLock<Option<Nvml>> = RwLock::new(None);

/// Runs with the library initialised.
pub(crate) fn with<T>(work: impl FnOnce(&Nvml) -> Result<T, Return>) -> Result<T, Return> {
    let nvml = NVML.read().unwrap_or_else(PoisonError::into_inner);
    nvml.as_ref().filter(|n| !n.gpus.is_inherited()).map_or(Err(UNINITIALIZED), work)
}

/// GPU of a handle.
pub(crate) fn gpu(nvml: &Nvml, device: usize) -> Result<usize, Return> {
    let index = device.checked_sub(1).and_then(|i| nvml.devices.get(i)).copied().ok_or(INVALID_ARGUMENT)?;
    let is_lost = nvml.gpus.lock().gpus[index].xid == fake_gpu::OFF_THE_BUS;
    if is_lost { Err(GPU_IS_LOST) } else { Ok(index) }
}

/// Finds something out and writes it through a pointer a caller gave, which must not be null.
///
/// # Safety
/// `to` is null or valid for a write.
pub(crate) unsafe fn give<T>(to: *mut T, find: impl FnOnce(&Nvml) -> Result<T, Return>) -> Return {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    match with(find) {
        Ok(found) => {
            // SAFETY: not null, and the caller of the NVML function promised that it is valid.
            unsafe { to.write(found) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Writes a C string into a caller's buffer.
///
/// # Safety
/// `to` is null or valid for `room` bytes.
pub(crate) unsafe fn give_text(
    to: *mut c_char,
    room: u32,
    find: impl FnOnce(&Nvml) -> Result<String, Return>,
) -> Return {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    match with(find) {
        Ok(text) if room as usize <= text.len() => INSUFFICIENT_SIZE,
        Ok(text) => {
            // SAFETY: the buffer has room for the text and its zero.
            unsafe {
                to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
                to.add(text.len()).write(0);
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> Return {
    let mut nvml = NVML.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvml) = nvml.as_mut().filter(|n| !n.gpus.is_inherited()) {
        nvml.users += 1;
        return SUCCESS;
    }
    let place = Place::of_library(nvmlInit_v2 as *const () as usize);
    let Ok(gpus) = Gpus::open(&place.gpus) else { return DRIVER_NOT_LOADED };
    let devices: Vec<usize> = (0..gpus.count()).filter(|minor| place.has(*minor)).collect();
    if devices.is_empty() && !place.has_control() {
        return DRIVER_NOT_LOADED;
    }
    *nvml = Some(Nvml { gpus, devices, sets: event::Sets::default(), users: 1 });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit() -> Return {
    // SAFETY: no arguments.
    unsafe { nvmlInit_v2() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInitWithFlags(_flags: u32) -> Return {
    // SAFETY: no arguments.
    unsafe { nvmlInit_v2() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> Return {
    let mut nvml = NVML.write().unwrap_or_else(PoisonError::into_inner);
    match nvml.as_mut() {
        None => UNINITIALIZED,
        Some(n) if n.users > 1 => {
            n.users -= 1;
            SUCCESS
        }
        Some(_) => {
            *nvml = None;
            SUCCESS
        }
    }
}
