//! What runs in test pods: programs that allocate and launch through the CUDA driver API, and one that only waits.
//!
//! They load `libcuda.so.1` at run time, as frameworks do, and would run on a real GPU as they are. Each prints one JSON
//! line when it knows its result. Exit status: 0 as asked, 1 something else went wrong (named on stderr).

mod allocate;
mod cuda;
mod info;
mod spin;
mod wait;

use clap::{Parser, Subcommand};

#[derive(Parser)]
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
    /// Allocate device memory.
    Allocate(allocate::Args),
    /// Launch kernels of a given length.
    Spin(spin::Args),
}

fn main() -> std::process::ExitCode {
    wait::end_on_sigterm();
    let done = match Cli::parse().command {
        Command::Sleep => wait::forever(),
        Command::Info => info::run(),
        Command::Allocate(args) => allocate::run(&args),
        Command::Spin(args) => spin::run(&args),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgpu-workload: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
