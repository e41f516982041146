//! What runs in test pods: programs that allocate and launch through the CUDA driver API, and one that only waits.
//!
//! They load `libcuda.so.1` at run time, as frameworks do, and would run on a real GPU as they are. Each prints one line
//! of JSON when it knows its result (`info`: one per device), and ends at once on SIGTERM, as PID 1 too.
//!
//! | exit status | |
//! |---|---|
//! | 0 | as asked; or SIGTERM came |
//! | 1 | something went wrong, named on stderr: a CUDA call with its error, or a library that cannot be loaded |
//! | 2 | wrong words on the command line |
//! | 3 | CUDA said out of memory to an allocation of a fixed size |

mod allocate;
mod cuda;
mod info;
mod size;
mod spin;
mod stop;

use clap::{Parser, Subcommand};

use cuda::CudaError;
use stop::Stop;

#[derive(Parser)]
#[command(about = "Programs for test pods", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Wait for SIGTERM.
    Sleep,
    /// Say what CUDA reports of every device.
    Info,
    /// Allocate device memory: a fixed amount, or all there is.
    Allocate(allocate::Args),
    /// Launch kernels of a given length.
    Spin(spin::Args),
}

/// When to begin; for programs in several pods that are to act at the same moment.
#[derive(clap::Args)]
struct Start {
    /// Begin at this moment, in seconds since 1970.
    #[arg(long, value_name = "SECONDS")]
    start_at: Option<f64>,
    /// Begin once this file is there.
    #[arg(long, value_name = "FILE")]
    start_after: Option<std::path::PathBuf>,
}

fn main() -> std::process::ExitCode {
    let stop = Stop::on_signals();
    let done = match Cli::parse().command {
        Command::Sleep => {
            stop.wait();
            Ok(())
        }
        Command::Info => info::run(),
        Command::Allocate(args) => allocate::run(&args, stop),
        Command::Spin(args) => spin::run(&args, stop),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgpu-workload: {error}");
            std::process::ExitCode::from(if error.is_out_of_memory() { 3 } else { 1 })
        }
    }
}

/// Prints a result as soon as it is known: what reads it may wait for it while this program goes on.
fn say(line: &serde_json::Value) -> Result<(), CudaError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CudaError::Output)
}
