//! Processes of a share: started, forked, killed at any instruction, and racing. Each is this program once more, in a
//! mount namespace of its own; what is charged in the end is compared with what the fake driver knows.
//!
//! Mount namespaces need root; without it every test is skipped, with that reason.

mod bench;
#[path = "tenants/capture.rs"]
mod capture;
#[path = "tenants/cuda.rs"]
mod cuda;
#[path = "tenants/families.rs"]
mod families;
#[path = "tenants/handed.rs"]
mod handed;
#[path = "tenants/killed.rs"]
mod killed;
#[path = "tenants/movable.rs"]
mod movable;
#[path = "tenants/nvml.rs"]
mod nvml;
#[path = "tenants/program.rs"]
mod program;
#[path = "tenants/random.rs"]
mod random;
#[path = "tenants/tenant.rs"]
mod tenant;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};

use anyhow::{Context, ensure};
use vgpu_core::limits::{self, Limits};
use vgpu_share::Share;

use bench::{Bench, MIB, Test, until};

const TESTS: [(&str, Test); 21] = [
    ("launches_in_streams_and_captures_work_as_ever_and_are_charged_what_they_took", capture::agree),
    ("threads_that_launch_side_by_side_are_charged_no_less_than_they_took", capture::threads_agree),
    ("every_family_of_memory_is_charged_what_the_driver_holds", families::agree),
    ("killed_at_any_instruction_of_an_allocation_and_its_free_nothing_stays_charged", killed::anywhere),
    ("eight_processes_racing_never_pass_the_limit_and_leave_nothing", racing),
    ("memory_that_threads_hand_to_each_other_is_given_back_by_whoever_frees_it", handed::agree),
    ("closing_all_descriptors_loses_nothing", close_all),
    ("a_forked_child_does_not_keep_what_its_parent_had", forked),
    ("a_program_started_by_posix_spawn_does_not_keep_what_its_starter_had", spawned),
    ("a_program_started_by_vfork_does_not_keep_what_its_starter_had", vforked),
    ("parent_and_child_of_a_fork_before_cuda_are_two_processes", forked_first),
    ("another_user_shares_the_limit", other_user),
    ("equal_pids_of_other_namespaces_are_two_processes", equal_pids),
    ("a_process_with_the_pid_of_a_dead_one_is_another", same_pid),
    ("memory_opened_by_another_process_is_its_owners_to_pay_for", movable::owner_pays),
    ("what_may_lie_in_the_hosts_memory_never_takes_more_of_the_gpu_than_its_part", movable::oversubscribed),
    ("memory_the_host_does_not_have_is_refused", movable::no_host_memory),
    ("nvml_shows_the_shares_processes_and_how_busy_they_are_of_its_cap", nvml::shows_the_share),
    ("random_programs_of_allocations_frees_forks_and_kills_leave_what_a_model_says", program::agree),
    ("a_limit_acts_at_once_when_it_is_changed", live_change),
    ("what_the_driver_keeps_for_a_context_is_charged_and_follows_its_figure", overhead),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, what, rest @ ..] = &arguments[..]
        && first == "tenant"
    {
        return match tenant::run(what, rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{what}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    bench::run(&TESTS)
}

/// A tenant that is killed when the test is done with it.
struct Tenant(Child);

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A tenant that listens and answers, line by line.
struct Talking {
    tenant: Tenant,
    out: BufReader<std::process::ChildStdout>,
}

impl Talking {
    /// What it says next.
    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.tenant.0.stdin.as_mut().context("its input is a pipe")?, "{line}")?)
    }
}

impl Tenant {
    fn start(bench: &Bench, wrapper: &[&str], arguments: &[&str]) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let arguments = [&["tenant"], arguments].concat();
        let child = bench.command(wrapper, &own, &arguments).spawn().context("cannot start unshare")?;
        Ok(Self(child))
    }

    /// One that listens and answers.
    fn start_talking(bench: &Bench, arguments: &[&str]) -> anyhow::Result<Talking> {
        let own = std::env::current_exe()?;
        let mut command = bench.command(&[], &own, &[&["tenant"], arguments].concat());
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Talking { tenant: Self(child), out })
    }

    /// Waits for its end; gives what it said.
    fn end(mut self) -> anyhow::Result<String> {
        let status = self.0.wait()?;
        let out = std::io::read_to_string(self.0.stdout.take().context("its output is a pipe")?)?;
        let error = std::io::read_to_string(self.0.stderr.take().context("its errors are a pipe")?)?;
        ensure!(status.success(), "{status}: {out} {error}");
        Ok(out)
    }

    /// Waits for its first line.
    fn ready(mut self) -> anyhow::Result<Self> {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().context("its output is a pipe")?;
        BufReader::new(out).read_line(&mut line)?;
        if line.trim() != "ready" {
            let _ = self.0.kill();
            let mut error = String::new();
            let from = self.0.stderr.as_mut().context("its errors are a pipe")?;
            std::io::Read::read_to_string(from, &mut error)?;
            anyhow::bail!("it said {line:?} {error}");
        }
        Ok(self)
    }
}

