//! The GPUs as NVML lists them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nvml_wrapper::enum_wrappers::device::{Brand, ComputeMode};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use vgpu_api::{Gpu, Health, MIB};

use super::pci::{self, Sysfs};
use super::{Gpus, GpusError, Inventory, library};

/// Where NVML is.
#[derive(Debug, Clone)]
pub enum Library {
    /// This file.
    Path(PathBuf),
    /// In one of the usual folders below this root.
    Below(PathBuf),
}

impl Library {
    /// The file, looked for anew each time: a driver may be installed while the plugin waits.
    pub fn locate(&self) -> Result<PathBuf, GpusError> {
        match self {
            Self::Path(path) => Ok(path.clone()),
            Self::Below(root) => {
                library::find(root).ok_or_else(|| GpusError::NoLibrary { root: root.clone() })
            }
        }
    }

    /// Loads and initialises NVML.
    pub fn load(&self) -> Result<Nvml, GpusError> {
        let library = self.locate()?;
        Nvml::builder()
            .lib_path(library.as_os_str())
            .init()
            .map_err(|e| GpusError::Nvml { library, why: e.to_string() })
    }
}

/// The real thing.
pub struct NvmlGpus {
    library: Library,
    sysfs: Sysfs,
    /// Kept loaded; dropped when it fails, so that a driver that was loaded anew is met with a fresh start.
    nvml: Mutex<Option<Nvml>>,
}

impl NvmlGpus {
    /// Loads nothing yet.
    pub fn new(library: Library, sysfs: Sysfs) -> Self {
        Self { library, sysfs, nvml: Mutex::new(None) }
    }
}

impl Gpus for NvmlGpus {
    fn list(&self) -> Result<Inventory, GpusError> {
        let mut nvml = self.nvml.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match nvml.take() {
            Some(loaded) => loaded,
            None => self.library.load()?,
        };
        let inventory = inventory(&loaded, &self.sysfs).map_err(|e| GpusError::Nvml {
            library: self.library.locate().unwrap_or_default(),
            why: e.to_string(),
        })?;
        *nvml = Some(loaded);
        Ok(inventory)
    }
}

fn inventory(nvml: &Nvml, sysfs: &Sysfs) -> Result<Inventory, NvmlError> {
    let cuda = nvml.sys_cuda_driver_version()?;
    let mut gpus = Vec::new();
    for index in 0..nvml.device_count()? {
        let found = nvml.device_by_index(index).and_then(|device| gpu(&device, sysfs));
        match found {
            Ok(gpu) => gpus.push(gpu),
            // One broken GPU hides no other; who knew it before keeps it as lost.
            Err(e) => tracing::warn!(index, error = %e, "NVML does not describe a GPU"),
        }
    }
    gpus.sort_by_key(|g| g.minor);
    Ok(Inventory {
        driver_version: nvml.sys_driver_version()?,
        cuda_driver_version: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
        gpus,
    })
}

fn gpu(device: &Device<'_>, sysfs: &Sysfs) -> Result<Gpu, NvmlError> {
    let capability = device.cuda_compute_capability()?;
    let (major, minor) = (capability.major, capability.minor);
    let bus_id = pci::bus_id(&device.pci_info()?.bus_id);
    // NVML's memory less what the driver keeps; a board without memory of its own cannot say, or says nothing.
    let memory = match device.memory_info() {
        Ok(info) => info.total.saturating_sub(info.reserved) / MIB,
        Err(NvmlError::NotSupported) => 0,
        Err(e) => return Err(e),
    };
    Ok(Gpu {
        uuid: device.uuid()?,
        minor: device.minor_number()?.into(),
        product_name: device.name()?,
        brand: brand(device.brand()),
        architecture: architecture(major, minor).to_owned(),
        cuda_compute_capability: format!("{major}.{minor}"),
        memory_mib: i64::try_from(memory).unwrap_or(i64::MAX),
        multiprocessors: multiprocessors(device, major, minor),
        pcie_root: sysfs.pcie_root(&bus_id).unwrap_or_default(),
        numa_node: sysfs.numa_node(&bus_id),
        pci_bus_id: bus_id,
        health: Health::Healthy,
        unpublished: unpublished(device, memory),
    })
}

/// Why a GPU cannot be shared out, with the cure; empty when it can.
fn unpublished(device: &Device<'_>, memory_mib: u64) -> String {
    // Modes a GPU does not know are modes it is not in.
    if device.mig_mode().is_ok_and(|mode| mode.current != 0) {
        return "MIG mode is on: turn it off with `nvidia-smi -mig 0` to share the whole GPU".to_owned();
    }
    let mode = match device.compute_mode() {
        Ok(ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread) => "exclusive",
        Ok(ComputeMode::Prohibited) => "prohibited",
        Ok(ComputeMode::Default) | Err(_) => "",
    };
    if !mode.is_empty() {
        return format!(
            "the compute mode is {mode}, which lets one process in at most: set it with `nvidia-smi -c 0`"
        );
    }
    if memory_mib == 0 {
        return "the GPU has no memory of its own: it shares the host's, which cannot be divided here"
            .to_owned();
    }
    String::new()
}

