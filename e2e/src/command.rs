//! `cargo xtask cluster`: a cluster for people, kept until it is taken down.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::cluster::{Cluster, Options, remove_dead};
use crate::layout::Layout;

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
    /// End every kept cluster and remove what dead ones left.
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
            let cluster = kept().context("no cluster is up; `cargo xtask cluster up` starts one")?;
            let kubectl = cluster.layout().programs.join("kubectl").display().to_string();
            Err(cluster.command(&kubectl).args(args).exec()).context("cannot start kubectl")
        }
    }
}

fn up(nodes: u8, gpus: &str, driver: bool) -> anyhow::Result<()> {
    if !gpus.is_empty() {
        fake_gpu::profile::parse(gpus, "node-a").context("--gpus")?;
    }
    none_kept()?;
    let options = Options { gpus: vec![gpus.to_owned(); nodes.into()], ..Options::default() };
    let cluster = Cluster::start(&options, &|line| eprintln!("{line}"))?;
    if driver {
        eprintln!("installing the driver");
        cluster.install_driver(&[])?;
    }
    let state = cluster.layout().state.clone();
    cluster.keep()?;
    println!("up: cargo xtask cluster kubectl get nodes");
    println!("state and logs: {}", state.display());
    Ok(())
}

fn down() -> anyhow::Result<()> {
    let mut removed = 0;
    for state in readable() {
        match Cluster::attach(&state) {
            // It belongs to a test or demo that runs, and ends with it.
            Ok(cluster) if !cluster.layout().kept() => continue,
            Ok(cluster) => cluster.stop()?,
            Err(_) => remove_dead(&state)?,
        }
        println!("removed {}", state.display());
        removed += 1;
    }
    if removed == 0 {
        println!("no cluster is up");
    }
    Ok(())
}

fn status() -> anyhow::Result<()> {
    let states = readable();
    if states.is_empty() {
        println!("no cluster is up; `cargo xtask cluster up` starts one");
    }
    for state in states {
        let Ok(cluster) = Cluster::attach(&state) else {
            println!("{}: ended; `cargo xtask cluster down` removes its files", state.display());
            continue;
        };
        let owner = if cluster.layout().kept() { "kept" } else { "ends with the program that started it" };
        println!("{}: {owner}", state.display());
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

/// State folders this program understands. Another version's cluster may be running: it is named and left alone.
fn readable() -> Vec<PathBuf> {
    let (readable, other): (Vec<_>, Vec<_>) =
        Cluster::all().into_iter().partition(|state| Layout::read(state).is_ok());
    for state in other {
        eprintln!("{}: left alone, another version of this program started it", state.display());
    }
    readable
}

/// The kept cluster that runs.
fn kept() -> Option<Cluster> {
    let attach = |state: &PathBuf| Cluster::attach(state).ok().filter(|c| c.layout().kept());
    Cluster::all().iter().find_map(attach)
}

/// Refuses to keep a second cluster: nobody could say which of them is meant.
///
/// # Errors
/// One is kept already.
pub fn none_kept() -> anyhow::Result<()> {
    match kept() {
        Some(cluster) => bail!(
            "a cluster is up already (in {}); `cargo xtask cluster down` ends it",
            cluster.layout().state.display()
        ),
        None => Ok(()),
    }
}
