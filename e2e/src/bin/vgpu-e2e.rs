//! The local cluster's program: its supervisors (PID 1 of cluster and nodes), the demo, and commands for people.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use vgpu_e2e::cluster::{Cluster, Options};
use vgpu_e2e::{command, demo, guard, supervisor};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a cluster's namespaces, ends them with its starter and cleans up.
    #[command(hide = true)]
    Guard {
        /// State folder.
        state: PathBuf,
    },
    /// PID 1 of a cluster's namespaces.
    #[command(hide = true)]
    SuperviseCluster {
        /// State folder.
        state: PathBuf,
    },
    /// PID 1 of a node's namespaces.
    #[command(hide = true)]
    SuperviseNode {
        /// State folder.
        state: PathBuf,
        /// Node name.
        node: String,
    },
    /// A cluster for people.
    Cluster {
        #[command(subcommand)]
        command: command::ClusterCommand,
    },
    /// Show what the driver does.
    Demo {
        /// Leave the cluster up.
        #[arg(long)]
        keep: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Guard { state } => guard::run(&state),
        Command::SuperviseCluster { state } => Ok(supervisor::plane::run(&state)?),
        Command::SuperviseNode { state, node } => Ok(supervisor::node::run(&state, &node)?),
        Command::Cluster { command } => command::run(&command),
        Command::Demo { keep } => show(keep),
    }
}

fn show(keep: bool) -> anyhow::Result<()> {
    if keep {
        command::none_kept()?;
    }
    let cluster = Cluster::start(&Options::default(), &|line| eprintln!("{line}"))?;
    eprintln!("installing the driver");
    let shown = cluster.install_driver(&[]).and_then(|()| demo::run(&cluster));
    if shown.is_err() {
        cluster.dump("default");
    }
    if keep {
        cluster.keep()?;
        eprintln!("the cluster is up: cargo xtask cluster kubectl get pods -A");
        eprintln!("take it down with: cargo xtask cluster down");
        return shown;
    }
    let stopped = cluster.stop();
    shown?;
    stopped?;
    eprintln!("cleaned up: no process, mount, namespace or cgroup is left");
    Ok(())
}
