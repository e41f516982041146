//! How clusters begin and end: with their starter, however it ends, and beside each other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vgpu_e2e::cgroup::Hierarchies;
use vgpu_e2e::cluster::{Cluster, Options, remove_dead};
use vgpu_e2e::layout::Layout;
use vgpu_e2e::suite::{self, World};

/// Set for the child process that starts a cluster and waits to be killed.
const STARTER: &str = "VGPU_E2E_STARTER";

fn main() -> ExitCode {
    if std::env::var_os(STARTER).is_some() {
        return start_and_wait();
    }
    suite::run(
        &Options::default(),
        false,
        &[
            ("a_cluster_ends_with_its_starter_however_that_ends", a_killed_starter),
            ("what_a_killed_guard_left_is_removed", a_killed_guard),
            ("a_kept_cluster_runs_beside_others_until_it_is_taken_down", a_kept_cluster),
            ("a_killed_node_may_be_started_at_once", a_node_started_at_once),
            ("ended_containers_leave_no_zombies", no_zombies),
        ],
    )
}

/// One node is enough to see what is left of it.
fn small(keep: bool) -> Options {
    Options { gpus: vec!["T4x1".into()], keep }
}

fn start_and_wait() -> ExitCode {
    match Cluster::start(&small(false), &|_| {}) {
        Ok(cluster) => {
            println!("{}", cluster.layout().state.display());
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A process with a cluster of its own.
fn starter() -> anyhow::Result<(Child, Layout)> {
    let mut child =
        Command::new(std::env::current_exe()?).env(STARTER, "1").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(!line.is_empty(), "no cluster: {}", child.wait()?);
    let layout = Layout::read(Path::new(line.trim()))?;
    Ok((child, layout))
}

/// Processes that have the state folder in their command line.
fn processes(layout: &Layout) -> anyhow::Result<Vec<Pid>> {
    let state = layout.state.display().to_string();
    let pids = fs::read_dir("/proc")?.flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    let words = |pid: &Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Ok(pids.filter(|pid| String::from_utf8_lossy(&words(pid)).contains(&state)).collect())
}

fn cgroups(layout: &Layout) -> anyhow::Result<Vec<PathBuf>> {
    Ok(Hierarchies::of_host()?.left(&layout.cgroup))
}

fn nothing_is_left(world: &World, layout: &Layout) -> anyhow::Result<()> {
    let what = format!("the end of {}", layout.state.display());
    world.until(&what, 20, || Ok((!layout.state.exists()).then_some(())))?;
    ensure!(processes(layout)?.is_empty(), "processes {:?} are left", processes(layout)?);
    ensure!(cgroups(layout)?.is_empty(), "cgroups {:?} are left", cgroups(layout)?);
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&layout.state.display().to_string()), "mounts are left");
    Ok(())
}

fn a_killed_starter(world: &World) -> anyhow::Result<()> {
    for signal in [Signal::KILL, Signal::INT] {
        let (mut child, layout) = starter()?;
        ensure!(!processes(&layout)?.is_empty() && !cgroups(&layout)?.is_empty());
        kill_process(Pid::from_child(&child), signal)?;
        child.wait()?;
        nothing_is_left(world, &layout).with_context(|| format!("after {signal:?}"))?;
    }
    Ok(())
}

fn a_killed_guard(world: &World) -> anyhow::Result<()> {
    let (mut child, layout) = starter()?;
    ensure!(remove_dead(&layout.state).is_err(), "a living cluster must not be removed");
    let is_guard = |pid: &Pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|w| w.split(|b| *b == 0).any(|w| w == b"guard"))
    };
    let guard = processes(&layout)?.into_iter().find(is_guard).context("no guard")?;
    kill_process(guard, Signal::KILL)?;
    child.kill()?;
    child.wait()?;
    world.until("the end of its processes", 20, || Ok(processes(&layout)?.is_empty().then_some(())))?;
    ensure!(layout.state.exists() && !cgroups(&layout)?.is_empty(), "a killed guard cannot have cleaned up");
    // The next one to start clears up; it is not the same as starting over in the old folder.
    Cluster::start(&small(false), &|_| {})?.stop()?;
    nothing_is_left(world, &layout)
}

fn a_kept_cluster(world: &World) -> anyhow::Result<()> {
    let kept = Cluster::start(&small(true), &|_| {})?;
    let layout = kept.layout().clone();
    drop(kept);
    // As another program would find it.
    let again = Cluster::attach(&layout.state)?;
    let nodes = String::from_utf8(again.kubectl(&["get", "nodes", "-o", "name"])?.stdout)?;
    ensure!(nodes.trim() == "node/node-a", "{nodes}");
    ensure!(world.kubectl(&["get", "nodes", "-o", "name"])?.lines().count() == 2, "clusters are mixed up");
    again.stop()?;
    nothing_is_left(world, &layout)?;
    // A cluster of a running test is nobody else's to end.
    let theirs = Cluster::attach(&world.cluster.layout().state)?;
    ensure!(theirs.stop().is_err());
    world.kubectl(&["get", "--raw", "/readyz"]).map(drop)
}

fn a_node_started_at_once(world: &World) -> anyhow::Result<()> {
    for _ in 0..3 {
        let node = world.cluster.program("node-b");
        node.kill()?;
        ensure!(node.status()?.pid.is_none());
        node.start()?;
        node.start().context("starting what runs")?;
    }
    // Its kubelet is a new one, so a pod that becomes Ready is proof of it.
    world.until("node-b's supervisor", 60, || {
        let kubelet = world.cluster.node_program("node-b", "kubelet").status();
        Ok(kubelet.is_ok_and(|k| k.pid.is_some()).then_some(()))
    })?;
    world.apply(&pod("again", "node-b"))?;
    world.ready("again", 90).map(drop)
}

fn no_zombies(world: &World) -> anyhow::Result<()> {
    for name in ["one", "two"] {
        world.apply(&pod(name, "node-a"))?;
    }
    for name in ["one", "two"] {
        world.ready(name, 60)?;
    }
    world.own(&["delete", "pods", "--all", "--timeout=60s"])?;
    let mut zombies = String::new();
    let none = world.until("no zombies", 20, || {
        std::thread::sleep(Duration::from_millis(500));
        let script = "grep -ls '^State:.Z' /proc/[0-9]*/status | xargs -r grep -hs ^Name:";
        zombies = world.cluster.node_run("node-a", &["sh", "-c", script])?.1;
        Ok(zombies.is_empty().then_some(()))
    });
    none.with_context(|| zombies)
}

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n  \
         terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{name: c, image: 'vgpu-dra/workload:dev', imagePullPolicy: Never}}\n"
    )
}
