//! How much memory the host has left for this container.
//!
//! Memory of a share that does not lie on the GPU lies in the host's, and the kernel ends programs when that runs out. So
//! such memory is refused while there is no room for it: `MemAvailable` of `/proc/meminfo`, and in a cgroup of version 2
//! with a limit what that leaves. Pages take room only when they are touched, so what was allocated and not used yet is
//! still counted as left.

use std::fs;
use std::path::Path;

/// Bytes that may be had now; `None` where nothing says so.
pub fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
    [machine, of_cgroup(Path::new("/sys/fs/cgroup"))].into_iter().flatten().min()
}

fn of_machine(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Of the cgroup whose files a container finds there.
fn of_cgroup(folder: &Path) -> Option<u64> {
    let number = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // Without a limit the file says "max".
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_line_is_in_kibibytes() {
        assert_eq!(of_machine("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(of_machine("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn a_cgroup_counts_when_it_has_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name, text| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(of_cgroup(folder.path()), None);
        put("memory.current", "300\n");
        put("memory.max", "max\n");
        assert_eq!(of_cgroup(folder.path()), None);
        put("memory.max", "1000\n");
        assert_eq!(of_cgroup(folder.path()), Some(700));
        put("memory.max", "200\n");
        assert_eq!(of_cgroup(folder.path()), Some(0));
    }
}
