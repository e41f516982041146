//! `spin`: kernels of a given length, for a given time or until SIGTERM.
//!
//! Prints `{"kernels", "gpuNanos", "elapsedGpuNanos", "seconds"}`: kernels that ended; their lengths together; GPU time
//! from before the first to after the last; seconds of the clock on the wall. With `--every-micros` also `p50Nanos` and
//! `p99Nanos`: how long requests but the first took, from the moment each was due. On SIGTERM it still does so if the kernels
//! under way end within half a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cuda::{Cuda, CudaError, Event};
use crate::stop::Stop;
use crate::{Start, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device ordinal.
    #[arg(long, default_value_t = 0)]
    device: i32,
    /// Length of a kernel in milliseconds.
    #[arg(long, conflicts_with = "kernel_micros", value_parser = millis)]
    kernel_ms: Option<u64>,
    /// Length of a kernel in microseconds.
    #[arg(long, default_value_t = 5_000)]
    kernel_micros: u64,
    /// Lengths of kernels in microseconds, in turn: one function whose launches differ.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["kernel_ms", "kernel_micros"])]
    lengths_micros: Vec<u64>,
    /// How long to go on; without it until SIGTERM.
    #[arg(long)]
    seconds: Option<f64>,
    /// How many kernels to launch; without it as many as there is time for.
    #[arg(long)]
    kernels: Option<u64>,
    /// Requests: a kernel each time so many microseconds have passed, waited for.
    #[arg(long, conflicts_with_all = ["sync", "pattern", "depth"], value_parser = clap::value_parser!(u64).range(1..))]
    every_micros: Option<u64>,
    /// How to launch.
    #[arg(long, value_enum, default_value_t = Pattern::Stream)]
    pattern: Pattern,
    /// The same as --pattern sync.
    #[arg(long)]
    sync: bool,
    /// Kernels that may be under way at once with --pattern stream.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    #[command(flatten)]
    start: Start,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Pattern {
    /// One behind another, as many at once as --depth says.
    Stream,
    /// Wait for each kernel before the next.
    Sync,
}

/// Nanoseconds.
fn millis(text: &str) -> Result<u64, String> {
    let nanos = text.parse::<f64>().ok().filter(|ms| (0.0..1e9).contains(ms)).map(|ms| (ms * 1e6) as u64);
    nanos.ok_or_else(|| format!("{text:?} is no number of milliseconds"))
}

/// What ran.
struct Run<'a> {
    cuda: &'a Cuda,
    under_way: VecDeque<Event>,
    idle: Vec<Event>,
    first: Event,
    last: Option<Event>,
    kernels: u64,
    launched: u64,
    /// Of the kernels launched.
    nanos: u64,
}

impl Run<'_> {
    fn launch(&mut self, function: crate::cuda::Function, nanos: u64) -> Result<(), CudaError> {
        let end = match self.idle.pop() {
            Some(event) => event,
            None => self.cuda.event()?,
        };
        self.cuda.spin(function, nanos)?;
        self.cuda.record(end)?;
        self.under_way.push_back(end);
        self.launched += 1;
        self.nanos = self.nanos.saturating_add(nanos);
        Ok(())
    }

    /// Waits until at most so many are under way.
    fn settle(&mut self, depth: usize) -> Result<(), CudaError> {
        while self.under_way.len() > depth {
            let Some(end) = self.under_way.pop_front() else { break };
            self.cuda.wait(end)?;
            self.idle.extend(self.last.replace(end));
            self.kernels += 1;
        }
        Ok(())
    }

    fn elapsed_nanos(&self) -> Result<u64, CudaError> {
        self.last.map_or(Ok(0), |last| self.cuda.elapsed_nanos(self.first, last))
    }
}

pub(crate) fn run(args: &Args, stop: &Stop) -> Result<(), CudaError> {
    let one = args.kernel_ms.unwrap_or(args.kernel_micros.saturating_mul(1_000));
    let several = args.lengths_micros.iter().map(|micros| micros.saturating_mul(1_000));
    let mut lengths = several.collect::<Vec<u64>>();
    if lengths.is_empty() {
        lengths.push(one);
    }
    let every = args.every_micros.map(Duration::from_micros);
    let mut took = Vec::new();
    let depth = if every.is_some() || args.sync || args.pattern == Pattern::Sync {
        1
    } else {
        usize::from(args.depth)
    };
    let cuda = Cuda::load()?;
    cuda.use_device(args.device)?;
    let function = cuda.spin_function()?;
    if !stop.wait_for_start(&args.start) {
        return Ok(());
    }
    let begin = Instant::now();
    let length = args.seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let first = cuda.event()?;
    cuda.record(first)?;
    let (under_way, idle) = (VecDeque::new(), Vec::new());
    let mut run = Run { cuda: &cuda, under_way, idle, first, last: None, kernels: 0, launched: 0, nanos: 0 };
    for nanos in lengths.into_iter().cycle() {
        let is_over = length.is_some_and(|length| begin.elapsed() >= length);
        if is_over || args.kernels.is_some_and(|most| run.launched >= most) || stop.has_come() {
            break;
        }
        let due = every.map(|every| begin + every * u32::try_from(run.launched).unwrap_or(u32::MAX));
        if let Some(due) = due {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        run.settle(depth - 1)?;
        run.launch(function, nanos)?;
        if let Some(due) = due {
            run.settle(0)?;
            // With the first one the driver loads the function.
            took.extend((run.launched > 1).then(|| due.elapsed()));
        }
    }
    run.settle(0)?;
    let mut result = json!({
        "kernels": run.kernels,
        "gpuNanos": run.nanos,
        "elapsedGpuNanos": run.elapsed_nanos()?,
        "seconds": begin.elapsed().as_secs_f64(),
    });
    if every.is_some() {
        took.sort();
        for (name, percent) in [("p50Nanos", 50), ("p99Nanos", 99)] {
            result[name] = json!(percentile(&took, percent).as_nanos() as u64);
        }
    }
    say(&result)
}

/// Of what is sorted; 0 of nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_least_that_so_many_stay_within() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99].map(|percent| percentile(&sorted, percent).as_millis()), [100, 198]);
        assert_eq!(percentile(&sorted[..1], 99).as_millis(), 1);
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn parts_of_milliseconds_can_be_asked_for() {
        assert_eq!(millis("0.1"), Ok(100_000));
        assert!(millis("-1").is_err() && millis("NaN").is_err());
    }
}
