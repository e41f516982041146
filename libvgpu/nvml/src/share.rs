//! A GPU's shares, read from their files.

use std::ffi::CStr;
use std::path::Path;

use vgpu_core::usage::Process;
use vgpu_core::{limits, usage};
use vgpu_share::{ROOT, folders, is_held, open_usage};

use crate::{Return, SUCCESS, UNKNOWN, real};

/// All shares of one GPU in this container, summed.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Limit in bytes.
    pub(crate) limit: u64,
    /// Bytes charged.
    pub(crate) used: u64,
    /// Processes.
    pub(crate) processes: Vec<Process>,
    /// GPU nanoseconds charged so far.
    pub(crate) gpu_nanos: u64,
    /// Percent of GPU time it may use, up to 100.
    pub(crate) cap: u32,
    /// Whether that is less than all.
    pub(crate) is_capped: bool,
}

/// The shares of an NVML device; `None` without any.
pub(crate) fn view(device: usize) -> Result<Option<View>, Return> {
    let mut buffer = [0 as std::ffi::c_char; 96];
    // SAFETY: a local buffer and its length.
    let asked = unsafe { real::device_uuid(device, buffer.as_mut_ptr(), 96) };
    if asked != SUCCESS {
        return Err(asked);
    }
    // SAFETY: NVML wrote a C string, and the last byte is zero in any case.
    let uuid = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned();
    let folders = folders(Path::new(ROOT), &uuid).map_err(|_| UNKNOWN)?;
    if folders.is_empty() {
        return Ok(None);
    }
    let mut view = View::default();
    for folder in folders {
        let limits = std::fs::read(folder.join("limits")).map_err(|_| UNKNOWN)?;
        let limits = limits::decode(&limits).map_err(|_| UNKNOWN)?;
        let file = open_usage(&folder.join("usage")).map_err(|_| UNKNOWN)?;
        let usage = usage::read(&file, &|file, slot| is_held(file, slot)).map_err(|_| UNKNOWN)?;
        view.limit = view.limit.saturating_add(limits.memory);
        view.used = view.used.saturating_add(usage.memory);
        view.gpu_nanos = view.gpu_nanos.saturating_add(usage.gpu_nanos);
        let terms = limits.terms();
        view.cap = view.cap.saturating_add(if terms.is_capped() { terms.cores } else { 100 }).min(100);
        view.processes.extend(usage.processes);
    }
    view.is_capped = view.cap < 100;
    Ok(Some(view))
}
