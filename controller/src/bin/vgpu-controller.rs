//! The controller's program.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use vgpu_controller::args::Args;
use vgpu_controller::{controller, metrics};

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // CEL is evaluated by recursion; a worker's default stack is too small for the deepest expression allowed.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(8 << 20).build();
    runtime.context("cannot start the runtime")?.block_on(run(Args::parse()))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let metrics = Arc::new(metrics::Metrics::default());
    metrics::serve(args.metrics_address, metrics.clone()).await?;
    let client = kube::Client::try_default().await.context("no Kubernetes API server to talk to")?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    Ok(controller::run(client, &args, metrics, stop).await?)
}