/// A living process of the share that looks at it: this one.
fn used(share: &Share) -> u64 {
    share.reap();
    share.ledger.used()
}

fn agrees(bench: &Bench, share: &Share, bytes: u64) -> anyhow::Result<()> {
    let truth = bench.held()?;
    ensure!(
        used(share) == bytes && truth == bytes,
        "charged {}, held {truth}, expected {bytes}",
        used(share)
    );
    Ok(())
}

fn racing(bench: &Bench) -> anyhow::Result<()> {
    const LIMIT: u64 = 256 * MIB;
    let folder = bench.share("s", LIMIT, 0)?;
    let all: u64 = if std::env::var_os("VGPU_TEST_LONG").is_some() { 1_000_000 } else { 100_000 };
    let (each, limit) = ((all / 8).to_string(), LIMIT.to_string());
    let share = Share::open(&folder)?;
    let seeds: Vec<String> = (1..=8).map(|seed: u64| seed.to_string()).collect();
    let tenants: Result<Vec<_>, _> =
        seeds.iter().map(|seed| Tenant::start(bench, &[], &["race", &each, seed, &limit])).collect();
    let mut refused = 0u64;
    for mut tenant in tenants? {
        let status = tenant.0.wait()?;
        let text = std::io::read_to_string(tenant.0.stdout.take().context("its output is a pipe")?)?;
        ensure!(status.success(), "{status}: {text}");
        refused += text.lines().last().unwrap_or_default().parse::<u64>()?;
    }
    let peak = bench.peak()?;
    println!("  {all} operations: at most {peak} of {LIMIT} bytes held, {refused} refused");
    ensure!(peak <= LIMIT && refused > 0, "at most {peak} of {LIMIT} bytes held, {refused} refused");
    ensure!(share.usage.memory.0.refused.load(std::sync::atomic::Ordering::Relaxed) == refused);
    agrees(bench, &share, 0)
}

fn close_all(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 1000 * MIB, 0)?)?;
    let tenant = Tenant::start(bench, &[], &["close-all"])?.ready()?;
    until("it allocates with all descriptors closed", || {
        ensure!(used(&share) >= 100 * MIB, "what a living process holds was given back");
        Ok(used(&share) == 110 * MIB)
    })?;
    drop(tenant);
    ensure!(used(&share) == 0);
    Ok(())
}

fn ends_with_its_owner(bench: &Bench, what: &str) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 1000 * MIB, 0)?)?;
    let mut tenant = Tenant::start(bench, &[], &[what])?.ready()?;
    ensure!(used(&share) == 100 * MIB);
    let group = children(tenant.0.id())?;
    ensure!(!group.is_empty(), "its child is not there");
    tenant.0.kill()?;
    tenant.0.wait()?;
    let left = used(&share);
    let alive = group.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).count();
    for pid in group {
        // SAFETY: a process that the tenant of this test started.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    ensure!(alive > 0 && left == 0, "{alive} children alive, {left} bytes charged");
    Ok(())
}

fn children(pid: u32) -> anyhow::Result<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn forked(bench: &Bench) -> anyhow::Result<()> {
    ends_with_its_owner(bench, "fork")
}

fn spawned(bench: &Bench) -> anyhow::Result<()> {
    ends_with_its_owner(bench, "spawn")
}

fn vforked(bench: &Bench) -> anyhow::Result<()> {
    ends_with_its_owner(bench, "vfork")
}

fn same_pid(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 1000 * MIB, 0)?)?;
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    let ids = || share.usage.slots.iter().map(|s| s.pid.load(std::sync::atomic::Ordering::Relaxed));
    for mib in ["100", "200", "300"] {
        let tenant = Tenant::start(bench, &wrapper, &["hold", mib])?.ready()?;
        // The one before was killed, and nobody has looked since.
        ensure!(share.ledger.used() == mib.parse::<u64>()? * MIB, "{} beside {mib} MiB", share.ledger.used());
        ensure!(ids().filter(|pid| *pid == 1).count() == 1);
        drop(tenant);
        until("it is gone", || Ok(bench.held()? == 0))?;
    }
    ensure!(used(&share) == 0);
    Ok(())
}

