//! `kubectl vgpu`: read-only answers about placement, by the controller's own code.

mod manifest;
mod table;
mod trace;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use kube::{Client, ResourceExt};
use vgpu_controller::explanation::Explanation;
use vgpu_controller::planner::Planner;
use vgpu_controller::snapshot::Snapshot;

#[derive(Parser)]
#[command(name = "kubectl-vgpu", bin_name = "kubectl vgpu", version)]
#[command(about = "Why a pod with GPU shares is where it is, and where it would go. It changes nothing")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Common {
    /// Namespace of the pods; the kubeconfig's without it.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Look at this snapshot instead of the cluster.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Namespace of the controller, whose flags tell the default policies.
    #[arg(long, default_value = "vgpu-dra-system")]
    controller_namespace: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// What every node says to a pod of the cluster.
    Explain {
        /// `NAME` or `pod/NAME`.
        pod: String,
        #[command(flatten)]
        common: Common,
    },
    /// Where the pods of a manifest would go, one after another, after those that wait already; or how many of a trace's pods
    /// fit its nodes, under each policy.
    Simulate {
        /// YAML with Pods and the ResourceClaimTemplates and ResourceClaims they name, as far as the cluster has not got them.
        #[arg(long, short, value_name = "FILE", required_unless_present = "trace", conflicts_with = "trace")]
        filename: Option<PathBuf>,
        /// Pods as comma-separated values, `cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec`, in the order they come; may be
        /// compressed (.gz). No cluster is asked.
        #[arg(long, value_name = "FILE", requires = "nodes", conflicts_with_all = ["snapshot", "namespace"])]
        trace: Option<PathBuf>,
        /// The trace's nodes, `cpu_milli,memory_mib,gpu,model`.
        #[arg(long, value_name = "FILE", requires = "trace")]
        nodes: Option<PathBuf>,
        /// The policy of nodes and GPUs the trace is placed by; each of them without it.
        #[arg(long, requires = "trace")]
        policy: Option<vgpu_api::Policy>,
        #[command(flatten)]
        common: Common,
    },
    /// Saves what the other commands look at, to be asked later or elsewhere.
    Snapshot {
        /// Where to; it holds the specs of all pods.
        file: PathBuf,
        /// Namespace of the controller, whose flags tell the default policies.
        #[arg(long, default_value = "vgpu-dra-system")]
        controller_namespace: String,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    // CEL is evaluated by recursion; a worker's default stack is too small for the deepest expression allowed.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(8 << 20).build();
    let runtime = runtime.context("cannot start the runtime")?;
    // On a worker, for its stack.
    runtime.block_on(async { tokio::spawn(run(cli.command)).await? })
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Explain { pod, common } => {
            let name = pod.strip_prefix("pod/").or(pod.strip_prefix("pods/")).unwrap_or(&pod);
            ensure!(!name.contains('/'), "{pod:?} is no pod: write NAME or pod/NAME");
            let (snapshot, namespace, client) = look(&common).await?;
            let is_there = |p: &vgpu_controller::pod::Pod| {
                p.name_any() == name && p.namespace().as_deref() == Some(&namespace)
            };
            ensure!(snapshot.pods.iter().any(is_there), "there is no pod {name} in namespace {namespace}");
            let explained = Planner::over(snapshot, client).explain(&is_there);
            ensure!(
                !explained.is_empty(),
                "pod {name} in namespace {namespace} has ended or is being deleted"
            );
            print(&explained, common.output)
        }
        Command::Simulate { trace: Some(trace), nodes: Some(nodes), policy, common, .. } => {
            let wanted =
                |known: &&(&str, vgpu_allocator::Policy)| policy.is_some_and(|p| p.name() == known.0);
            let policy = vgpu_allocator::POLICIES.iter().find(wanted).map(|known| known.1);
            let outcomes = trace::simulate(&nodes, &trace, policy)?;
            match common.output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&outcomes)?),
                Output::Table => print!("{}", trace::table(&outcomes)),
            }
            Ok(())
        }
        Command::Simulate { filename, common, .. } => {
            let filename = filename.context("--filename or --trace is needed")?;
            let text = read(&filename)?;
            let (mut snapshot, namespace, client) = look(&common).await?;
            let added = manifest::add(&mut snapshot, &text, &namespace)
                .with_context(|| filename.display().to_string())?;
            let explained =
                Planner::over(snapshot, client).explain(&|p| p.uid().is_some_and(|uid| added.contains(&uid)));
            print(&explained, common.output)
        }
        Command::Snapshot { file, controller_namespace } => {
            let client = Client::try_default().await.context("no Kubernetes API server to talk to")?;
            let snapshot = Snapshot::take(&client, &controller_namespace).await?;
            let text = serde_json::to_vec(&snapshot)?;
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What there is, the namespace that is meant, and a client that is not used any more.
async fn look(common: &Common) -> anyhow::Result<(Snapshot, String, Client)> {
    if let Some(file) = &common.snapshot {
        let snapshot = serde_json::from_str(&read(file)?);
        let snapshot = snapshot.with_context(|| {
            format!("{} is no snapshot: make one with `kubectl vgpu snapshot FILE`", file.display())
        })?;
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse()?);
        let namespace = common.namespace.clone().unwrap_or_else(|| "default".to_owned());
        return Ok((snapshot, namespace, Client::try_from(nowhere)?));
    }
    let client = Client::try_default().await.context("no Kubernetes API server to talk to")?;
    let namespace = common.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let snapshot = Snapshot::take(&client, &common.controller_namespace).await?;
    Ok((snapshot, namespace, client))
}

fn print(explained: &[Explanation], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(explained)?),
        Output::Table if explained.is_empty() => bail!("there is no pod to speak of"),
        Output::Table => explained.iter().for_each(|e| print!("{}", table::of(e))),
    }
    Ok(())
}
