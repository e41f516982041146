//! A node with GPUs, two T4 unless a test says otherwise, and plugins on it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vgpu_kubelet_plugin::proto::dra;
use vgpu_kubelet_plugin::share_files::SharePaths;

use crate::api::{Api, CLAIMS, GPU_NODES, NODES, SLICES};
use crate::kubelet::{Kubelet, Registered};

pub(crate) const NAME: &str = "node-a";
/// All that a T4 shares out, in MiB.
pub(crate) const WHOLE: u64 = 15_104;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    dir: tempfile::TempDir,
    pub(crate) api: Api,
    pub(crate) kubelet: Kubelet,
    address: SocketAddr,
    pub(crate) gpus: fake_gpu::Gpus,
}

impl Node {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        Self::of("T4x2").await
    }

    /// One with other GPUs: a short description, or the path of a YAML file.
    pub(crate) async fn of(gpus: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let mut artifacts = std::env::current_exe()?;
        artifacts.pop();
        artifacts.pop();
        let root = at("root");
        fake_gpu::install::install(&root, &root, NAME, gpus, &artifacts).context(
            "cargo build -p fake-gpu-cuda -p fake-gpu-nvml -p fake-gpu-smi makes what this test needs",
        )?;
        for folder in ["limiter", "registry"] {
            fs::create_dir(at(folder))?;
        }
        for library in ["libcuda.so.1", "libnvidia-ml.so.1"] {
            fs::write(at("limiter").join(library), "the limiter")?;
        }
        let (api, address) = Api::serve().await?;
        api.put(NODES, json!({"metadata": {"name": NAME, "uid": "uid-of-node-a"}, "status": {}}));
        let cluster = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}]});
        fs::write(at("kubeconfig"), cluster.to_string())?;
        let (kubelet, gpus) = (Kubelet::new(&at("registry")), fake_gpu::Gpus::open(&root.join("gpus"))?);
        Ok(Self { api, kubelet, address, gpus, dir })
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn uuid(&self, index: usize) -> String {
        self.gpus.uuid(index)
    }

    /// Starts a plugin as a pod with that UID would.
    pub(crate) fn start(&self, pod_uid: &str) -> anyhow::Result<Plugin> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = File::options().create(true).append(true).open(self.at("log"))?;
        let flag = |name: &str, path: &str| format!("--{name}={}", self.at(path).display());
        let child = Command::new(env!("CARGO_BIN_EXE_vgpu-kubelet-plugin"))
            .args([
                flag("state-dir", "state"),
                flag("share-dir", "shares"),
                flag("cdi-dir", "cdi"),
                flag("plugins-dir", "plugins"),
                flag("registry-dir", "registry"),
                flag("driver-root", "root"),
                flag("driver-root-host", "root"),
                flag("driver-cdi-spec", "root/cdi.json"),
                flag("limiter-dir", "limiter"),
                format!("--metrics-address={port}"),
            ])
            .env("KUBECONFIG", self.at("kubeconfig"))
            .env("NODE_NAME", NAME)
            .env("POD_UID", pod_uid)
            .env("RUST_LOG", "info")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Plugin { child, http: port })
    }

    /// A plugin, and the kubelet's view of it.
    pub(crate) async fn running(&self, pod_uid: &str) -> anyhow::Result<(Plugin, Registered)> {
        let mut plugin = self.start(pod_uid)?;
        match self.kubelet.register(pod_uid).await {
            Ok(registered) => Ok((plugin, registered)),
            Err(error) => bail!("{error:#}; the plugin: {:?}", plugin.child.try_wait()?),
        }
    }

    /// Puts an allocated claim with one result into the API, and names it as the kubelet does.
    pub(crate) fn claim(&self, name: &str, gpu: usize, mib: u64, cores: u32) -> dra::Claim {
        self.allocated(name, &[self.result(NAME, gpu, mib, cores)])
    }

    /// One allocation result.
    pub(crate) fn result(&self, node: &str, gpu: usize, mib: u64, cores: u32) -> Value {
        json!({"request": "gpu", "driver": "gpu.vgpu-dra.io", "pool": format!("{node}/gpu"),
            "device": self.uuid(gpu).to_lowercase(), "shareID": share_id(gpu),
            "consumedCapacity": {"memory": format!("{mib}Mi"), "memoryPercent": "0", "cores": cores.to_string(), "shares": "1"}})
    }

    pub(crate) fn allocated(&self, name: &str, results: &[Value]) -> dra::Claim {
        let uid = format!("uid-of-{name}");
        self.api.put(
            CLAIMS,
            json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "ns", "name": name, "uid": uid}, "spec": {},
            "status": {"allocation": {"devices": {"results": results}},
                "reservedFor": [{"resource": "pods", "name": name, "uid": "uid-of-pod"}]}}),
        );
        dra::Claim { namespace: "ns".into(), name: name.into(), uid }
    }

    /// Paths of a share of a claim made by [`Node::claim`].
    pub(crate) fn share(&self, claim: &dra::Claim, gpu: usize) -> SharePaths {
        SharePaths::new(&self.at("shares"), &claim.uid, &share_id(gpu))
    }

    /// Puts a slice of a driver with one device of that UUID into the API.
    pub(crate) fn slice(&self, driver: &str, pool: &str, uuid: &str) {
        self.api.put(SLICES, json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": format!("slice-of-{driver}")},
            "spec": {"driver": driver, "nodeName": NAME, "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "d", "attributes": {"uuid": {"string": uuid}}}]}}));
    }

    /// What the plugin last reported; null before the first time.
    pub(crate) fn status(&self) -> Value {
        self.api.get(GPU_NODES, NAME)["status"].clone()
    }

    /// Waits for a report that holds.
    pub(crate) async fn reported(&self, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let found = until(what, async || Ok(Some(self.status()).filter(&holds))).await;
        found.with_context(|| format!("reported is {}", self.status()))
    }

    /// Mounts below the node's folder.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        places.filter(|place| place.starts_with(self.dir.path())).collect()
    }

    /// Files of claims: share files and specs.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in ["shares", "cdi"] {
            walk(&self.at(folder), &mut found);
        }
        found.retain(|path| !path.ends_with("vgpu-dra.io-gpu.json"));
        found.sort();
        found
    }

    /// For when a test failed.
    pub(crate) fn dump(&self) {
        eprintln!("--- log of the plugins\n{}", fs::read_to_string(self.at("log")).unwrap_or_default());
        eprintln!("--- reported to {}\n{:#}", self.address, self.status());
        eprintln!("--- files\n{:#?}\n--- mounts\n{:#?}", self.files(), self.mounts());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in self.mounts() {
            // What cannot be unmounted ends with this program's mount namespace.
            let _ = unmount(mount, UnmountFlags::DETACH);
        }
    }
}

