//! How clusters begin and end: with their starter, however it ends, and beside each other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vgpu_e2e::cgroup::Hierarchies;
use vgpu_e2e::cluster::{Cluster, Options, remove_dead};
use vgpu_e2e::layout::Layout;
use vgpu_e2e::suite::{self, Test, World};

/// Set for the child process that starts a cluster and waits to be killed.
const STARTER: &str = "VGPU_E2E_STARTER";

fn main() -> ExitCode {
    if std::env::var_os(STARTER).is_some() {
        return start_and_wait();
    }
    suite::run(&Options::default(), false, TESTS)
}

const TESTS: &[Test] = &[
    ("where_no_cluster_can_run_every_test_is_skipped_with_the_reason", skipped_with_the_reason),
    ("a_cluster_ends_with_its_starter_however_that_ends", a_killed_starter),
    ("a_cluster_on_its_way_up_ends_with_its_starter", a_starter_killed_early),
    ("a_stopped_cluster_leaves_nothing", a_stopped_cluster),
    ("what_a_killed_guard_left_is_removed", a_killed_guard),
    ("a_kept_cluster_runs_beside_others_until_it_is_taken_down", a_kept_cluster),
    ("a_killed_node_may_be_started_at_once", a_node_started_at_once),
    ("ended_containers_leave_no_zombies", no_zombies),
];

/// One node is enough to see what is left of it.
fn small() -> Options {
    Options { gpus: vec!["T4x1".into()], ..Options::default() }
}

fn start_and_wait() -> ExitCode {
    match Cluster::start(&small(), &|_| {}) {
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

/// A process that starts a cluster of its own, and that signals end: what a shell starts in the background ignores
/// SIGINT, and passes that on.
fn starting() -> anyhow::Result<Child> {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(std::env::current_exe()?);
    Ok(command.env(STARTER, "1").stdout(Stdio::piped()).spawn()?)
}

/// Waits until its cluster is up.
fn started(mut child: Child) -> anyhow::Result<(Child, Layout)> {
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
    let signals = [Signal::KILL, Signal::INT, Signal::TERM];
    let starters = signals.map(|_| starting());
    for (signal, starter) in signals.into_iter().zip(starters) {
        let (mut child, layout) = started(starter?)?;
        ensure!(!processes(&layout)?.is_empty() && !cgroups(&layout)?.is_empty());
        kill_process(Pid::from_child(&child), signal)?;
        world.until(&format!("the starter's end by {signal:?}"), 20, || Ok(child.try_wait()?))?;
        nothing_is_left(world, &layout).with_context(|| format!("after {signal:?}"))?;
    }
    Ok(())
}

fn a_starter_killed_early(world: &World) -> anyhow::Result<()> {
    // Before there are namespaces, while the API server starts, while the node does.
    for milliseconds in [0, 1_000, 3_000] {
        let mut child = starting()?;
        let own = format!("vgpu-{}-", child.id());
        let state = world.until("a state folder", 20, || {
            let name = |state: &PathBuf| state.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Cluster::all().into_iter().find(|state| name(state).starts_with(&own)))
        })?;
        let layout = Layout::read(&state)?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill()?;
        child.wait()?;
        let living = || -> anyhow::Result<bool> { Ok(!processes(&layout)?.is_empty()) };
        world.until("the end of its processes", 20, || Ok((!living()?).then_some(())))?;
        if layout.state.exists() {
            // Killed before there was a guard: the next to start clears up.
            remove_dead(&state)?;
        }
        nothing_is_left(world, &layout).with_context(|| format!("killed after {milliseconds} ms"))?;
    }
    Ok(())
}

fn a_stopped_cluster(world: &World) -> anyhow::Result<()> {
    let cluster = Cluster::start(&small(), &|_| {})?;
    let layout = cluster.layout().clone();
    cluster.stop()?;
    ensure!(!layout.state.exists(), "{} is left", layout.state.display());
    nothing_is_left(world, &layout)
}

/// As on a machine without root, and on one without the tools.
fn skipped_with_the_reason(_: &World) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Where everybody may read it.
    let program = folder.path().join("lifetime");
    fs::copy(std::env::current_exe()?, &program)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let tools = folder.path().join("tools");
    fs::create_dir(&tools)?;
    for tool in ["unshare", "strip", "ldd", "bash"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|f| f.join(tool))
            .find(|p| p.exists());
        symlink(found.with_context(|| format!("no {tool}"))?, tools.join(tool))?;
    }
    let path = std::env::var("PATH")?;
    let nowhere = folder.path().display().to_string();
    let cases: [(&[&str], &str, &str); 3] = [
        (&["setpriv", "--reuid=65534", "--clear-groups"], &path, "needs root"),
        (&["env"], &nowhere, "unshare is missing"),
        (&["env"], &tools.display().to_string(), "Go is missing"),
    ];
    for (wrapper, path, reason) in cases {
        let out = Command::new(wrapper[0])
            .args(&wrapper[1..])
            .args(["/usr/bin/env", &format!("PATH={path}")])
            .arg(&program)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        let skips = text.lines().filter(|l| l.starts_with("skipped: ") && l.contains(reason)).count();
        ensure!(skips == TESTS.len(), "{reason}: {text}{}", String::from_utf8_lossy(&out.stderr));
        let count = format!("0 passed; 0 failed; {} ignored", TESTS.len());
        ensure!(text.contains(&count) && out.status.success(), "{reason}: {text}");
    }
    Ok(())
}

fn a_killed_guard(world: &World) -> anyhow::Result<()> {
    let (mut child, layout) = started(starting()?)?;
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
    Cluster::start(&small(), &|_| {})?.stop()?;
    nothing_is_left(world, &layout)
}

fn a_kept_cluster(world: &World) -> anyhow::Result<()> {
    let kept = Cluster::start(&small(), &|_| {})?;
    let layout = kept.layout().clone();
    kept.keep()?;
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
