//! The Go programs of the local cluster, built beside everything else.

use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use vgpu_programs::{Programs, ProgramsError};

/// A build under way.
pub(crate) struct GoBuild(JoinHandle<Result<Programs, ProgramsError>>);

impl GoBuild {
    /// Starts it; lines of progress go to stderr.
    pub(crate) fn start() -> Self {
        Self(std::thread::spawn(|| Programs::ensure(&|line| eprintln!("  {line}"))))
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let ended = self.0.join().map_err(|_| anyhow!("the thread that builds the Go programs panicked"))?;
        ended.map(drop).context("the local cluster cannot be started")
    }
}
