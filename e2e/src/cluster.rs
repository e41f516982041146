//! A cluster's life as seen from the host: start it, use it, break it, see that nothing is left.

mod driver;
mod dump;
mod handle;
mod life;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use vgpu_programs::{Programs, cache_folder};

pub use handle::Handle;
use life::clusters_folder;
pub(crate) use life::remove;

use crate::artifacts::Artifacts;
use crate::cgroup::Hierarchies;
use crate::control::{self, ControlError, Reply, Request};
use crate::layout::{Layout, NodeLayout};
use crate::netns::{self, ClientError, NetworkNamespace};
use crate::{guard, image, pki};

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// GPUs of each node, as fake-gpu describes them; empty for a node without a driver.
    pub gpus: Vec<String>,
    /// Requests per second kube-scheduler may send; `None` for its own limit of 50.
    pub scheduler_qps: Option<u32>,
}

impl Default for Options {
    /// Two nodes with four T4 each.
    fn default() -> Self {
        Self { gpus: vec!["T4x4".into(); 2], scheduler_qps: None }
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

/// A running cluster. Dropping it ends it, unless it is kept; so does the end of the program, however it ends.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    init: Pid,
    /// Process of [`crate::guard`]; absent when the cluster is kept or another program's, or after the end.
    guard: Option<Child>,
    network: NetworkNamespace,
}

impl Cluster {
    /// Builds what is missing, starts everything and waits until nodes are Ready and pods may be created.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Self, StartError> {
        vgpu_programs::machine::check().map_err(StartError::Unavailable)?;
        let programs = Programs::ensure(say).map_err(|e| match e {
            vgpu_programs::ProgramsError::Missing { .. } => StartError::Unavailable(e.to_string()),
            other => StartError::Failed(other.into()),
        })?;
        let artifacts = Artifacts::of_this_build().map_err(|e| StartError::Failed(e.into()))?;
        sweep(say);

        let id = format!("vgpu-{}-{}", std::process::id(), fresh_number());
        let node = |(index, gpus): (usize, &String)| NodeLayout {
            name: format!("node-{}", char::from(b'a' + u8::try_from(index).unwrap_or(25).min(25))),
            index: u8::try_from(index).unwrap_or(u8::MAX),
            gpus: gpus.clone(),
        };
        let mut layout = Layout {
            version: crate::layout::VERSION,
            state: clusters_folder().join(&id),
            cgroup: id,
            programs: programs.folder().to_owned(),
            runc: programs.runc().to_owned(),
            supervisor: artifacts.path("vgpu-e2e"),
            artifacts: artifacts.folder().to_owned(),
            images: Vec::new(),
            nodes: options.gpus.iter().enumerate().map(node).collect(),
            scheduler_qps: options.scheduler_qps,
        };
        let started = Instant::now();
        let log = life::begin(&layout).map_err(|e| StartError::Failed(e.into()))?;
        let launched = Self::launch(&mut layout, &artifacts, log, say);
        let mut cluster = launched.map_err(|error| Self::failed(&layout, error))?;
        if let Err(error) = cluster.wait_ready() {
            let error = Self::failed(&layout, StartError::Failed(error));
            let _ = cluster.end();
            return Err(error);
        }
        say(&format!("cluster is up after {:.1} s", started.elapsed().as_secs_f64()));
        Ok(cluster)
    }

    /// Saves the logs of a cluster that does not come up, and removes what has no processes.
    fn failed(layout: &Layout, error: StartError) -> StartError {
        let error = match (error, save_logs(layout, "start")) {
            (StartError::Failed(error), Ok(logs)) => {
                StartError::Failed(error.context(format!("logs are in {}", logs.display())))
            }
            (error, _) => error,
        };
        if !life::alive(layout) {
            let _ = life::remove(layout);
        }
        error
    }

    fn launch(
        layout: &mut Layout,
        artifacts: &Artifacts,
        log: File,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Self, StartError> {
        let failed = |e: io::Error| StartError::Failed(e.into());
        say("packing images");
        let images = image::all(artifacts);
        layout.images = image::provide(&images, &cache_folder().join("images"), &layout.state.join("images"))
            .map_err(|e| StartError::Failed(e.into()))?;
        layout.write().map_err(failed)?;
        say("starting the cluster");
        pki::create(layout).map_err(|e| StartError::Failed(e.into()))?;
        let nodes: Vec<String> = layout.nodes.iter().map(|n| n.name.clone()).collect();
        let hierarchies = Hierarchies::of_host().map_err(|e| StartError::Unavailable(e.to_string()))?;
        hierarchies.create(&layout.cgroup, &nodes).map_err(|e| match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StartError::Unavailable(
                format!("it needs to make cgroups ({e}); run the container privileged, with a writable /sys/fs/cgroup"),
            ),
            _ => StartError::Failed(e.into()),
        })?;
        let mut guard = Command::new(&layout.supervisor)
            .arg("guard")
            .arg(&layout.state)
            // It ends the cluster when the other end of this is closed; see `keep`.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let init = wait_for_init(layout, &mut guard);
        let reached = init.and_then(|init| Ok((init, NetworkNamespace::of(init)?)));
        let (init, network) = reached.map_err(|error| {
            // All that it has started ends with it.
            let _ = guard.kill().and_then(|()| guard.wait());
            let _ = life::wait_for_end(layout);
            StartError::Failed(error)
        })?;
        Ok(Self { layout: layout.clone(), init, guard: Some(guard), network })
    }

