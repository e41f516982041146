//! `fake-gpu`: installs a driver root of fakes, reads what GPUs truly do, breaks and mends them.
//!
//! Exit status: 0 done, 1 it could not be done (why is on stderr), 2 wrong words.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use fake_gpu::status::GpuStatus;
use fake_gpu::{FakeGpuError, Gpus, install};

#[derive(Parser)]
#[command(about = "GPUs made of one mapped file", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a driver root: libraries, nvidia-smi, the GPU file, device nodes, a CDI spec. Needs root.
    Install {
        /// Where.
        #[arg(long)]
        root: PathBuf,
        /// The same folder as containers' runtimes see it; the root itself if not given.
        #[arg(long)]
        host_root: Option<PathBuf>,
        /// Node name; UUIDs follow from it.
        #[arg(long)]
        node: String,
        /// For example T4x4 or A100-80GBx2,T4, or a YAML file.
        #[arg(long)]
        gpus: String,
        /// Folder with libfake_cuda.so, libfake_nvml.so and nvidia-smi.
        #[arg(long)]
        artifacts: PathBuf,
    },
    /// True busy time of each GPU in nanoseconds: `<uuid> <nanoseconds>` a line.
    Busy(Read),
    /// Memory, utilisation, health and processes of each GPU.
    Status(Read),
    /// Break a GPU with an Xid.
    Unhealthy {
        /// The GPU file.
        #[arg(long)]
        gpus_file: PathBuf,
        /// UUID.
        uuid: String,
        /// 79: the GPU has fallen off the bus, and takes no more work. Others are only reported.
        #[arg(long, default_value_t = fake_gpu::OFF_THE_BUS, value_parser = clap::value_parser!(u32).range(1..))]
        xid: u32,
    },
    /// Mend a GPU.
    Healthy {
        /// The GPU file.
        #[arg(long)]
        gpus_file: PathBuf,
        /// UUID.
        uuid: String,
    },
}

#[derive(Args)]
struct Read {
    /// The GPU file.
    #[arg(long)]
    gpus_file: PathBuf,
    /// JSON, processes included.
    #[arg(long)]
    json: bool,
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse().command) {
        Ok(text) => {
            print!("{text}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
            eprintln!("fake-gpu: {error}{cause}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<String, FakeGpuError> {
    match command {
        Command::Install { root, host_root, node, gpus, artifacts } => {
            let host_root = host_root.as_deref().unwrap_or(&root);
            install::install(&root, host_root, &node, &gpus, &artifacts)?;
            Ok(String::new())
        }
        Command::Busy(read) => read.print(|gpu| format!("{} {}\n", gpu.uuid, gpu.busy_nanos)),
        Command::Status(read) => read.print(line),
        Command::Unhealthy { gpus_file, uuid, xid } => set_xid(&gpus_file, &uuid, xid),
        Command::Healthy { gpus_file, uuid } => set_xid(&gpus_file, &uuid, 0),
    }
}

fn set_xid(file: &Path, uuid: &str, xid: u32) -> Result<String, FakeGpuError> {
    Gpus::open(file)?.set_xid(uuid, xid)?;
    Ok(String::new())
}

impl Read {
    fn print(&self, line: impl Fn(&GpuStatus) -> String) -> Result<String, FakeGpuError> {
        let status = Gpus::open(&self.gpus_file)?.status();
        if self.json {
            return Ok(serde_json::json!({"gpus": status}).to_string() + "\n");
        }
        Ok(status.iter().map(line).collect())
    }
}

fn line(gpu: &GpuStatus) -> String {
    let health = if gpu.xid == 0 { "healthy".to_owned() } else { format!("Xid {}", gpu.xid) };
    let mut text = format!(
        "{} {}: {} of {} MiB used, {} MiB reserved, {} % busy, {health}\n",
        gpu.uuid,
        gpu.product,
        gpu.used >> 20,
        gpu.total >> 20,
        gpu.reserved >> 20,
        gpu.utilization
    );
    for process in &gpu.processes {
        let (pid, memory) = (process.pid, process.memory >> 20);
        text += &format!("  pid {pid}: {memory} MiB, {} % busy\n", process.utilization);
    }
    text
}
