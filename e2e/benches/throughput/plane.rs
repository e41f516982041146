//! One control plane with the driver's objects on it and, if it is to run, the controller.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vgpu_e2e::cluster::{Cluster, Options};

/// The controller's service account, with its namespace.
const ACCOUNT: (&str, &str) = ("vgpu-dra-system", "vgpu-controller");

/// Of /proc, per second: Linux counts so on every machine (USER_HZ).
const TICKS: f64 = 100.0;

/// Who allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Allocator {
    Controller,
    Scheduler,
}

pub(crate) struct Plane {
    pub(crate) cluster: Cluster,
    pub(crate) allocator: Allocator,
    program: std::path::PathBuf,
}

/// A controller's process; ends with this.
pub(crate) struct Controller {
    process: Child,
    /// When it was.
    pub(crate) started: Instant,
}

impl Plane {
    pub(crate) fn start(
        allocator: Allocator,
        scheduler_qps: Option<u32>,
        program: &Path,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::start(&Options { gpus: Vec::new(), scheduler_qps }, &|_| {})?;
        let chosen = match allocator {
            Allocator::Controller => "allocator=controller",
            Allocator::Scheduler => "allocator=scheduler",
        };
        // Nothing could run pods of the chart.
        cluster.install_driver(&[chosen, "controller.replicas=0", "kubeletPlugin.nodeSelector.nowhere=x"])?;
        Ok(Self { cluster, allocator, program: program.to_owned() })
    }

    /// With the rights of its service account, and with its place in the API server's queues.
    pub(crate) fn controller(&self) -> anyhow::Result<Controller> {
        let layout = self.cluster.layout();
        let admin = std::fs::read(layout.pki().join("admin.kubeconfig"))?;
        let mut config: Value = serde_json::from_slice(&admin).context("the admin's kubeconfig")?;
        // Impersonated by the admin, it would cost the API server an authorization more for each request.
        let (namespace, account) = ACCOUNT;
        let out = self.cluster.kubectl(&["create", "token", account, "--namespace", namespace])?;
        ensure!(out.status.success(), "no token: {}", String::from_utf8_lossy(&out.stderr));
        config["users"][0]["user"] = json!({"token": String::from_utf8(out.stdout)?.trim()});
        let file = layout.pki().join("controller.kubeconfig");
        std::fs::write(&file, config.to_string())?;
        let log = File::create(layout.logs().join("vgpu-controller.log"))?;
        let allocator = match self.allocator {
            Allocator::Controller => "--allocator=controller",
            Allocator::Scheduler => "--allocator=scheduler",
        };
        let mut command = self.cluster.command(&self.program.display().to_string());
        command.args([allocator, "--metrics-address=127.0.0.1:18080", "--identity=bench"]);
        command.env("KUBECONFIG", file).env("RUST_LOG", "info").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let process = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Controller { process, started })
    }

    /// Writes the API server has answered for objects of scheduling, whoever sent them: by what was written, as
    /// `PATCH resourceclaims/status 200`.
    pub(crate) fn writes(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let out = self.cluster.kubectl(&["get", "--raw", "/metrics"])?;
        ensure!(out.status.success(), "no metrics: {}", String::from_utf8_lossy(&out.stderr));
        let mut writes = BTreeMap::new();
        for (what, count) in String::from_utf8_lossy(&out.stdout).lines().filter_map(written) {
            *writes.entry(what).or_default() += count;
        }
        Ok(writes)
    }

    /// Seconds of processor time that the programs of the control plane have had, by name.
    pub(crate) fn processor_seconds(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let ours = self.cluster.layout().pki().display().to_string();
        let mut seconds = BTreeMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let folder = entry?.path();
            // Whatever ends meanwhile is not of the control plane.
            let Ok(line) = std::fs::read(folder.join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).into_owned();
            let program = line.split('\0').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            if !line.contains(&ours) && program != "vgpu-controller" {
                continue;
            }
            let Ok(stat) = std::fs::read_to_string(folder.join("stat")) else { continue };
            let after = stat.rsplit(')').next().unwrap_or_default();
            let ticks: f64 =
                after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
            *seconds.entry(program.to_owned()).or_default() += ticks / TICKS;
        }
        Ok(seconds)
    }

    /// Where they are then.
    pub(crate) fn keep_logs(&self) -> String {
        let kept = self.cluster.keep_logs("bench");
        kept.map_or_else(|e| format!("not to be had: {e}"), |folder| folder.display().to_string())
    }

    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop()
    }
}

/// What a metric's line counts, if that is writes to pods, claims, events or ConfigMaps, and its number.
fn written(line: &str) -> Option<(String, f64)> {
    let (labels, number) = line.strip_prefix("apiserver_request_total{")?.split_once("} ")?;
    let label = |name: &str| {
        let after = labels.split_once(&format!("{name}=\""))?.1;
        after.split_once('"').map(|(value, _)| value)
    };
    let (verb, resource) = (label(",verb")?, label(",resource")?);
    let is_write = ["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb)
        && ["pods", "resourceclaims", "events", "configmaps"].contains(&resource);
    let part = label("subresource").filter(|s| !s.is_empty()).map(|s| format!("/{s}")).unwrap_or_default();
    let what = format!("{verb} {resource}{part} {}", label("code").unwrap_or_default());
    is_write.then(|| Some((what, number.trim().parse().ok()?)))?
}

impl Controller {
    /// Most memory it has had, in MiB.
    pub(crate) fn rss_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// Tells it to end, as a kubelet does, and waits until it has.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It has ended by itself, or ends now; either way nothing is left to do.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}
