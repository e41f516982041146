//! A process is killed after every so many instructions of an allocation and its free.

use anyhow::{Context, ensure};
use vgpu_share::Share;

use crate::bench::{Bench, MIB};
use crate::{Tenant, agrees, used};

/// Places to die at, spread over all instructions.
const PLACES: u64 = 40;
const PLACES_LONG: u64 = 400;

fn wait(pid: i32) -> anyhow::Result<i32> {
    let mut status = 0;
    // SAFETY: a pointer to a local.
    let done = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
    ensure!(done == pid, "waitpid: {}", std::io::Error::last_os_error());
    Ok(status)
}

fn trace(request: libc::c_uint, pid: i32) -> anyhow::Result<()> {
    // SAFETY: a child of this process; the requests used take no pointers.
    let done = unsafe { libc::ptrace(request, pid, 0, 0) };
    ensure!(done == 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Starts a tenant that is stopped before its allocation, with this process as its tracer.
fn stopped(bench: &Bench) -> anyhow::Result<(Tenant, i32)> {
    let tenant = Tenant::start(bench, &[], &["change"])?;
    let pid = i32::try_from(tenant.0.id())?;
    let status = wait(pid)?;
    ensure!(libc::WIFSTOPPED(status), "it ended with {status} before it stopped");
    trace(libc::PTRACE_ATTACH, pid)?;
    // SAFETY: a child of this process.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    wait(pid)?;
    Ok((tenant, pid))
}

/// Executes so many instructions; fewer if it stops itself or ends.
fn step(pid: i32, count: u64) -> anyhow::Result<u64> {
    for done in 0..count {
        trace(libc::PTRACE_SINGLESTEP, pid)?;
        let status = wait(pid)?;
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) == libc::SIGSTOP {
            return Ok(done);
        }
    }
    Ok(count)
}

pub(crate) fn anywhere(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 100 * MIB, 0)?)?;
    let (tenant, pid) = stopped(bench)?;
    let all = step(pid, u64::MAX)?;
    drop(tenant);
    ensure!(all > 500, "an allocation and its free are {all} instructions");
    let places = if std::env::var_os("VGPU_TEST_LONG").is_some() { PLACES_LONG } else { PLACES };
    let mut charged = std::collections::BTreeSet::new();
    for place in 0..places {
        let (tenant, pid) = stopped(bench)?;
        let at = all * place / places;
        step(pid, at)?;
        charged.insert(used(&share) / MIB);
        drop(tenant);
        agrees(bench, &share, 0).with_context(|| format!("killed after {at} of {all} instructions"))?;
    }
    println!("  killed at {places} of {all} instructions, with {charged:?} MiB charged");
    ensure!(charged.contains(&3) && charged.contains(&8), "{charged:?}");
    Ok(())
}
