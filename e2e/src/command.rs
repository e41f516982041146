//! `cargo xtask cluster`: a cluster for people, kept until it is taken down.

use std::os::unix::process::CommandExt;

use anyhow::{Context, bail};

use crate::cluster::{Cluster, Options, remove_dead};

/// What to do with the kept cluster.
#[derive(clap::Subcommand)]
pub enum ClusterCommand {
    /// Start one and leave it up.
    Up {
        /// Number of nodes.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
        nodes: u8,
        /// GPUs of each node, for example T4x4 or A100-80GBx2,T4x1.
        #[arg(long, default_value = "T4x4")]
        gpus: String,
        /// Install the driver too.
        #[arg(long)]
        driver: bool,
    },
    /// End every kept cluster and remove what it left.
    Down,
    /// Which clusters run, and their programs.
    Status,
    /// Run kubectl on the running cluster.
    Kubectl {
        /// Arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Does it.
///
/// # Errors
/// No cluster can run here, none runs, or it did not do as told.
pub fn run(command: &ClusterCommand) -> anyhow::Result<()> {
    match command {
        ClusterCommand::Up { nodes, gpus, driver } => up(*nodes, gpus, *driver),
        ClusterCommand::Down => down(),
        ClusterCommand::Status => status(),
        ClusterCommand::Kubectl { args } => {
            let cluster = running()?;
            let kubectl = cluster.layout().programs.join("kubectl").display().to_string();
            Err(cluster.command(&kubectl).args(args).exec()).context("cannot start kubectl")
        }
    }
}

fn up(nodes: u8, gpus: &str, driver: bool) -> anyhow::Result<()> {
    let options = Options { gpus: vec![gpus.to_owned(); nodes.into()], keep: true };
    let cluster = Cluster::start(&options, &|line| eprintln!("{line}"))?;
    if driver {
        cluster.install_driver(&[])?;
    }
    println!("up: cargo xtask cluster kubectl get nodes");
    Ok(())
}

fn down() -> anyhow::Result<()> {
    for state in Cluster::all() {
        match Cluster::attach(&state) {
            Ok(cluster) => cluster.stop()?,
            Err(_) => remove_dead(&state)?,
        }
        println!("removed {}", state.display());
    }
    Ok(())
}

fn status() -> anyhow::Result<()> {
    for state in Cluster::all() {
        let Ok(cluster) = Cluster::attach(&state) else {
            println!("{}: ended; `cargo xtask cluster down` removes its files", state.display());
            continue;
        };
        println!("{}:", state.display());
        let nodes = cluster.layout().nodes.iter().map(|n| Some(n.name.as_str()));
        for node in std::iter::once(None).chain(nodes) {
            let request = crate::control::Request::Status;
            match crate::control::ask(&cluster.layout().socket(node), &request) {
                Ok(crate::control::Reply::Status { programs }) => {
                    for (name, status) in programs {
                        let name = node.map_or_else(|| name.clone(), |n| format!("{n}/{name}"));
                        let state = status.pid.map_or_else(|| "down".into(), |_| "running".to_owned());
                        println!("  {name:<28} {state:<8} {} restarts", status.restarts);
                    }
                }
                Ok(other) => println!("  {}: {other:?}", node.unwrap_or("cluster")),
                Err(error) => println!("  {}: {error}", node.unwrap_or("cluster")),
            }
        }
    }
    Ok(())
}

/// The newest cluster that runs.
fn running() -> anyhow::Result<Cluster> {
    match Cluster::all().iter().rev().find_map(|state| Cluster::attach(state).ok()) {
        Some(cluster) => Ok(cluster),
        None => bail!("no cluster runs; `cargo xtask cluster up` starts one"),
    }
}
