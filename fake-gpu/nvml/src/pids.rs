//! Ids of processes in the caller's pid namespace.
//!
//! The file knows a process by its id in its own namespace and by that namespace's inode. `/proc` shows the processes of
//! the caller's namespace and of those below it; `NSpid` in a process's status gives its id in each of them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fake_gpu::status::ProcessStatus;

/// Translates ids, reading `/proc` only when a process of another namespace appears.
pub(crate) struct Pids {
    own: u64,
    others: Option<HashMap<(u64, u32), u32>>,
}

fn namespace(process: &Path) -> Option<u64> {
    fs::metadata(process.join("ns/pid")).ok().map(|m| m.ino())
}

impl Pids {
    pub(crate) fn new() -> Self {
        Self { own: namespace(Path::new("/proc/self")).unwrap_or(0), others: None }
    }

    /// The id by which the caller knows a process; its own if the caller cannot see it.
    pub(crate) fn here(&mut self, process: &ProcessStatus) -> u32 {
        if process.pid_namespace == self.own {
            return process.pid;
        }
        let others = self.others.get_or_insert_with(|| visible(Path::new("/proc")));
        others.get(&(process.pid_namespace, process.pid)).copied().unwrap_or(process.pid)
    }
}

/// (namespace, id in it) -> id here, of all processes of other namespaces that can be seen.
fn visible(proc: &Path) -> HashMap<(u64, u32), u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let translate = |folder: &Path| {
        let here = folder.file_name()?.to_str()?.parse().ok()?;
        let inner = innermost(&fs::read_to_string(folder.join("status")).ok()?)?;
        Some(((namespace(folder)?, inner), here))
    };
    entries.filter_map(|entry| translate(&entry.path())).collect()
}

/// The last of the ids on the `NSpid` line: the process's own.
fn innermost(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_id_is_the_processes_own() {
        assert_eq!(innermost("Name:\tx\nNSpid:\t4711\t12\t1\n"), Some(1));
        assert_eq!(innermost("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_of_this_namespace_keeps_its_id_and_one_out_of_sight_too() {
        let status = |pid_namespace| ProcessStatus {
            pid: 7,
            pid_namespace,
            contexts: 1,
            memory: 0,
            overhead: 0,
            peak: 0,
            utilization: 0,
            busy_nanos: 0,
        };
        let mut pids = Pids { own: 1, others: Some(HashMap::from([((2, 7), 4711)])) };
        assert_eq!([1, 2, 3].map(|namespace| pids.here(&status(namespace))), [7, 4711, 7]);
    }
}
