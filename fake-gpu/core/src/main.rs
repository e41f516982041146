//! `fake-gpu`: installs a driver root of fakes, reads true busy time, breaks and mends GPUs.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fake_gpu::{FakeGpuError, Gpus, install};

#[derive(Parser)]
#[command(about = "GPUs made of one mapped file")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a driver root: libraries, nvidia-smi, the GPU file, device nodes, a CDI spec.
    Install {
        /// Where.
        #[arg(long)]
        root: PathBuf,
        /// The same folder as containers' runtimes see it.
        #[arg(long)]
        host_root: PathBuf,
        /// Node name; UUIDs follow from it.
        #[arg(long)]
        node: String,
        /// For example T4x4 or A100-80GBx2,T4x1.
        #[arg(long)]
        gpus: String,
        /// Folder with libfake_cuda.so, libfake_nvml.so and nvidia-smi.
        #[arg(long)]
        artifacts: PathBuf,
    },
    /// True busy time of each GPU in nanoseconds: `<uuid> <nanoseconds>` a line.
    Busy {
        /// The GPU file.
        #[arg(long)]
        gpus_file: PathBuf,
    },
    /// Break a GPU with an Xid.
    Unhealthy {
        /// The GPU file.
        #[arg(long)]
        gpus_file: PathBuf,
        /// UUID.
        uuid: String,
        /// 79: the GPU has fallen off the bus.
        #[arg(long, default_value_t = 79)]
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

fn main() -> std::process::ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
            eprintln!("fake-gpu: {error}{cause}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), FakeGpuError> {
    match command {
        Command::Install { root, host_root, node, gpus, artifacts } => {
            install::install(&root, &host_root, &node, &gpus, &artifacts)
        }
        Command::Busy { gpus_file } => {
            let gpus = Gpus::open(&gpus_file)?;
            for uuid in (0..gpus.count()).map(|i| gpus.uuid(i)) {
                println!("{uuid} {}", gpus.busy_nanos(&uuid)?);
            }
            Ok(())
        }
        Command::Unhealthy { gpus_file, uuid, xid } => Gpus::open(&gpus_file)?.set_xid(&uuid, xid),
        Command::Healthy { gpus_file, uuid } => Gpus::open(&gpus_file)?.set_xid(&uuid, 0),
    }
}
