//! GPUs by NVML.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Brand, ComputeMode};
use nvml_wrapper::error::NvmlError;
use vgpu_api::{Gpu, Health};

use super::{GpuError, Gpus, Inventory};

/// Folders of a driver root that may hold the library.
pub const LIBRARY_FOLDERS: [&str; 10] = [
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/wsl/lib",
    "usr/lib",
    "lib",
    "usr/local/nvidia/lib64",
];

/// NVML of a driver root. It is opened when first asked and again after it failed, since a driver may come later.
pub struct NvmlGpus {
    library: Option<PathBuf>,
    root: PathBuf,
    sysfs: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nvml: Option<Nvml>,
    /// As last seen healthy, by NVML index.
    known: Vec<Gpu>,
}

impl NvmlGpus {
    /// Of a driver root, or of one library.
    pub fn new(library: Option<PathBuf>, root: &Path, sysfs: &Path) -> Self {
        Self { library, root: root.to_owned(), sysfs: sysfs.to_owned(), state: Mutex::default() }
    }

    fn open(&self) -> Result<Nvml, GpuError> {
        let found = || {
            LIBRARY_FOLDERS.iter().map(|f| self.root.join(f).join("libnvidia-ml.so.1")).find(|p| p.exists())
        };
        let library = self.library.clone().or_else(found);
        let library = library.ok_or_else(|| GpuError::NoLibrary(self.root.display().to_string()))?;
        let nvml = Nvml::builder().lib_path(library.as_os_str() as &OsStr).init();
        nvml.map_err(|e| GpuError::Nvml(format!("{}: {e}", library.display())))
    }

    fn read(&self, nvml: &Nvml, known: &mut Vec<Gpu>) -> Result<Inventory, NvmlError> {
        let count = nvml.device_count()?;
        let cuda = nvml.sys_cuda_driver_version()?;
        for index in 0..count {
            let position = index as usize;
            match self.gpu(nvml, index) {
                Ok(gpu) if position < known.len() => known[position] = gpu,
                Ok(gpu) => known.push(gpu),
                // What it was is remembered; that it is lost is the news.
                Err(_) if position < known.len() => known[position].health = Health::Unhealthy,
                Err(error) => return Err(error),
            }
        }
        known.truncate(count as usize);
        let mut gpus = known.clone();
        gpus.sort_by_key(|g| g.minor);
        Ok(Inventory {
            gpus,
            driver_version: nvml.sys_driver_version()?,
            cuda_driver_version: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
        })
    }

    fn gpu(&self, nvml: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let memory = device.memory_info()?;
        let capability = device.cuda_compute_capability()?;
        let bus = device.pci_info()?;
        let bus_id = bus_id(&bus.bus_id);
        // Each of these may be missing on old drivers or boards; then the attribute is not published.
        let brand = device.brand().map(brand_name).unwrap_or_default();
        let architecture = device.architecture().map(|a| a.to_string()).unwrap_or_default();
        let unpublished = match (device.mig_mode(), device.compute_mode()) {
            (Ok(mode), _) if mode.current == nvml_wrapper_mig_enabled() => {
                "MIG mode is on; switch it off with nvidia-smi -mig 0".to_owned()
            }
            (
                _,
                Ok(ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread | ComputeMode::Prohibited),
            ) => "the compute mode admits one process or none; set it with nvidia-smi -c DEFAULT".to_owned(),
            _ if memory.total == 0 => "the board has no memory of its own".to_owned(),
            _ => String::new(),
        };
        Ok(Gpu {
            uuid: device.uuid()?,
            minor: i64::from(device.minor_number()?),
            product_name: device.name()?,
            brand,
            architecture,
            cuda_compute_capability: format!("{}.{}", capability.major, capability.minor),
            memory_mib: i64::try_from(memory.total.saturating_sub(memory.reserved) >> 20).unwrap_or(i64::MAX),
            multiprocessors: device.attributes().map_or(0, |a| i64::from(a.multiprocessor_count)),
            pcie_root: self.pcie_root(&bus_id),
            pci_bus_id: bus_id,
            numa_node: device.numa_node_id().ok().map(i64::from),
            health: Health::Healthy,
            unpublished,
        })
    }

    /// `pci0000:3a` from where sysfs puts the device.
    fn pcie_root(&self, bus_id: &str) -> String {
        let link = self.sysfs.join("bus/pci/devices").join(bus_id);
        let target = std::fs::canonicalize(link).unwrap_or_default();
        let root = target.components().map(|c| c.as_os_str().to_string_lossy().into_owned());
        root.into_iter().find(|c| c.starts_with("pci") && c.contains(':')).unwrap_or_default()
    }
}

/// `NVML_DEVICE_MIG_ENABLE`.
const fn nvml_wrapper_mig_enabled() -> u32 {
    1
}

/// `00000000:3B:00.0` as the kernel writes it: `0000:3b:00.0`.
fn bus_id(nvml: &str) -> String {
    let lower = nvml.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => format!("{}:{rest}", &domain[4..]),
        _ => lower,
    }
}

/// NVIDIA's DRA driver spells brands so.
fn brand_name(brand: Brand) -> String {
    match brand {
        Brand::Tesla => "Tesla".into(),
        Brand::GeForce => "GeForce".into(),
        Brand::Quadro => "Quadro".into(),
        Brand::Titan => "Titan".into(),
        Brand::Unknown => "Unknown".into(),
        other => format!("{other:?}"),
    }
}

impl Gpus for NvmlGpus {
    fn list(&self) -> Result<Inventory, GpuError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { nvml, known } = &mut *state;
        if nvml.is_none() {
            *nvml = Some(self.open()?);
        }
        let Some(open) = nvml.as_ref() else { return Err(GpuError::Nvml("closed".into())) };
        match self.read(open, known) {
            Ok(inventory) => Ok(inventory),
            Err(error) => {
                *nvml = None;
                Err(GpuError::Nvml(error.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_ids_are_written_as_the_kernel_does() {
        assert_eq!(bus_id("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(bus_id("0000:3B:00.0"), "0000:3b:00.0");
    }

    #[test]
    fn a_root_without_a_driver_says_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let error = NvmlGpus::new(None, empty.path(), empty.path()).list().unwrap_err();
        assert!(error.to_string().contains("install NVIDIA's driver"), "{error}");
    }
}
