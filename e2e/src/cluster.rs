//! A cluster's life as seen from the host: start it, use it, break it, see that nothing is left.

mod driver;
mod dump;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use vgpu_programs::{Programs, cache_folder};

use crate::artifacts::Artifacts;
use crate::cgroup::Hierarchies;
use crate::control::{self, ControlError, ProgramStatus, Reply, Request};
use crate::layout::{Layout, NodeLayout};
use crate::netns::{self, ClientError, NetworkNamespace};
use crate::{image, pki};

/// Memory a cluster with its pods wants free.
const MEMORY_MIB: u64 = 3 * 1024;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// GPUs of each node, as fake-gpu describes them; empty for a node without a driver.
    pub gpus: Vec<String>,
    /// Whether it outlives the program that started it.
    pub keep: bool,
}

impl Default for Options {
    /// Two nodes with four T4 each.
    fn default() -> Self {
        Self { gpus: vec!["T4x4".into(); 2], keep: false }
    }
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This machine cannot run one; the text says what to do.
    #[error("a local cluster cannot run here: {0}")]
    Unavailable(String),
    /// It did not come up.
    #[error("the local cluster did not start: {0:#}")]
    Failed(anyhow::Error),
}

/// A running cluster. Dropping it ends it, unless it is to be kept.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    init: u32,
    outer: Option<Child>,
    network: NetworkNamespace,
    keep: bool,
}

/// One program of the control plane or of a node.
#[derive(Debug, Clone, Copy)]
pub struct Handle<'a> {
    cluster: &'a Cluster,
    node: Option<&'a str>,
    name: &'a str,
}

impl Handle<'_> {
    fn ask(&self, request: &Request) -> Result<Reply, ControlError> {
        control::ask(&self.cluster.layout.socket(self.node), request)
    }

    /// SIGKILL; its supervisor starts it again (a node stays down).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn kill(&self) -> Result<(), ControlError> {
        self.ask(&Request::Kill { program: self.name.into() }).map(drop)
    }

    /// SIGTERM; it stays down.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn stop(&self) -> Result<(), ControlError> {
        self.ask(&Request::Stop { program: self.name.into() }).map(drop)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(&self) -> Result<(), ControlError> {
        self.ask(&Request::Start { program: self.name.into() }).map(drop)
    }

    /// Its state.
    ///
    /// # Errors
    /// [`ControlError`], also when there is no such program.
    pub fn status(&self) -> Result<ProgramStatus, ControlError> {
        match self.ask(&Request::Status)? {
            Reply::Status { mut programs } => {
                let unknown = || ControlError::Refused(format!("there is no program {} here", self.name));
                programs.remove(self.name).ok_or_else(unknown)
            }
            other => Err(ControlError::Refused(format!("unexpected answer {other:?}"))),
        }
    }
}

impl Cluster {
    /// Builds what is missing, starts everything and waits until nodes are Ready and pods may be created.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Self, StartError> {
        check_machine().map_err(StartError::Unavailable)?;
        let programs = Programs::ensure(say).map_err(|e| match e {
            vgpu_programs::ProgramsError::Missing { .. } => StartError::Unavailable(e.to_string()),
            other => StartError::Failed(other.into()),
        })?;
        let artifacts = Artifacts::of_this_build().map_err(|e| StartError::Failed(e.into()))?;
        say("packing images");
        let images = image::all(&artifacts);
        let images: Result<Vec<PathBuf>, _> =
            images.iter().map(|i| i.archive(&cache_folder().join("images"))).collect();
        let images = images.map_err(|e| StartError::Failed(e.into()))?;

