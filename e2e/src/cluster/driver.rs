//! The driver on a cluster: installed by the real chart, with real helm.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Cluster;
use crate::layout::DRIVER_ROOT;

/// Namespace the chart is installed into.
pub(super) const DRIVER_NAMESPACE: &str = "vgpu-dra-system";

impl Cluster {
    /// Installs the chart and waits until every node with GPUs has its slice. `values` are further `--set` values.
    ///
    /// # Errors
    /// What helm said, or what did not become ready.
    pub fn install_driver(&self, values: &[&str]) -> anyhow::Result<()> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart");
        let chart = chart.display().to_string();
        let root = format!("kubeletPlugin.driverRoot={DRIVER_ROOT}");
        let spec = format!("kubeletPlugin.driverCdiSpec={DRIVER_ROOT}/cdi.json");
        let mut args = vec!["upgrade", "--install", "vgpu-dra", &chart, "--namespace", DRIVER_NAMESPACE];
        args.extend(["--create-namespace", "--set", &root, "--set", &spec]);
        // Where fake-gpu shows its GPUs as PCI devices; the plugin has the driver root there.
        args.extend(["--set", "kubeletPlugin.extraArgs[0]=--sysfs=/driver-root/sys"]);
        values.iter().for_each(|v| args.extend(["--set", v]));
        let out = self.helm(&args).context("cannot start helm")?;
        ensure!(
            out.status.success(),
            "helm {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        self.wait_driver()
    }

    /// Waits until every node with GPUs has its slice with devices in it.
    ///
    /// # Errors
    /// The slices after a minute and a half.
    pub fn wait_driver(&self) -> anyhow::Result<()> {
        let want = self.layout.nodes.iter().filter(|n| !n.gpus.is_empty()).count();
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            let out = self.kubectl(&["get", "resourceslices", "-o", "json"])?;
            let list: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            let slices = list["items"].as_array().cloned().unwrap_or_default();
            let full = |s: &&Value| s["spec"]["devices"].as_array().is_some_and(|d| !d.is_empty());
            if slices.iter().filter(full).count() >= want {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{} of {want} nodes have their slice after 90 s", slices.len());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
