//! `vgpu-kubelet-plugin`: flags, and the real parts behind them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use vgpu_kubelet_plugin::gpus::health::{self, HealthBook};
use vgpu_kubelet_plugin::gpus::nvml::{Library, NvmlGpus};
use vgpu_kubelet_plugin::gpus::pci::Sysfs;
use vgpu_kubelet_plugin::host::LinuxHost;
use vgpu_kubelet_plugin::plugin::{self, Config, Parts};
use vgpu_kubelet_plugin::state::Paths;

/// The DRA driver gpu.vgpu-dra.io on one node.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Name of this node
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// UID of this pod; it makes the names of the sockets, so that two instances can run during an upgrade
    #[arg(long, env = "POD_UID")]
    pod_uid: String,
    /// Checkpoint and copies of the limiter; must survive reboots
    #[arg(long, default_value = "/var/lib/vgpu-dra")]
    state_dir: PathBuf,
    /// Files of the shares; best on a tmpfs
    #[arg(long, default_value = "/run/vgpu-dra/shares")]
    share_dir: PathBuf,
    /// CDI specs; a folder the container runtime reads
    #[arg(long, default_value = "/var/run/cdi")]
    cdi_dir: PathBuf,
    /// The kubelet's folder of plugin sockets
    #[arg(long, default_value = "/var/lib/kubelet/plugins")]
    plugins_dir: PathBuf,
    /// The kubelet's folder of registration sockets
    #[arg(long, default_value = "/var/lib/kubelet/plugins_registry")]
    registry_dir: PathBuf,
    /// Root of the driver installation, as mounted here
    #[arg(long, default_value = "/driver-root")]
    driver_root: PathBuf,
    /// The same root on the host
    #[arg(long, default_value = "/")]
    driver_root_host: PathBuf,
    /// CDI spec of the driver as `nvidia-ctk cdi generate` writes it [default: nvidia.yaml or nvidia.json in etc/cdi,
    /// var/run/cdi or run/cdi below the driver root; without one the root is described]
    #[arg(long)]
    driver_cdi_spec: Option<PathBuf>,
    /// NVML [default: libnvidia-ml.so.1 below the driver root]
    #[arg(long)]
    nvml_library: Option<PathBuf>,
    /// Folder with the limiter's libcuda.so.1 and libnvidia-ml.so.1
    #[arg(long, default_value = "/usr/lib/vgpu-dra")]
    limiter_dir: PathBuf,
    /// Where /metrics and /healthz are served
    #[arg(long, default_value = "0.0.0.0:8081")]
    metrics_address: SocketAddr,
    /// Where sysfs is mounted
    #[arg(long, default_value = "/sys")]
    sysfs: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    ensure!(!args.node_name.is_empty(), "--node-name is empty: set NODE_NAME from spec.nodeName");
    ensure!(!args.pod_uid.is_empty(), "--pod-uid is empty: set POD_UID from metadata.uid");

    let client = kube::Client::try_default().await.context("no way to the API server")?;
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