        let id = format!("vgpu-{}-{}", std::process::id(), fresh_number());
        let node = |(index, gpus): (usize, &String)| NodeLayout {
            name: format!("node-{}", char::from(b'a' + u8::try_from(index).unwrap_or(25).min(25))),
            index: u8::try_from(index).unwrap_or(u8::MAX),
            gpus: gpus.clone(),
        };
        let layout = Layout {
            state: clusters_folder().join(&id),
            cgroup: id,
            programs: programs.folder().to_owned(),
            runc: programs.runc().to_owned(),
            supervisor: artifacts.path("vgpu-e2e"),
            artifacts: artifacts.folder().to_owned(),
            images,
            nodes: options.gpus.iter().enumerate().map(node).collect(),
        };
        say("starting the cluster");
        let started = Instant::now();
        let cluster = Self::launch(layout, options.keep).map_err(StartError::Failed)?;
        cluster.wait_ready().map_err(StartError::Failed)?;
        say(&format!("cluster is up after {:.1} s", started.elapsed().as_secs_f64()));
        Ok(cluster)
    }

    fn launch(layout: Layout, keep: bool) -> anyhow::Result<Self> {
        layout.write()?;
        pki::create(&layout)?;
        fs::create_dir_all(layout.logs())?;
        let nodes: Vec<String> = layout.nodes.iter().map(|n| n.name.clone()).collect();
        Hierarchies::of_host()?.create(&layout.cgroup, &nodes)?;
        let log = fs::File::create(layout.logs().join("cluster.log"))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"])
            .arg(&layout.supervisor)
            .arg("supervise-cluster")
            .arg(&layout.state)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec only prctl(2) and setsid(2) are called; both are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                if !keep {
                    set_parent_process_death_signal(Some(Signal::KILL))?;
                }
                Ok(())
            })
        };
        let mut outer =
            command.spawn().map_err(|e| anyhow::anyhow!("cannot start unshare (package util-linux): {e}"))?;
        let end = Instant::now() + Duration::from_secs(10);
        let init = loop {
            let inner =
                only_child(outer.id()).filter(|pid| network_of(*pid) != network_of(std::process::id()));
            match inner {
                Some(pid) => break pid,
                None if Instant::now() > end || outer.try_wait()?.is_some() => {
                    let _ = outer.kill();
                    let log = fs::read_to_string(layout.logs().join("cluster.log")).unwrap_or_default();
                    anyhow::bail!("no namespaces for the cluster: {}", log.trim());
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        fs::write(layout.state.join("init.pid"), init.to_string())?;
        let network = NetworkNamespace::of(init)?;
        Ok(Self { layout, init, outer: Some(outer), network, keep })
    }

    /// A cluster that was kept, by its state folder.
    ///
    /// # Errors
    /// It is not there, or does not run any more.
    pub fn attach(state: &Path) -> io::Result<Self> {
        let layout = Layout::read(state)?;
        let init: u32 =
            fs::read_to_string(state.join("init.pid"))?.trim().parse().map_err(io::Error::other)?;
        let network = NetworkNamespace::of(init)?;
        Ok(Self { layout, init, outer: None, network, keep: true })
    }

    /// State folders of every cluster of this user, running or not, oldest first.
    pub fn all() -> Vec<PathBuf> {
        let entries = fs::read_dir(clusters_folder()).into_iter().flatten().flatten();
        let mut all: Vec<PathBuf> =
            entries.map(|e| e.path()).filter(|p| p.join("layout.json").exists()).collect();
        let started =
            |state: &PathBuf| fs::metadata(state.join("layout.json")).and_then(|m| m.modified()).ok();
        all.sort_by_key(started);
        all
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let nodes = self.layout.nodes.len();
        self.wait_for("the API server", 90, || {
            Ok(self.layout.socket(None).exists() && self.kubectl_ok(&["get", "--raw", "/readyz"]))
        })?;
        self.wait_for("the nodes", 90, || {
            let ready = r#"{.items[*].status.conditions[?(@.type=="Ready")].status}"#;
            let out = self.kubectl(&["get", "nodes", "-o", &format!("jsonpath={ready}")])?;
            Ok(String::from_utf8_lossy(&out.stdout).split_whitespace().filter(|s| *s == "True").count()
                == nodes)
        })?;
        self.wait_for("the default service account", 60, || {
            Ok(self.kubectl_ok(&["get", "serviceaccount", "default", "-n", "default"]))
        })?;
        // Without it the API server may not fetch logs from or exec into what kubelets run.
        let binding =
            ["create", "clusterrolebinding", "kubelet-client", "--clusterrole=system:kubelet-api-admin"];
        let user = "--user=kube-apiserver-kubelet-client";
        anyhow::ensure!(
            self.kubectl_ok(&[&binding[..], &[user]].concat()),
            "cannot let the API server reach kubelets"
        );
        Ok(())
    }

    /// Asks every 100 ms until yes; an end of the cluster is an error at once.
    fn wait_for(
        &self,
        what: &str,
        seconds: u64,
        mut ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !ready()? {
            if !Path::new(&format!("/proc/{}", self.init)).exists() {
                let log = fs::read_to_string(self.layout.logs().join("cluster.log")).unwrap_or_default();
                anyhow::bail!("the cluster ended by itself: {}", log.trim());
            }
            anyhow::ensure!(
                Instant::now() < end,
                "{what} not ready after {seconds} s; logs are in {}",
                self.layout.state.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Names, addresses and paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A command with the cluster's programs on its search path, its kubeconfig and its network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.layout.programs.display()))
            .env("KUBECONFIG", self.layout.pki().join("admin.kubeconfig"));
        self.network.command(&mut command);
        command
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// It did not start; what it says is in the output.
    pub fn kubectl(&self, args: &[&str]) -> io::Result<Output> {
        self.command(&self.layout.programs.join("kubectl").display().to_string())
            .args(args)
            .stdin(Stdio::null())
            .output()
    }

    fn kubectl_ok(&self, args: &[&str]) -> bool {
        self.kubectl(args).is_ok_and(|o| o.status.success())
    }

    /// Runs helm.
    ///
    /// # Errors
    /// It did not start; what it says is in the output.
    pub fn helm(&self, args: &[&str]) -> io::Result<Output> {
        let home = self.layout.state.join("helm");
        let mut command = self.command(&self.layout.programs.join("helm").display().to_string());
        command.args(args).stdin(Stdio::null());
        command.env("HELM_CACHE_HOME", &home).env("HELM_CONFIG_HOME", &home).env("HELM_DATA_HOME", &home);
        command.output()
    }

    /// A client for the cluster's admin. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn client(&self) -> Result<kube::Client, ClientError> {
        netns::client(&self.layout, &self.network).await
    }

    /// A program of the control plane (`etcd`, `kube-scheduler`, ...), or a whole node by its name.
    pub fn program<'a>(&'a self, name: &'a str) -> Handle<'a> {
        Handle { cluster: self, node: None, name }
    }

    /// A program of a node: `containerd` or `kubelet`.
    pub fn node_program<'a>(&'a self, node: &'a str, name: &'a str) -> Handle<'a> {
        Handle { cluster: self, node: Some(node), name }
    }

    /// Runs a command in a node's namespaces: exit status, stdout, stderr.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn node_run(&self, node: &str, command: &[&str]) -> Result<(i32, String, String), ControlError> {
        let command = command.iter().map(|w| (*w).to_owned()).collect();
        match control::ask(&self.layout.socket(Some(node)), &Request::Run { command })? {
            Reply::Output { code, stdout, stderr } => Ok((code, stdout, stderr)),
            other => Err(ControlError::Refused(format!("unexpected answer {other:?}"))),
        }
    }

    /// SIGKILL to every process of a node whose program file has this name; how many there were.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn kill_processes(&self, node: &str, executable: &str) -> Result<usize, ControlError> {
        let request = Request::KillProcesses { executable: executable.into() };
        match control::ask(&self.layout.socket(Some(node)), &request)? {
            Reply::Killed { count } => Ok(count),
            other => Err(ControlError::Refused(format!("unexpected answer {other:?}"))),
        }
    }

    /// True time a GPU was busy, in nanoseconds since the node's GPUs were installed.
    ///
    /// # Errors
    /// The node has no such GPU.
    pub fn gpu_busy_nanos(&self, node: &str, uuid: &str) -> anyhow::Result<u64> {
        let gpus = fake_gpu::Gpus::open(&self.layout.gpus_file(node))?;
        Ok(gpus.busy_nanos(uuid)?)
    }

    /// Ends it and removes everything it left; an error says what could not be removed.
    ///
    /// # Errors
    /// Names of processes, cgroups or folders that are still there.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.keep = true;
        if let Some(pid) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(mut outer) = self.outer.take() {
            outer.wait()?;
        }
        let gone = || !Path::new(&format!("/proc/{}", self.init)).exists();
        let end = Instant::now() + Duration::from_secs(20);
        while !gone() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        anyhow::ensure!(gone(), "process {} survived SIGKILL", self.init);
        remove_cgroups(&self.layout.cgroup)?;
        fs::remove_dir_all(&self.layout.state)
            .map_err(|e| anyhow::anyhow!("cannot remove {}: {e}", self.layout.state.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Processes die a moment after their pid namespace; until then their cgroups cannot go.
fn remove_cgroups(name: &str) -> anyhow::Result<()> {
    let hierarchies = Hierarchies::of_host()?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = hierarchies.remove(name);
        if left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "cgroups are left: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes what a cluster that was killed left behind.
///
/// # Errors
/// What could not be removed.
pub fn remove_dead(state: &Path) -> anyhow::Result<()> {
    remove_cgroups(&Layout::read(state)?.cgroup)?;
    Ok(fs::remove_dir_all(state)?)
}

fn clusters_folder() -> PathBuf {
    cache_folder().join("clusters")
}

fn fresh_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn only_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn network_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// What the machine lacks, in words one can act on.
fn check_machine() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root for namespaces, mounts and cgroups; run it with sudo".into());
    }
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let mib = available
        .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |k| k / 1024);
    if mib < MEMORY_MIB {
        return Err(format!(
            "it needs {MEMORY_MIB} MiB of memory and {mib} are available; end other programs"
        ));
    }
    for (tool, package) in [("unshare", "util-linux"), ("strip", "binutils"), ("ldd", "libc-bin")] {
        let found =
            Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        if !found {
            return Err(format!("the program {tool} is missing; install the package {package}"));
        }
    }
    Ok(())
}