    /// A cluster that another program started, by its state folder. Dropping this does not end it.
    ///
    /// # Errors
    /// It is not there, or does not run any more.
    pub fn attach(state: &Path) -> io::Result<Self> {
        let layout = Layout::read(state)?;
        let init = read_init(&layout)?;
        let network = NetworkNamespace::of(init)?;
        // Asked last: as long as it lives, the process read above is its own.
        if !life::alive(&layout) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended"));
        }
        Ok(Self { layout, init, guard: None, network })
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
            for node in &self.layout.nodes {
                let log = || fs::read_to_string(self.layout.logs().join(format!("{}.log", node.name)));
                let running = self.program(&node.name).status()?.pid.is_some();
                anyhow::ensure!(running, "{} ended: {}", node.name, log().unwrap_or_default().trim());
            }
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
            if !Path::new("/proc").join(self.init.to_string()).exists() {
                anyhow::bail!("the cluster ended by itself: {}", said(&self.layout));
            }
            anyhow::ensure!(Instant::now() < end, "{what} not ready after {seconds} s");
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

    /// Lets it outlive this program. Until here an interrupted start leaves nothing behind.
    ///
    /// # Errors
    /// The cluster ended by itself.
    pub fn keep(mut self) -> anyhow::Result<()> {
        let guard = self.guard.take().and_then(|mut g| g.stdin.take());
        let mut guard = guard.context("it belongs to another program")?;
        File::create(self.layout.kept_file())?;
        guard.write_all(guard::KEEP).context("the cluster ended by itself")
    }

    /// Ends it and removes everything it left; an error says what could not be removed.
    ///
    /// # Errors
    /// Names of processes, cgroups or folders that are still there; or it belongs to another program and was not kept.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match self.guard.take() {
            // It kills the cluster when its input ends, and cleans up.
            Some(mut guard) => {
                drop(guard.stdin.take());
                guard.wait()?;
            }
            None if self.layout.kept() => drop(kill_process(self.init, Signal::KILL)),
            None => {
                anyhow::bail!(
                    "the cluster in {} ends with the program that started it",
                    self.layout.state.display()
                )
            }
        }
        life::wait_for_end(&self.layout)?;
        life::remove(&self.layout)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.guard.is_some()
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Removes what a cluster left behind whose processes are all gone.
///
/// # Errors
/// It lives, or something could not be removed.
pub fn remove_dead(state: &Path) -> anyhow::Result<()> {
    let layout = Layout::read(state)?;
    anyhow::ensure!(!life::alive(&layout), "the cluster in {} runs", state.display());
    life::remove(&layout)
}

/// Removes what clusters left behind that nobody kept, whose guard was killed or whose machine was restarted.
fn sweep(say: &(dyn Fn(&str) + Sync)) {
    for state in Cluster::all() {
        if Layout::read(&state).is_ok_and(|l| !l.kept() && !life::alive(&l)) {
            say(&format!("removing what is left of {}", state.display()));
            // Another program may be at it too; what is still there afterwards is met again next time.
            let _ = remove_dead(&state);
        }
    }
}

/// PID 1 of the cluster, as its guard wrote it down.
fn read_init(layout: &Layout) -> io::Result<Pid> {
    let text = fs::read_to_string(layout.init_file())?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other(format!("{} holds no process id", layout.init_file().display())))
}

fn wait_for_init(layout: &Layout, guard: &mut Child) -> anyhow::Result<Pid> {
    loop {
        if let Ok(pid) = read_init(layout) {
            return Ok(pid);
        }
        anyhow::ensure!(guard.try_wait()?.is_none(), "{}", said(layout));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What guard and supervisor printed.
fn said(layout: &Layout) -> String {
    fs::read_to_string(layout.log()).unwrap_or_default().trim().to_owned()
}

/// Copies the logs of all programs to where the end of the cluster does not remove them.
fn save_logs(layout: &Layout, occasion: &str) -> io::Result<PathBuf> {
    let folder = layout.artifacts.join("e2e-logs").join(&layout.cgroup).join(occasion);
    life::copy_logs(&layout.state, &folder)?;
    Ok(folder)
}

fn fresh_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