fn share_id(gpu: usize) -> String {
    format!("7d0c6f0e-3f0b-4a56-9c0d-00000000000{gpu}")
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => walk(&path, into),
            path => into.push(path),
        }
    }
}

/// A running plugin; killed when dropped.
pub(crate) struct Plugin {
    child: Child,
    http: SocketAddr,
}

impl Plugin {
    /// SIGKILL.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; returns how it ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process has a pid")?;
        kill_process(pid, Signal::TERM)?;
        until("the plugin's end", async || Ok(self.child.try_wait()?)).await
    }

    /// Status and body of a GET.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = tokio::net::TcpStream::connect(self.http).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of the headers")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Samples of a metric, with their labels.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<Vec<(String, f64)>> {
        let (status, text) = self.get("/metrics").await?;
        ensure!(status == 200, "/metrics answers {status}: {text}");
        samples(&text).into_iter().filter(|(n, ..)| n == name).map(|(_, l, v)| Ok((l, v))).collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // It may have ended; that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Name, labels and value of every sample in OpenMetrics text.
pub(crate) fn samples(text: &str) -> Vec<(String, String, f64)> {
    let sample = |line: &str| {
        let (left, value) = line.rsplit_once(' ')?;
        let (name, labels) = left.split_once('{').unwrap_or((left, ""));
        Some((name.to_owned(), labels.trim_end_matches('}').to_owned(), value.parse().ok()?))
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect()
}

/// Waits for something; an error says what was waited for.
pub(crate) async fn until<T>(
    what: &str,
    mut found: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "{what}: not after {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