fn forked_first(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 1000 * MIB, 0)?)?;
    let mut tenant = Tenant::start(bench, &[], &["fork-first"])?.ready()?;
    until("both hold", || Ok(used(&share) == 50 * MIB))?;
    let child = children(tenant.0.id())?;
    tenant.0.kill()?;
    tenant.0.wait()?;
    let left = used(&share);
    for pid in child {
        // SAFETY: a process that the tenant of this test started.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    ensure!(left == 30 * MIB, "{left} bytes charged while the child lives");
    until("the child's is given back", || Ok(used(&share) == 0))
}

fn other_user(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 1000 * MIB, 0)?)?;
    let wrapper = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"];
    let other = Tenant::start(bench, &wrapper, &["hold", "300"])?.ready()?;
    let own = Tenant::start(bench, &[], &["hold", "600"])?.ready()?;
    agrees(bench, &share, 900 * MIB)?;
    drop(other);
    ensure!(used(&share) == 600 * MIB);
    drop(own);
    agrees(bench, &share, 0)
}

fn equal_pids(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", 1000 * MIB, 0)?)?;
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    let first = Tenant::start(bench, &wrapper, &["hold", "100"])?.ready()?;
    let second = Tenant::start(bench, &wrapper, &["hold", "200"])?.ready()?;
    let ids = || share.usage.slots.iter().map(|s| s.pid.load(std::sync::atomic::Ordering::Relaxed));
    ensure!(ids().filter(|pid| *pid == 1).count() == 2, "both are process 1 of their namespace");
    ensure!(used(&share) == 300 * MIB);
    drop(first);
    until("the first one's is given back", || Ok(used(&share) == 200 * MIB))?;
    // A third one of that pid takes its place.
    let third = Tenant::start(bench, &wrapper, &["hold", "400"])?.ready()?;
    ensure!(used(&share) == 600 * MIB);
    drop((second, third));
    until("all is given back", || Ok(used(&share) == 0))
}

/// Whether a tenant can have so much now.
fn fits(bench: &Bench, mib: &str) -> anyhow::Result<bool> {
    let out = bench.start("vgpu-workload", &["allocate", "--mib", mib])?.wait_with_output()?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success() || error.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{error}");
    Ok(out.status.success())
}

fn live_change(bench: &Bench) -> anyhow::Result<()> {
    let folder = bench.share("s", 500 * MIB, 0)?;
    let share = Share::open(&folder)?;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(folder.join("limits"))?;
    let set = |mib: u64| limits::rewrite(&file, &Limits { memory: mib * MIB, ..Limits::default() });
    let holder = Tenant::start(bench, &[], &["hold", "400"])?.ready()?;
    ensure!(!fits(bench, "200")?, "600 of 500 MiB");
    set(700)?;
    ensure!(fits(bench, "200")?, "600 of 700 MiB");
    set(300)?;
    let refused = || share.usage.memory.0.refused.load(std::sync::atomic::Ordering::Relaxed);
    let before = refused();
    ensure!(!fits(bench, "1")?, "401 of 300 MiB");
    ensure!(refused() > before && used(&share) > share.limits.read().memory, "the region says so");
    let info = bench.json(&["info"])?;
    ensure!(info["total"] == 300 * MIB && info["free"] == 0, "{info}");
    drop(holder);
    ensure!(fits(bench, "300")?, "what was held is given back");
    Ok(())
}

fn overhead(bench: &Bench) -> anyhow::Result<()> {
    let folder = bench.share("s", 500 * MIB, 0)?;
    let share = Share::open(&folder)?;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(folder.join("limits"))?;
    let set = |mib: u64| {
        limits::rewrite(&file, &Limits { memory: 500 * MIB, overhead: mib * MIB, ..Limits::default() })
    };
    set(60)?;
    let holder = Tenant::start(bench, &[], &["hold", "400"])?.ready()?;
    ensure!(used(&share) == 460 * MIB, "{}", used(&share));
    let said =
        share.usage.slots.iter().map(|s| s.overhead.load(std::sync::atomic::Ordering::Relaxed)).sum::<u64>();
    ensure!(said == 60 * MIB, "{said} bytes are said to be the driver's");
    // A second context does not fit.
    let second = Tenant::start(bench, &[], &["hold", "1"])?.ready();
    ensure!(second.is_err_and(|e| e.to_string().contains("does not start: 2")));
    drop(holder);
    ensure!(used(&share) == 0);
    // The plugin has measured: 80 MiB.
    let holder = Tenant::start(bench, &[], &["hold", "100"])?.ready()?;
    set(80)?;
    let got = bench.json(&["allocate"])?;
    ensure!(got["bytes"] == (500 - 160 - 80) * MIB, "{got}");
    drop(holder);
    Ok(())
}
