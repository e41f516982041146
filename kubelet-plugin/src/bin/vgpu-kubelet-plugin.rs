//! The plugin's program.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use vgpu_api::Limiter;
use vgpu_kubelet_plugin::args::Args;
use vgpu_kubelet_plugin::cdi::{LimiterFiles, Specs};
use vgpu_kubelet_plugin::checkpoint::Checkpoint;
use vgpu_kubelet_plugin::gpu_node::{DriverPaths, Reporter, Source};
use vgpu_kubelet_plugin::gpus::nvml::NvmlGpus;
use vgpu_kubelet_plugin::kubelet::{self, Sockets};
use vgpu_kubelet_plugin::limiter;
use vgpu_kubelet_plugin::metrics::{self, Metrics};
use vgpu_kubelet_plugin::prepare::{Node, make_state};
use vgpu_kubelet_plugin::share::{KernelMounts, Shares};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let args = Args::parse();
    make_state(&args.state_dir)?;
    // A node whose limiter cannot be installed still says so; it publishes nothing.
    let (files, installed) = match limiter::install(&args.limiter_dir, &args.state_dir) {
        Ok((files, version)) => (files, Limiter { ready: true, version, message: String::new() }),
        Err(error) => {
            tracing::error!(%error, "the limiter is not installed");
            let none = LimiterFiles { cuda: "/nonexistent".into(), nvml: "/nonexistent".into() };
            (none, Limiter { ready: false, version: String::new(), message: error.to_string() })
        }
    };
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let node = Node::new(
        &args.node_name,
        Specs::new(&args.cdi_dir),
        Shares::new(&args.share_dir, Box::new(KernelMounts)),
        files,
        Checkpoint::new(&args.state_dir, boot.trim()),
        &args.state_dir,
    );
    let findings = node.recover().context("cannot take over what was prepared before")?;
    if let Some(damaged) = &findings.damaged {
        tracing::error!(damaged, "what is prepared was found in the CDI specs");
    }
    if !findings.removed.is_empty() {
        tracing::info!(claims = ?findings.removed, "leftovers were removed");
    }
    let node = Arc::new(node);
    let metrics = Arc::new(Metrics::default());
    metrics::serve(args.metrics_address, metrics.clone(), node.clone()).await?;
    let client = kube::Client::try_default().await.context("no Kubernetes API server to talk to")?;
    let sockets = Sockets::new(&args.plugins_dir, &args.registry_dir, &args.pod_uid)?;
    let registered =
        kubelet::serve(&sockets, client.clone(), &args.node_name, node.clone(), metrics.clone())?;
    let gpus = NvmlGpus::new(args.nvml_library.clone(), &args.driver_root, Path::new("/sys"));
    let paths = DriverPaths {
        spec: args.driver_cdi_spec.clone(),
        root: args.driver_root.clone(),
        root_on_host: args.driver_root_host.clone(),
    };
    let source = Source { gpus: Arc::new(gpus), paths, limiter: installed };
    let reporter = Reporter::new(client, &args.node_name, source, node, metrics, registered);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = reporter.run() => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    sockets.remove();
    Ok(())
}
