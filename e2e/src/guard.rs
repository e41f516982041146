//! The process between a cluster and the program that started it: makes the namespaces, and cleans up after them.
//!
//! It lives outside the namespaces and in a session of its own, so that a cluster leaves nothing behind however its
//! starter ends: the starter holds the other end of the guard's standard input, and the kernel closes it at the latest
//! when the starter is killed. A starter that keeps its cluster says so on it first ([`KEEP`]); the guard then only
//! waits. A guard that is killed takes the cluster with it; what is left is removed when the next one starts.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};

use crate::cluster;
use crate::layout::Layout;

/// Options of unshare for a cluster, and for a node inside it: everything its own, and no end without its PID 1's.
pub(crate) const UNSHARE: [&str; 9] =
    ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"];

/// What a starter says before it leaves a cluster that is to go on without it.
pub(crate) const KEEP: &[u8] = b"keep";

/// Runs a cluster until its starter is gone, or, if it is kept, until it ends.
///
/// # Errors
/// The namespaces could not be made, or something is left that could not be removed.
pub fn run(state: &Path) -> anyhow::Result<()> {
    let layout = Layout::read(state).with_context(|| format!("cannot read {}", state.display()))?;
    // Keys pressed in the starter's terminal are for the starter.
    rustix::process::setsid().context("cannot leave the starter's session")?;
    let mut outer = namespaces(&layout)?;
    let init = first_process(&mut outer)?;
    // By a rename: a reader sees the whole number or no file.
    let (part, file) = (state.join("init.pid.part"), layout.init_file());
    fs::write(&part, init.as_raw_nonzero().to_string())?;
    fs::rename(&part, &file)?;
    let handle = pidfd_open(init, PidfdFlags::empty());
    let mut said = Vec::new();
    io::stdin().lock().read_to_end(&mut said).context("cannot watch the starter")?;
    if said == KEEP {
        outer.wait()?;
        return Ok(());
    }
    end(&mut outer, handle.ok())?;
    cluster::remove(&layout)
}

fn namespaces(layout: &Layout) -> anyhow::Result<Child> {
    let mut command = Command::new(UNSHARE[0]);
    command.args(&UNSHARE[1..]).arg(&layout.supervisor).arg("supervise-cluster").arg(&layout.state);
    command.stdin(Stdio::null());
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe. The thread that forks is the
    // guard's main thread, whose end is the guard's end.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    command.spawn().context("cannot start unshare (package util-linux)")
}

/// PID 1 of the namespaces, once it is in them.
fn first_process(outer: &mut Child) -> anyhow::Result<Pid> {
    let own = network_of("self");
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(inner) = only_child(outer.id())
            && network_of(&inner.to_string()).is_some_and(|theirs| Some(theirs) != own)
            && let Some(inner) = i32::try_from(inner).ok().and_then(Pid::from_raw)
        {
            return Ok(inner);
        }
        if let Some(status) = outer.try_wait()? {
            bail!("unshare could not make the cluster's namespaces ({status})");
        }
        if Instant::now() > end {
            let _ = outer.kill();
            bail!("unshare did not make the cluster's namespaces in 10 s");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills PID 1. The kernel ends every process of its namespaces before unshare sees its end.
fn end(outer: &mut Child, init: Option<OwnedFd>) -> anyhow::Result<()> {
    match init {
        // It may have ended by itself; by this handle no other process can be meant.
        Some(init) => drop(pidfd_send_signal(init, Signal::KILL)),
        None => outer.kill()?,
    }
    outer.wait().map(drop).context("cannot wait for the end of the cluster")
}

/// The child of a process that has one.
pub(crate) fn only_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Identity of a process's network namespace; `self` is this one.
pub(crate) fn network_of(pid: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}
