//! `cargo xtask cluster`: a local cluster for people.

use std::process::ExitCode;

use crate::demo::{build_for_cluster, e2e};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// `up [--nodes N] [--gpus T4x4] [--driver]`, `down`, `status`, `kubectl ARGS...`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.command[0] == "up" {
        build_for_cluster()?;
    }
    let words: Vec<&str> =
        std::iter::once("cluster").chain(args.command.iter().map(String::as_str)).collect();
    e2e(&words)
}
