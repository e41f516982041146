//! `allocate`: a fixed amount, or all that CUDA gives.

use serde_json::json;

use crate::cuda::{Cuda, CudaError, OUT_OF_MEMORY};
use crate::wait;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device ordinal.
    #[arg(long, default_value_t = 0)]
    device: i32,
    /// So many MiB in one piece; without it, until CUDA says out of memory.
    #[arg(long)]
    mib: Option<usize>,
    /// Begin at this moment (seconds since 1970).
    #[arg(long)]
    start_at: Option<u64>,
    /// Keep it until SIGTERM.
    #[arg(long)]
    hold: bool,
}

/// Pieces tried when taking all: each size until it is refused, then the next.
const PIECES: [usize; 5] = [64 << 20, 8 << 20, 1 << 20, 64 << 10, 512];

pub(crate) fn run(args: &Args) -> Result<(), CudaError> {
    args.start_at.into_iter().for_each(wait::until);
    let cuda = Cuda::load()?;
    cuda.use_device(args.device)?;
    let (bytes, error) = match args.mib {
        Some(mib) => {
            cuda.alloc(mib << 20)?;
            (mib << 20, None)
        }
        None => take_all(&cuda)?,
    };
    let (free, total) = cuda.memory()?;
    println!("{}", json!({"bytes": bytes, "error": error, "free": free, "total": total}));
    if args.hold { wait::forever() } else { Ok(()) }
}

/// Bytes got, and the name of the error that ended it.
fn take_all(cuda: &Cuda) -> Result<(usize, Option<String>), CudaError> {
    let (mut sum, mut last) = (0, None);
    for piece in PIECES {
        loop {
            match cuda.alloc(piece) {
                Ok(_) => sum += piece,
                Err(CudaError::Call { code: OUT_OF_MEMORY, name, .. }) => {
                    last = Some(name);
                    break;
                }
                Err(other) => return Err(other),
            }
        }
    }
    Ok((sum, last))
}
