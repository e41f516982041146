//! The GPUs of this node as the driver reports them. Real: [`nvml`].

pub mod nvml;

use vgpu_api::Gpu;

/// What the driver says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// By minor number.
    pub gpus: Vec<Gpu>,
    /// Driver version.
    pub driver_version: String,
    /// Highest CUDA version.
    pub cuda_driver_version: String,
}

/// Why there is no inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No NVML.
    #[error("no libnvidia-ml.so.1 below {0}: install NVIDIA's driver, or name its root with --driver-root")]
    NoLibrary(String),
    /// NVML does not work.
    #[error("NVML: {0}")]
    Nvml(String),
}

/// A source of inventories.
pub trait Gpus: Send + Sync {
    /// What there is now. A GPU the driver lost stays in the list as unhealthy.
    ///
    /// # Errors
    /// [`GpuError`].
    fn list(&self) -> Result<Inventory, GpuError>;
}
