//! `info`: a line per device, `{"device", "uuid", "name", "deviceTotal", "free", "total"}`: cuDeviceTotalMem, and what
//! cuMemGetInfo says with a context of the device.

use serde_json::json;

use crate::cuda::{Cuda, CudaError};
use crate::say;

pub(crate) fn run() -> Result<(), CudaError> {
    let cuda = Cuda::load()?;
    for device in 0..cuda.devices()? {
        cuda.use_device(device)?;
        let (free, total) = cuda.memory()?;
        say(&json!({
            "device": device,
            "uuid": cuda.uuid(device)?,
            "name": cuda.name(device)?,
            "deviceTotal": cuda.total_memory(device)?,
            "free": free,
            "total": total,
        }))?;
    }
    Ok(())
}
