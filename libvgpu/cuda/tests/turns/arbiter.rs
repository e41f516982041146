//! The node's arbiter in the GPU's time, virtual or real, and what happens to the scene when.
//!
//! Its arguments are the file that is the GPUs, the folders of the shares with commas between ([`OVERSUBSCRIBED`] behind
//! those that are), and steps, each
//! `MILLISECONDS:WHAT`: `begin` to arbitrate (else it does from the start), `kill=PID`, `note` what every process has had
//! of the GPU so far, `die` by SIGKILL.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use fake_gpu::Gpus;
use fake_gpu::layout::VIRTUAL;
use serde_json::{Map, json};
use vgpu_arbiter::seat::Files;
use vgpu_arbiter::{Arbitration, Clock, Fds, Member, Monotonic};

const MS: u64 = 1_000_000;

/// From a bell to the arbiter; 10 to 30 us on an idle machine.
const HAND_OVER: u64 = 50_000;

/// Behind the folder of a share whose time others may have been promised too.
pub(crate) const OVERSUBSCRIBED: &str = "+";

struct GpuTime(Gpus);

impl Clock for GpuTime {
    fn now(&self) -> u64 {
        self.0.now()
    }

    fn wait(&mut self, fds: &mut Fds, until: u64) {
        if self.0.timing().mode != VIRTUAL {
            return Monotonic::of_this_thread().wait(fds, until);
        }
        loop {
            let now = self.0.now();
            if fds.poll(0) || now >= until {
                return;
            }
            self.0.sleep_until(until.min(now + HAND_OVER));
        }
    }

    fn turned(&mut self) {
        self.0.notify();
    }
}

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [file, folders, steps @ ..] = arguments else { bail!("a file and folders") };
    let mut clock = GpuTime(Gpus::open(Path::new(file))?);
    let members: Vec<Member> = folders
        .split(',')
        .map(|member| {
            let (name, oversubscribed) =
                member.strip_suffix(OVERSUBSCRIBED).map_or((member, false), |folder| (folder, true));
            let at = |file| Path::new(name).join(file);
            let files = Files { limits: at("limits"), usage: at("usage"), bell: at("bell") };
            Member { gpu: "the only one".into(), name: name.into(), files, oversubscribed }
        })
        .collect();
    let mut arbitration = Arbitration::default();
    say("ready")?;
    clock.0.join();
    if !steps.iter().any(|step| step.ends_with(":begin")) {
        begin(&mut arbitration, &clock, &members)?;
    }
    for step in steps {
        let (moment, what) = step.split_once(':').context("a moment and what happens then")?;
        pass(&mut arbitration, &mut clock, moment.parse::<u64>()? * MS);
        match what.split_once('=').unwrap_or((what, "")) {
            ("begin", _) => begin(&mut arbitration, &clock, &members)?,
            ("note", _) => note(&clock.0)?,
            // SAFETY: a tenant this test started, or this process.
            ("kill", pid) => drop(unsafe { libc::kill(pid.parse()?, libc::SIGKILL) }),
            // SAFETY: as above.
            ("die", _) => drop(unsafe { libc::kill(libc::getpid(), libc::SIGKILL) }),
            _ => bail!("{what:?} is nothing that can happen"),
        }
    }
    pass(&mut arbitration, &mut clock, u64::MAX);
    Ok(())
}

fn begin(arbitration: &mut Arbitration, clock: &GpuTime, members: &[Member]) -> anyhow::Result<()> {
    match arbitration.set(clock.now(), members.to_vec()).first() {
        Some((member, error)) => bail!("{}: {error}", member.name),
        None => Ok(()),
    }
}

fn pass(arbitration: &mut Arbitration, clock: &mut GpuTime, until: u64) {
    while clock.now() < until {
        arbitration.round(clock, &[], until);
    }
}

fn note(gpus: &Gpus) -> anyhow::Result<()> {
    let status = gpus.status_of(0);
    let busy: Map<String, serde_json::Value> =
        status.processes.iter().map(|p| (p.pid.to_string(), p.busy_nanos.into())).collect();
    say(&json!({"now": gpus.now(), "busy": busy, "switching": status.switching_nanos}).to_string())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
