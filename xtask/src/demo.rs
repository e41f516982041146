//! `cargo xtask demo`: builds what is missing and runs the demo of `e2e`.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::Context;

use crate::cargo;
use crate::programs::{self, GoBuild};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the cluster up and print how to reach it.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    build_for_cluster()?;
    e2e(if args.keep { &["demo", "--keep"] } else { &["demo"] })
}

/// Builds the Go programs and our own that run in or beside the cluster, if a cluster can run here at all.
pub(crate) fn build_for_cluster() -> anyhow::Result<()> {
    programs::can_run_cluster()?;
    let go = GoBuild::start();
    cargo::run(&["build", "--workspace", "--exclude", "xtask"])?;
    Ok(go.finish()?)
}

/// Becomes the cluster's program, so that what ends this process ends that.
pub(crate) fn e2e(args: &[&str]) -> anyhow::Result<ExitCode> {
    let program = cargo::artifacts()?.join("vgpu-e2e");
    let error = std::process::Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
