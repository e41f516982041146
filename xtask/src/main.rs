//! `cargo xtask`: the commands a contributor needs.
//!
//! This crate stays light on purpose: it compiles in seconds, so that the Go programs of the local cluster build beside
//! everything else from the first moment. What needs Kubernetes or a cluster is in `e2e`, which it builds and calls.

mod bench;
mod cargo;
mod cluster;
mod demo;
mod limiter;
mod programs;
mod report;
mod suite;
mod test;
mod zig;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Commands for working on vgpu-dra")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the product on a real local cluster with fake GPUs: placement, limits, events. Cleans up after itself.
    Demo(demo::Args),
    /// Run all tests, or the suites whose name contains one of the given words.
    Test(test::Args),
    /// Measure speed and memory as ratios to a baseline in the same run.
    Bench(bench::Args),
    /// Build the limiter's files as they are shipped: for every glibc since 2.17, for x86-64 and aarch64.
    Limiter(limiter::Args),
    /// A local cluster to play with.
    Cluster(cluster::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Limiter(args) => limiter::run(&args),
        Command::Cluster(args) => cluster::run(&args),
    }
}
