//! `cargo xtask demo`: builds what is missing and runs the demo of `e2e`.

use std::process::ExitCode;

use anyhow::Context;

use crate::cargo;
use crate::programs::GoBuild;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the cluster up and print how to reach it.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let programs = GoBuild::start();
    build_cluster_programs()?;
    programs.finish()?;
    e2e(if args.keep { &["demo", "--keep"] } else { &["demo"] })
}

/// Builds our own programs that run in or beside the cluster.
pub(crate) fn build_cluster_programs() -> anyhow::Result<()> {
    cargo::run(&["build", "--workspace", "--exclude", "xtask"])
}

/// Runs the cluster's program and passes its exit status on.
pub(crate) fn e2e(args: &[&str]) -> anyhow::Result<ExitCode> {
    let program = cargo::artifacts()?.join("vgpu-e2e");
    let status = std::process::Command::new(&program)
        .args(args)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}
