//! A libnvidia-ml.so.1 over fake-gpu: what nvml-wrapper and nvidia-smi ask.
//!
//! Handles are indices plus one. Process ids are those processes have in their own pid namespace, since the file cannot
//! know another. Return codes and structures are those of nvml.h.
#![allow(
    non_snake_case,
    unreachable_pub,
    missing_docs,
    clippy::missing_safety_doc,
    reason = "names and contracts are those of NVML"
)]

mod device;
mod event;
mod process;
mod system;

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use fake_gpu::{CONTAINER_FILE, Gpus};

/// `nvmlReturn_t`.
pub(crate) type Return = u32;
pub(crate) const SUCCESS: Return = 0;
pub(crate) const UNINITIALIZED: Return = 1;
pub(crate) const INVALID_ARGUMENT: Return = 2;
pub(crate) const NOT_SUPPORTED: Return = 3;
pub(crate) const NOT_FOUND: Return = 6;
pub(crate) const INSUFFICIENT_SIZE: Return = 7;
pub(crate) const DRIVER_NOT_LOADED: Return = 9;
pub(crate) const TIMEOUT: Return = 10;
pub(crate) const GPU_IS_LOST: Return = 15;

/// What nvmlInit set up.
pub(crate) struct Nvml {
    pub(crate) gpus: Gpus,
    /// NVML index -> GPU of the file.
    pub(crate) devices: Vec<usize>,
    users: u32,
}

static NVML: RwLock<Option<Nvml>> = RwLock::new(None);

/// Runs with the library initialised.
pub(crate) fn with<T>(work: impl FnOnce(&Nvml) -> Result<T, Return>) -> Result<T, Return> {
    let nvml = NVML.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    nvml.as_ref().map_or(Err(UNINITIALIZED), work)
}

/// GPU of a handle.
pub(crate) fn gpu(nvml: &Nvml, device: usize) -> Result<usize, Return> {
    device.checked_sub(1).and_then(|i| nvml.devices.get(i)).copied().ok_or(INVALID_ARGUMENT)
}

/// `Ok` as success.
pub(crate) fn code(result: Result<(), Return>) -> Return {
    result.err().unwrap_or(SUCCESS)
}

/// Writes through a caller's pointer.
///
/// # Safety
/// `to` is null or valid for a write.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Return> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller of the NVML function promised that it is valid.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a C string into a caller's buffer.
///
/// # Safety
/// `to` is null or valid for `room` bytes.
pub(crate) unsafe fn put_text(to: *mut c_char, room: u32, text: &str) -> Result<(), Return> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if (room as usize) <= text.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the buffer has room for the text and its zero.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// The GPU file and the folder of device nodes, as for the CUDA library.
fn gpu_file() -> (PathBuf, PathBuf) {
    // SAFETY: Dl_info is plain pointers, for which null is a value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is of this library's code; the result's string lives as long as the library.
    let found = unsafe { libc::dladdr(nvmlInit_v2 as *const c_void, &raw mut info) };
    if found != 0 && !info.dli_fname.is_null() {
        // SAFETY: dladdr gave a C string.
        let own = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned();
        let root = Path::new(&own).parent().and_then(Path::parent);
        if let Some(root) = root.filter(|r| r.join("gpus").is_file()) {
            return (root.join("gpus"), root.join("dev"));
        }
    }
    (CONTAINER_FILE.into(), "/dev".into())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    let mut nvml = NVML.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(nvml) = nvml.as_mut() {
        nvml.users += 1;
        return SUCCESS;
    }
    let (file, folder) = gpu_file();
    let Ok(gpus) = Gpus::open(&file) else { return DRIVER_NOT_LOADED };
    let visible = |minor: &usize| folder.join(format!("nvidia{minor}")).exists();
    let devices = (0..gpus.count()).filter(visible).collect();
    *nvml = Some(Nvml { gpus, devices, users: 1 });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit() -> Return {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: u32) -> Return {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    let mut nvml = NVML.write().unwrap_or_else(std::sync::PoisonError::into_inner);
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