/// Brand as NVIDIA's DRA driver spells it (go-nvlib, `GetBrandAsString`).
fn brand(brand: Result<Brand, NvmlError>) -> String {
    let name = match brand {
        Ok(Brand::Quadro) => "Quadro",
        Ok(Brand::Tesla) => "Tesla",
        Ok(Brand::NVS) => "NVS",
        Ok(Brand::GRID) => "Grid",
        Ok(Brand::GeForce) => "GeForce",
        Ok(Brand::Titan) => "Titan",
        Ok(Brand::VApps) => "NvidiaVApps",
        Ok(Brand::VPC) => "NvidiaVPC",
        Ok(Brand::VCS) => "NvidiaVCS",
        Ok(Brand::VWS) => "NvidiaVWS",
        Ok(Brand::CloudGaming | Brand::VGaming) => "NvidiaCloudGaming",
        Ok(Brand::QuadroRTX) => "QuadroRTX",
        Ok(Brand::NvidiaRTX) => "NvidiaRTX",
        Ok(Brand::Nvidia) => "Nvidia",
        Ok(Brand::GeForceRTX) => "GeForceRTX",
        Ok(Brand::TitanRTX) => "TitanRTX",
        Ok(Brand::Unknown) | Err(_) => "Unknown",
    };
    name.to_owned()
}

/// Architecture of a CUDA compute capability, spelled as NVIDIA's DRA driver does. By capability rather than by NVML's own
/// enum, whose newest members an older library does not know.
fn architecture(major: i32, minor: i32) -> &'static str {
    match (major, minor) {
        (3, _) => "Kepler",
        (5, _) => "Maxwell",
        (6, _) => "Pascal",
        (7, 5..) => "Turing",
        (7, _) => "Volta",
        (8, 9..) => "Ada Lovelace",
        (8, _) => "Ampere",
        (9, _) => "Hopper",
        (10.., _) => "Blackwell",
        _ => "Unknown",
    }
}

/// Streaming multiprocessors. NVML tells them of some devices only; of others they follow from the CUDA cores.
fn multiprocessors(device: &Device<'_>, major: i32, minor: i32) -> i64 {
    if let Ok(attributes) = device.attributes()
        && attributes.multiprocessor_count > 0
    {
        return attributes.multiprocessor_count.into();
    }
    device.num_cores().map_or(0, |cores| i64::from(cores) / cores_per_multiprocessor(major, minor))
}

/// CUDA C++ Programming Guide, compute capabilities.
fn cores_per_multiprocessor(major: i32, minor: i32) -> i64 {
    match (major, minor) {
        (3, _) => 192,
        (6 | 8, 0) | (7, _) => 64,
        _ => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_spelled_as_nvidias_driver_does() {
        let seen: Vec<_> = [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
            .map(|(a, b)| architecture(a, b))
            .into();
        let want =
            ["Volta", "Turing", "Ampere", "Ampere", "Ada Lovelace", "Hopper", "Blackwell", "Blackwell"];
        assert_eq!(seen, want);
    }

    #[test]
    fn multiprocessors_follow_from_the_cores_of_known_products() {
        // T4 2560 cores, A100 6912, A10 9216, H100 SXM 16896, V100 5120.
        let of = |cores: i64, major, minor| cores / cores_per_multiprocessor(major, minor);
        assert_eq!((of(2560, 7, 5), of(6912, 8, 0), of(9216, 8, 6)), (40, 108, 72));
        assert_eq!((of(16896, 9, 0), of(5120, 7, 0)), (132, 80));
    }

    #[test]
    fn no_driver_says_where_it_was_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let gpus = NvmlGpus::new(Library::Below(root.path().into()), Sysfs::new("/sys"));
        let message = gpus.list().unwrap_err().to_string();
        assert!(message.contains(&root.path().display().to_string()), "{message}");
        assert!(message.contains("--driver-root"), "{message}");
    }

    #[test]
    fn a_library_that_is_none_is_an_error_and_no_crash() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("libnvidia-ml.so.1");
        std::fs::write(&path, "not a library").unwrap();
        let gpus = NvmlGpus::new(Library::Path(path), Sysfs::new("/sys"));
        assert!(matches!(gpus.list(), Err(GpusError::Nvml { .. })));
    }
}
