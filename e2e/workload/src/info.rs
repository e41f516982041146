//! `info`: one JSON line per device.

use serde_json::json;

use crate::cuda::{Cuda, CudaError};

pub(crate) fn run() -> Result<(), CudaError> {
    let cuda = Cuda::load()?;
    for device in 0..cuda.devices()? {
        cuda.use_device(device)?;
        let (free, total) = cuda.memory()?;
        let line = json!({
            "device": device,
            "uuid": cuda.uuid(device)?,
            "deviceTotal": cuda.total_memory(device)?,
            "free": free,
            "total": total,
        });
        println!("{line}");
    }
    Ok(())
}
