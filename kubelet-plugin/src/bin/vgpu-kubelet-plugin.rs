//! The plugin's program: flags, and the real parts behind them.

use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use vgpu_kubelet_plugin::args::Args;
use vgpu_kubelet_plugin::gpus::health::{self, HealthBook};
use vgpu_kubelet_plugin::gpus::nvml::{Library, NvmlGpus};
use vgpu_kubelet_plugin::gpus::pci::Sysfs;
use vgpu_kubelet_plugin::host::LinuxHost;
use vgpu_kubelet_plugin::plugin::{self, Config, Parts};
use vgpu_kubelet_plugin::state::Paths;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    ensure!(!args.node_name.is_empty(), "--node-name is empty: set NODE_NAME from spec.nodeName");
    ensure!(!args.pod_uid.is_empty(), "--pod-uid is empty: set POD_UID from metadata.uid");

    let client = kube::Client::try_default().await.context("no Kubernetes API server to talk to")?;
    let library = match args.nvml_library {
        Some(path) => Library::Path(path),
        None => Library::Below(args.driver_root.clone()),
    };
    let health = Arc::new(HealthBook::default());
    health::watch(library.clone(), health.clone())
        .context("cannot start the thread for the driver's events")?;
    let parts = Parts {
        client,
        gpus: Arc::new(NvmlGpus::new(library, Sysfs::new(args.sysfs))),
        health,
        host: Arc::new(LinuxHost),
    };
    let config = Config {
        node: args.node_name,
        pod_uid: args.pod_uid,
        paths: Paths { state_dir: args.state_dir, share_dir: args.share_dir, cdi_dir: args.cdi_dir },
        plugins_dir: args.plugins_dir,
        registry_dir: args.registry_dir,
        driver_root: args.driver_root,
        driver_root_host: args.driver_root_host,
        driver_cdi_spec: args.driver_cdi_spec,
        limiter_dir: args.limiter_dir,
        limiter_form: args.limiter_form,
        metrics_address: args.metrics_address,
    };
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    plugin::run(config, parts, stop).await?;
    // The events thread waits inside NVML; nothing is left to do for it.
    std::process::exit(0);
}
