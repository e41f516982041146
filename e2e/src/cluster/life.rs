//! Whether a cluster lives, and what has to go when it does not.
//!
//! A lock on `logs/cluster.log` is held by the open file that is the output of the cluster's guard and of its PID 1. So
//! "it lives" is a question to the kernel, with one answer for every program, also when all of them were killed; process
//! ids, which may have passed to others, are not asked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::{FlockOperation, flock};
use vgpu_programs::cache_folder;

use crate::cgroup::Hierarchies;
use crate::layout::Layout;

/// Folder with a folder per cluster.
pub(super) fn clusters_folder() -> PathBuf {
    cache_folder().join("clusters")
}

/// Makes the state folder and takes the lock; the cluster lives as long as a process has this file open.
pub(super) fn begin(layout: &Layout) -> io::Result<File> {
    if let Some(parent) = layout.state.parent() {
        fs::create_dir_all(parent)?;
    }
    // Not create_dir_all: a folder that is there already belongs to somebody else.
    fs::create_dir(&layout.state)?;
    fs::create_dir(layout.logs())?;
    let log = OpenOptions::new().create_new(true).append(true).open(layout.log())?;
    // Waits: `alive` may be looking at this moment.
    flock(&log, FlockOperation::LockExclusive)?;
    layout.write()?;
    Ok(log)
}

/// Whether any of the cluster's processes is there.
pub(super) fn alive(layout: &Layout) -> bool {
    let Ok(log) = File::open(layout.log()) else { return false };
    flock(&log, FlockOperation::NonBlockingLockShared).is_err()
}

/// Waits until none of its processes is there.
pub(super) fn wait_for_end(layout: &Layout) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while alive(layout) {
        ensure!(Instant::now() < end, "processes of {} survived SIGKILL", layout.state.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes the cgroups and the state folder of a cluster whose processes are gone. Nothing there is fine.
pub(crate) fn remove(layout: &Layout) -> anyhow::Result<()> {
    remove_cgroups(&layout.cgroup)?;
    remove_folder(&layout.state).with_context(|| format!("cannot remove {}", layout.state.display()))
}

/// Last what makes it a cluster, so that a removal that is killed is met again. Another program may be at it too.
fn remove_folder(state: &Path) -> io::Result<()> {
    let gone = |done: io::Result<()>| match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    let layout = state.join("layout.json");
    for entry in fs::read_dir(state).into_iter().flatten().flatten().filter(|e| e.path() != layout) {
        let folder = entry.file_type().is_ok_and(|t| t.is_dir());
        gone(if folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) })?;
    }
    gone(fs::remove_file(&layout))?;
    gone(fs::remove_dir(state))
}

/// The kernel empties a cgroup a moment after its processes are gone.
fn remove_cgroups(name: &str) -> anyhow::Result<()> {
    let hierarchies = Hierarchies::of_host()?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = hierarchies.remove(name);
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "cgroups are left: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Copies every log below `from` to `to`, by the same relative paths.
pub(super) fn copy_logs(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() == "logs" {
            fs::create_dir_all(&target)?;
            for log in fs::read_dir(path)?.flatten() {
                fs::copy(log.path(), target.join(log.file_name()))?;
            }
        } else if kind.is_dir() && path.join("logs").is_dir() {
            copy_logs(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(state: PathBuf) -> Layout {
        let text = serde_json::json!({
            "version": crate::layout::VERSION, "state": state, "cgroup": "c", "programs": "", "runc": "", "supervisor": "",
            "artifacts": "", "images": [], "nodes": [],
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_cluster_lives_as_long_as_its_log_is_open_and_is_never_begun_twice() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path().join("clusters/c"));
        let log = begin(&layout).unwrap();
        let second = log.try_clone().unwrap();
        assert_eq!(begin(&layout).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(log);
        assert!(alive(&layout), "a copy of the file is still open");
        drop(second);
        assert!(!alive(&layout));
    }

    #[test]
    fn logs_are_copied_and_state_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for file in ["logs/etcd.log", "node-a/logs/kubelet.log", "node-a/containerd/blob", "pki/ca.key"] {
            let path = from.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        copy_logs(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("logs/etcd.log")).unwrap(), "logs/etcd.log");
        assert!(to.join("node-a/logs/kubelet.log").exists());
        assert!(!to.join("pki").exists() && !to.join("node-a/containerd").exists());
    }
}
