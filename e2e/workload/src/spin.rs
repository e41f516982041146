//! `spin`: kernels of a given length for a given time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cuda::{Cuda, CudaError};
use crate::wait;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device ordinal.
    #[arg(long, default_value_t = 0)]
    device: i32,
    /// Length of a kernel.
    #[arg(long, default_value_t = 5000)]
    kernel_micros: u64,
    /// How long to go on; without it until SIGTERM.
    #[arg(long)]
    seconds: Option<f64>,
    /// Wait for each kernel before the next.
    #[arg(long)]
    sync: bool,
    /// Begin at this moment (seconds since 1970).
    #[arg(long)]
    start_at: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<(), CudaError> {
    args.start_at.into_iter().for_each(wait::until);
    let cuda = Cuda::load()?;
    cuda.use_device(args.device)?;
    let function = cuda.spin_function()?;
    let start = Instant::now();
    let length = args.seconds.map(Duration::from_secs_f64);
    let mut kernels = 0u64;
    while length.is_none_or(|length| start.elapsed() < length) {
        cuda.spin(function, args.kernel_micros * 1000)?;
        kernels += 1;
        if args.sync {
            cuda.synchronize()?;
        }
    }
    cuda.synchronize()?;
    println!("{}", json!({"kernels": kernels, "seconds": start.elapsed().as_secs_f64()}));
    Ok(())
}
