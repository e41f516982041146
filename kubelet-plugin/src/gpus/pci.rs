//! A GPU's place on the machine, from sysfs.

use std::fs;
use std::path::PathBuf;

/// Reads below a sysfs root, `/sys` on a real node.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// `root` is `/sys`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn device(&self, bus_id: &str) -> PathBuf {
        self.root.join("bus/pci/devices").join(bus_id)
    }

    /// PCIe root complex, `pci0000:3a`: the first part of the device's real path that is one.
    pub fn pcie_root(&self, bus_id: &str) -> Option<String> {
        let target = fs::read_link(self.device(bus_id)).ok()?;
        target
            .components()
            .filter_map(|c| c.as_os_str().to_str())
            .find(|c| c.strip_prefix("pci").is_some_and(|rest| rest.contains(':')))
            .map(str::to_owned)
    }

    /// NUMA node of the slot; none on machines with one node, where the kernel says -1.
    pub fn numa_node(&self, bus_id: &str) -> Option<i64> {
        let text = fs::read_to_string(self.device(bus_id).join("numa_node")).ok()?;
        text.trim().parse().ok().filter(|node| *node >= 0)
    }
}

/// NVML's bus id (`00000000:3B:00.0`) as the kernel and KEP-4381's `pciBusID` write it (`0000:3b:00.0`).
pub fn bus_id(nvml: &str) -> String {
    let id = nvml.to_ascii_lowercase();
    match id.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 && domain.is_ascii() => {
            let (high, low) = domain.split_at(domain.len() - 4);
            if high.bytes().all(|b| b == b'0') { format!("{low}:{rest}") } else { id }
        }
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_ids_are_written_as_the_kernel_does() {
        assert_eq!(bus_id("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(bus_id("0000:3B:00.0"), "0000:3b:00.0");
        // A domain that needs more digits keeps them.
        assert_eq!(bus_id("00010000:3B:00.0"), "00010000:3b:00.0");
    }

    #[test]
    fn the_root_is_read_from_the_devices_real_path() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("bus/pci/devices");
        let real = root.path().join("devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(&real).unwrap();
        fs::write(real.join("numa_node"), "1\n").unwrap();
        std::os::unix::fs::symlink(
            "../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0",
            folder.join("0000:3b:00.0"),
        )
        .unwrap();
        let sysfs = Sysfs::new(root.path());
        assert_eq!(sysfs.pcie_root("0000:3b:00.0").as_deref(), Some("pci0000:3a"));
        assert_eq!(sysfs.numa_node("0000:3b:00.0"), Some(1));
        fs::write(real.join("numa_node"), "-1\n").unwrap();
        assert_eq!(sysfs.numa_node("0000:3b:00.0"), None);
        assert_eq!(sysfs.pcie_root("0000:ff:00.0"), None);
    }
}
