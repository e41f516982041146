//! Tenants in containers of their own on one GPU under arbiters, played to their end. The program that uses this runs
//! [`crate::arbiter::run`] when its first argument is `arbiter`.
#![allow(dead_code, reason = "each program uses a part of it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use vgpu_core::compute::{Enforcement, Priority};
use vgpu_core::limits::Limits;

use crate::bench::{Bench, MIB};

/// Killed when the scene is done with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A share and the one program in it.
#[derive(Clone, Copy)]
pub(crate) struct Tenant<'a> {
    pub(crate) limits: Limits,
    /// Others may have been promised the same time.
    pub(crate) oversubscribed: bool,
    pub(crate) program: &'a [&'a str],
}

pub(crate) fn tenant<'a>(cores: u32, program: &'a [&'a str]) -> Tenant<'a> {
    of(Limits { memory: 1000 * MIB, cores, ..Limits::default() }, program)
}

/// One of such limits, which nobody else was promised.
pub(crate) fn of<'a>(limits: Limits, program: &'a [&'a str]) -> Tenant<'a> {
    Tenant { limits, oversubscribed: false, program }
}

/// What a process has had of the GPU by a moment, in nanoseconds.
pub(crate) struct Note {
    now: u64,
    /// By tenant; `None`: its process has ended.
    busy: Vec<Option<u64>>,
}

#[derive(Default)]
pub(crate) struct Scene {
    /// Seconds of the machine's CPUs that the arbiters took.
    pub(crate) arbiters_cpu: f64,
    /// Percent of the time from a tenant's first to after its last kernel that its kernels ran; `None`: it was killed.
    pub(crate) percents: Vec<Option<f64>>,
    /// Kernels that ended.
    pub(crate) kernels: Vec<u64>,
    /// Nanoseconds that 99 of 100 requests stayed within, of tenants that have requests.
    pub(crate) p99: Vec<Option<u64>>,
    notes: Vec<Note>,
}

impl Scene {
    /// Percent of a tenant between two notes.
    pub(crate) fn between(&self, tenant: usize, from: usize, to: usize) -> anyhow::Result<f64> {
        let (from, to) = self.notes.get(from).zip(self.notes.get(to)).context("two notes")?;
        let busy = |note: &Note| note.busy.get(tenant).copied().flatten().context("it had ended");
        Ok((busy(to)? - busy(from)?) as f64 * 100.0 / (to.now - from.now) as f64)
    }

    pub(crate) fn percent(&self, tenant: usize) -> anyhow::Result<f64> {
        self.percents.get(tenant).copied().flatten().context("it ended with a result")
    }
}

/// Plays tenants under arbiters; each arbiter is its steps, in which `kill=0` names a tenant. The last tenant cannot be
/// killed. All time passes once everybody is there.
pub(crate) fn play(tenants: &[Tenant<'_>], arbiters: &[&[&str]]) -> anyhow::Result<Scene> {
    play_on(&Bench::in_virtual_time(u32::try_from(tenants.len())?)?, tenants, arbiters, &[])
}

/// The same; `oldest` are tenants with files of the oldest version.
pub(crate) fn play_on(
    bench: &Bench,
    tenants: &[Tenant<'_>],
    arbiters: &[&[&str]],
    oldest: &[usize],
) -> anyhow::Result<Scene> {
    let container = |index: usize| format!("container-{index}");
    let mut folders = Vec::new();
    for (index, tenant) in tenants.iter().enumerate() {
        let folder = bench.share_as(&container(index), "s", &tenant.limits)?;
        if oldest.contains(&index) {
            let mut bytes = vgpu_core::limits::encode(&tenant.limits);
            bytes[8] = 1;
            std::fs::write(folder.join("limits"), bytes)?;
            std::fs::remove_file(folder.join("bell"))?;
        }
        let mark = if tenant.oversubscribed { crate::arbiter::OVERSUBSCRIBED } else { "" };
        folders.push(format!("{}{mark}", folder.display()));
    }
    let start = |index: usize| -> anyhow::Result<Running> {
        let rank = u32::try_from(index)? + 10;
        Ok(Running(bench.start_by_its_clock_in(&container(index), rank, tenants[index].program)?))
    };
    let last = tenants.len() - 1;
    let mut running = (0..last).map(start).collect::<anyhow::Result<Vec<Running>>>()?;
    let mut listening = Vec::new();
    for (rank, steps) in arbiters.iter().enumerate() {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("arbiter").arg(bench.gpu_file()).arg(folders.join(","));
        for step in *steps {
            match step.split_once("kill=") {
                Some((moment, tenant)) => {
                    let killed = running.get(tenant.parse::<usize>()?).context("not the last tenant")?;
                    command.arg(format!("{moment}kill={}", killed.0.id()))
                }
                None => command.arg(step),
            };
        }
        command.env("FAKE_GPU_RANK", rank.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Running(command.spawn().context("the arbiter")?);
        let mut out = BufReader::new(child.0.stdout.take().context("its output is a pipe")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the arbiter said {line:?}");
        listening.push((child, out));
    }
    running.push(start(last)?);
    let pids: Vec<u32> = running.iter().map(|tenant| tenant.0.id()).collect();
    let mut scene = Scene::default();
    for mut tenant in running {
        let (percent, kernels, p99) = end(&mut tenant)?;
        scene.percents.push(percent);
        scene.kernels.push(kernels);
        scene.p99.push(p99);
    }
    for (child, out) in listening {
        scene.arbiters_cpu += cpu(&child);
        drop(child);
        scene.notes.extend(notes(out, &pids)?);
    }
    Ok(scene)
}

/// CPU time of a process so far, in seconds; 0 of one that has ended.
fn cpu(process: &Running) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    // SAFETY: asks for a number.
    ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Waits for a tenant's end; gives its percentage, kernels and how long its requests took.
fn end(tenant: &mut Running) -> anyhow::Result<(Option<f64>, u64, Option<u64>)> {
    let out = std::io::read_to_string(tenant.0.stdout.take().context("its output is a pipe")?)?;
    let error = std::io::read_to_string(tenant.0.stderr.take().context("its errors are a pipe")?)?;
    let status = tenant.0.wait()?;
    if std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL) {
        return Ok((None, 0, None));
    }
    ensure!(status.success(), "{status}: {out} {error}");
    let result: Value = serde_json::from_str(out.trim()).context("a result")?;
    let number = |key: &str| result[key].as_u64().with_context(|| format!("{key} of {result}"));
    let percent = number("gpuNanos")? as f64 * 100.0 / number("elapsedGpuNanos")? as f64;
    Ok((Some(percent), number("kernels")?, result["p99Nanos"].as_u64()))
}

fn notes(out: BufReader<ChildStdout>, pids: &[u32]) -> anyhow::Result<Vec<Note>> {
    let mut notes = Vec::new();
    for line in out.lines() {
        let value: Value = serde_json::from_str(&line?)?;
        let busy = pids.iter().map(|pid| value["busy"][pid.to_string()].as_u64()).collect();
        notes.push(Note { now: value["now"].as_u64().context("now")?, busy });
    }
    Ok(notes)
}

/// Limits of a share.
pub(crate) fn with(cores: u32, enforcement: Enforcement, priority: Priority) -> Limits {
    Limits { memory: 1000 * MIB, cores, enforcement, priority, ..Limits::default() }
}

/// `spin` for so long.
macro_rules! spin {
    ($lengths:expr, $seconds:expr $(, $more:expr)*) => {
        &["spin", "--lengths-micros", $lengths, "--seconds", $seconds $(, $more)*][..]
    };
}
pub(crate) use spin;
