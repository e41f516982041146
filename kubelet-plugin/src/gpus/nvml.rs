//! The GPUs as NVML lists them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nvml_wrapper::enum_wrappers::device::{Brand, ComputeMode, P2pCapabilitiesIndex, P2pStatus};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
use nvml_wrapper::{Device, Nvml};
use vgpu_api::{Gpu, Health, MIB};

use super::pci::{self, Sysfs};
use super::{Gpus, GpusError, Holder, Inventory, Recovery, library};

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

    fn ask<T>(&self, ask: impl FnOnce(&Nvml) -> Result<T, NvmlError>) -> Result<T, GpusError> {
        let mut nvml = self.nvml.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match nvml.take() {
            Some(loaded) => loaded,
            None => self.library.load()?,
        };
        let answer = ask(&loaded).map_err(|e| GpusError::Nvml {
            library: self.library.locate().unwrap_or_default(),
            why: e.to_string(),
        })?;
        *nvml = Some(loaded);
        Ok(answer)
    }
}

impl Gpus for NvmlGpus {
    fn list(&self) -> Result<Inventory, GpusError> {
        self.ask(|nvml| inventory(nvml, &self.sysfs))
    }

    fn holders(&self) -> Result<Vec<Holder>, GpusError> {
        self.ask(holders)
    }
}

/// A GPU that does not answer has none, which the inventory says.
fn holders(nvml: &Nvml) -> Result<Vec<Holder>, NvmlError> {
    let mut found: BTreeMap<(String, u32), u64> = BTreeMap::new();
    for index in 0..nvml.device_count()? {
        let Ok(device) = nvml.device_by_index(index) else { continue };
        let Ok(uuid) = device.uuid() else { continue };
        // A process that computes and draws is in both lists with all it holds.
        let compute = device.running_compute_processes().unwrap_or_default();
        let graphics = device.running_graphics_processes().unwrap_or_default();
        for process in compute.into_iter().chain(graphics) {
            if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
                let known = found.entry((uuid.clone(), process.pid)).or_default();
                *known = bytes.max(*known);
            }
        }
    }
    Ok(found.into_iter().map(|((uuid, pid), memory)| Holder { uuid, pid, memory }).collect())
}

fn inventory(nvml: &Nvml, sysfs: &Sysfs) -> Result<Inventory, NvmlError> {
    let cuda = nvml.sys_cuda_driver_version()?;
    let mut gpus = Vec::new();
    let mut recovery = BTreeMap::new();
    for index in 0..nvml.device_count()? {
        let found = nvml
            .device_by_index(index)
            .and_then(|device| Ok((gpu(&device, sysfs)?, recovery_action(&device))));
        match found {
            Ok((gpu, action)) => {
                recovery.extend(action.map(|action| (gpu.uuid.clone(), action)));
                gpus.push(gpu);
            }
            // One broken GPU hides no other; who knew it before keeps it as lost.
            Err(e) => tracing::warn!(index, error = %e, "NVML does not describe a GPU"),
        }
    }
    link(nvml, &mut gpus);
    gpus.sort_by_key(|g| g.minor);
    Ok(Inventory {
        driver_version: nvml.sys_driver_version()?,
        cuda_driver_version: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
        gpus,
        recovery,
    })
}

/// Tells each GPU which others it reaches over NVLink. What NVML does not say is no link.
fn link(nvml: &Nvml, gpus: &mut [Gpu]) {
    let devices: Vec<_> = gpus.iter().map(|gpu| nvml.device_by_uuid(gpu.uuid.as_str()).ok()).collect();
    for (one, device) in devices.iter().enumerate() {
        for (other, peer) in devices.iter().enumerate().skip(one + 1) {
            let (Some(device), Some(peer)) = (device, peer) else { continue };
            let status = device.p2p_status(peer, P2pCapabilitiesIndex::NvLink);
            if matches!(status, Ok(P2pStatus::Ok)) {
                let (a, b) = (gpus[one].uuid.clone(), gpus[other].uuid.clone());
                gpus[one].nvlink_peers.push(b);
                gpus[other].nvlink_peers.push(a);
            }
        }
    }
    gpus.iter_mut().for_each(|gpu| gpu.nvlink_peers.sort());
}

/// What the driver wants done; `None` when it does not say.
fn recovery_action(device: &Device<'_>) -> Option<Recovery> {
    let values = device.field_values_for(&[FieldId(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)]).ok()?;
    let number = match values.into_iter().next()?.ok()?.value.ok()? {
        SampleValue::U32(n) => n.into(),
        SampleValue::U64(n) => n,
        SampleValue::I64(n) => u64::try_from(n).ok()?,
        SampleValue::F64(_) => return None,
    };
    // nvml.h: none, GPU reset, node reboot, drain peer-to-peer, drain and reset.
    Some(match number {
        0 => Recovery::None,
        1 | 3 | 4 => Recovery::Reset,
        2 => Recovery::Reboot,
        _ => Recovery::Other,
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
        nvlink_peers: Vec::new(),
        health: Health::Healthy,
        health_message: String::new(),
        unpublished: unpublished(&Modes::of(device), memory),
    })
}

/// Modes that decide whether a GPU can be shared out.
struct Modes {
    mig: bool,
    compute: ComputeMode,
}

impl Modes {
    /// Modes a GPU does not know are modes it is not in.
    fn of(device: &Device<'_>) -> Self {
        Self {
            mig: device.mig_mode().is_ok_and(|mode| mode.current != 0),
            compute: device.compute_mode().unwrap_or(ComputeMode::Default),
        }
    }
}

/// Why a GPU cannot be shared out, with the cure; empty when it can.
fn unpublished(modes: &Modes, memory_mib: u64) -> String {
    if modes.mig {
        return "MIG mode is on: turn it off with `nvidia-smi -mig 0` to share the whole GPU".to_owned();
    }
    let mode = match modes.compute {
        ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread => "exclusive",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::Default => "",
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
    fn a_gpu_in_a_mode_that_admits_one_program_is_not_published() {
        let why = |mig, compute, memory| unpublished(&Modes { mig, compute }, memory);
        assert_eq!(why(false, ComputeMode::Default, 15_104), "");
        assert!(why(true, ComputeMode::Default, 15_104).contains("nvidia-smi -mig 0"));
        assert!(why(false, ComputeMode::ExclusiveProcess, 15_104).contains("mode is exclusive"));
        assert!(why(false, ComputeMode::Prohibited, 15_104).contains("mode is prohibited"));
        assert!(why(false, ComputeMode::Default, 0).contains("no memory of its own"));
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
