//! What a machine must have to run a cluster.

use std::fs;
use std::process::{Command, Stdio};

/// Memory a cluster with its pods wants free.
const MEMORY_MIB: u64 = 3 * 1024;

/// Capabilities root lacks in most containers: bit in `/proc/self/status`, name, what for.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "links and routes"),
    (21, "CAP_SYS_ADMIN", "namespaces and mounts"),
    (27, "CAP_MKNOD", "the GPUs' device nodes"),
];

/// Programs the cluster calls, and the packages that have them.
const TOOLS: [(&str, &str); 3] = [("unshare", "util-linux"), ("strip", "binutils"), ("ldd", "libc-bin")];

/// What the machine lacks, in words one can act on.
///
/// # Errors
/// The first thing that is missing: root, a capability, memory or a tool, and how to get it.
pub fn check() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root for namespaces, mounts and cgroups; run it with sudo".into());
    }
    capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default())?;
    memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())?;
    let missing = |tool: &str| {
        Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    };
    match TOOLS.iter().find(|(tool, _)| missing(tool)) {
        Some((tool, package)) => Err(format!("the program {tool} is missing; install the package {package}")),
        None => Ok(()),
    }
}

/// A status without the field (not Linux's own) is let through: what is missing then shows when it is used.
fn capabilities(status: &str) -> Result<(), String> {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|v| u64::from_str_radix(v.trim(), 16).ok()).unwrap_or(u64::MAX);
    match CAPABILITIES.iter().find(|(bit, ..)| effective >> bit & 1 == 0) {
        Some((_, name, purpose)) => {
            Err(format!("root has no {name} here, which {purpose} need; run the container privileged"))
        }
        None => Ok(()),
    }
}

fn memory(meminfo: &str) -> Result<(), String> {
    let available = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
    match kib.map(|k| k / 1024) {
        Some(mib) if mib < MEMORY_MIB => {
            Err(format!("it needs {MEMORY_MIB} MiB of memory and {mib} are available; end other programs"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_is_missing_is_named_with_its_use() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n"), Ok(()));
        let error = capabilities("CapEff:\t00000000a80425fb\n").unwrap_err();
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("links"), "{error}");
    }

    #[test]
    fn too_little_memory_is_said_in_mebibytes() {
        assert_eq!(memory("MemTotal: 9 kB\nMemAvailable:   4194304 kB\n"), Ok(()));
        let error = memory("MemAvailable:   1048576 kB\n").unwrap_err();
        assert!(error.contains("3072 MiB") && error.contains("1024 are"), "{error}");
    }
}
