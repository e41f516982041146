//! The GPUs of this node as the driver reports them.
//!
//! | what is odd                                  | what becomes of the GPU                                    |
//! |---|---|
//! | MIG mode, exclusive compute mode, no memory of its own | listed with the reason in `unpublished`          |
//! | a critical Xid event ([`health`])            | listed as Unhealthy until it is recovered                   |
//! | the driver asks for a reset of it            | listed as Unhealthy until the driver no longer does         |
//! | the driver no longer answers for it          | listed as Unhealthy while the plugin runs, then not at all  |
//! | no driver                                    | an error with the cure; the caller tries again              |

pub mod health;
pub mod library;
pub mod nvml;
pub mod pci;

use std::collections::BTreeMap;
use std::path::PathBuf;

use vgpu_api::Gpu;

/// What the driver says about the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// As NVML prints it, `550.163.01`.
    pub driver_version: String,
    /// Highest CUDA version of the driver, `12.4`.
    pub cuda_driver_version: String,
    /// By minor number.
    pub gpus: Vec<Gpu>,
    /// What the driver wants done to a GPU before it is used again, by UUID. Drivers before 560 do not say; their GPUs
    /// have no entry.
    pub recovery: BTreeMap<String, Recovery>,
}

/// `nvmlDeviceGpuRecoveryAction_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing: the GPU is fine.
    None,
    /// A GPU reset, at once or when what runs on it has ended.
    Reset,
    /// A reboot of the node.
    Reboot,
    /// An action newer than this program.
    Other,
}

/// Why there is no inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpusError {
    /// No NVML below the driver root.
    #[error(
        "no NVIDIA driver: libnvidia-ml.so.1 is in none of the usual folders below {}; install the driver, or set --driver-root or --nvml-library",
        root.display()
    )]
    NoLibrary {
        /// The driver root.
        root: PathBuf,
    },
    /// NVML is there and does not work.
    #[error("NVML of {} fails: {why}; run nvidia-smi on the node to see whether the driver is loaded", library.display())]
    Nvml {
        /// The library.
        library: PathBuf,
        /// Its answer.
        why: String,
    },
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// NVML UUID of the GPU.
    pub uuid: String,
    /// Its id as this program sees it.
    pub pid: u32,
    /// Bytes of the GPU it holds.
    pub memory: u64,
}

/// Lists GPUs. Real: [`nvml::NvmlGpus`].
pub trait Gpus: Send + Sync {
    /// By minor number. Errors: [`GpusError`]; a GPU that fails alone is listed as Unhealthy when its UUID is known.
    fn list(&self) -> Result<Inventory, GpusError>;

    /// Who holds memory of which GPU, as far as the driver tells. Errors: [`GpusError`].
    fn holders(&self) -> Result<Vec<Holder>, GpusError> {
        Ok(Vec::new())
    }
}
