//! `allocate`: a fixed amount, or all that CUDA gives.
//!
//! Prints `{"bytes", "error", "free", "total"}`: what it got; the name of the error that ended it, null for a fixed
//! amount; and what cuMemGetInfo says then.

use std::time::Duration;

use serde_json::json;

use crate::cuda::{Cuda, CudaError};
use crate::stop::Stop;
use crate::{Start, say, size};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device ordinal.
    #[arg(long, default_value_t = 0)]
    device: i32,
    /// So many bytes in one piece, for example 2000Mi.
    #[arg(long, value_parser = size::parse, conflicts_with_all = ["mib", "until_oom"])]
    bytes: Option<usize>,
    /// So many MiB in one piece.
    #[arg(long, conflicts_with = "until_oom")]
    mib: Option<usize>,
    /// Until CUDA says out of memory, in pieces that get smaller down to 512 bytes. So it is without an amount.
    #[arg(long)]
    until_oom: bool,
    /// First size of the pieces.
    #[arg(long, value_parser = size::parse, default_value = "64Mi")]
    chunk: usize,
    /// Keep it for so many seconds, or until SIGTERM.
    #[arg(long, value_name = "SECONDS|forever", num_args = 0..=1, default_missing_value = "forever", value_parser = hold)]
    hold: Option<Hold>,
    #[command(flatten)]
    start: Start,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hold {
    Forever,
    For(Duration),
}

fn hold(text: &str) -> Result<Hold, String> {
    if text == "forever" {
        return Ok(Hold::Forever);
    }
    let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds.map(Hold::For).ok_or_else(|| format!("{text:?} is neither forever nor a number of seconds"))
}

/// Smallest piece: the driver's granule.
const SMALLEST: usize = 512;

pub(crate) fn run(args: &Args, stop: &Stop) -> Result<(), CudaError> {
    let cuda = Cuda::load()?;
    cuda.use_device(args.device)?;
    if !stop.wait_for_start(&args.start) {
        return Ok(());
    }
    let (bytes, error) = match args.bytes.or(args.mib.map(|mib| mib.saturating_mul(1 << 20))) {
        Some(bytes) => {
            cuda.alloc(bytes)?;
            (bytes, None)
        }
        None => take_all(args.chunk, |bytes| cuda.alloc(bytes).map(drop))?,
    };
    let (free, total) = cuda.memory()?;
    say(&json!({"bytes": bytes, "error": error, "free": free, "total": total}))?;
    match args.hold {
        Some(Hold::Forever) => stop.wait(),
        Some(Hold::For(time)) => drop(stop.wait_for(time)),
        None => {}
    }
    Ok(())
}

/// Bytes got, and the name of the error that ended it: each size until it is refused, then half of it.
fn take_all(
    chunk: usize,
    mut alloc: impl FnMut(usize) -> Result<(), CudaError>,
) -> Result<(usize, Option<String>), CudaError> {
    let (mut sum, mut piece) = (0, chunk.max(SMALLEST));
    loop {
        match alloc(piece) {
            Ok(()) => sum += piece,
            Err(error) if !error.is_out_of_memory() => return Err(error),
            Err(_) if piece > SMALLEST => piece = (piece / 2).max(SMALLEST),
            Err(error) => return Ok((sum, error.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::OUT_OF_MEMORY;

    fn error(code: i32) -> CudaError {
        CudaError::Call { call: "cuMemAlloc_v2", code, name: format!("code {code}") }
    }

    #[test]
    fn everything_down_to_the_smallest_piece_is_taken() {
        let limit = 3_000 * (1 << 20) + 5 * 512;
        let mut used = 0;
        let alloc = |bytes: usize| {
            let fits = used + bytes <= limit;
            used += if fits { bytes } else { 0 };
            if fits { Ok(()) } else { Err(error(OUT_OF_MEMORY)) }
        };
        assert_eq!(take_all(64 << 20, alloc).unwrap(), (limit, Some("code 2".into())));
    }

    #[test]
    fn another_error_than_out_of_memory_is_passed_on() {
        let failed = take_all(512, |_| Err(error(999))).unwrap_err();
        assert!(!failed.is_out_of_memory() && failed.name() == Some("code 999".into()));
    }

    #[test]
    fn it_is_held_for_a_time_or_forever() {
        assert_eq!(hold("forever"), Ok(Hold::Forever));
        assert_eq!(hold("1.5"), Ok(Hold::For(Duration::from_millis(1_500))));
        assert!(hold("-1").is_err() && hold("ever").is_err());
    }
}
