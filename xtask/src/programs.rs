//! The Go programs of the local cluster, built beside everything else.

use std::thread::JoinHandle;

use vgpu_programs::{Programs, ProgramsError, machine};

/// Whether a cluster can run on this machine; asked before minutes are spent on building one.
pub(crate) fn can_run_cluster() -> anyhow::Result<()> {
    let why = machine::check().err().or_else(|| Programs::check().err().map(|e| e.to_string()));
    why.map_or(Ok(()), |why| anyhow::bail!("a local cluster cannot run here: {why}"))
}

/// A build under way.
pub(crate) struct GoBuild(JoinHandle<Result<Programs, ProgramsError>>);

impl GoBuild {
    /// Starts it; lines of progress go to stderr.
    pub(crate) fn start() -> Self {
        Self(std::thread::spawn(|| Programs::ensure(&|line| eprintln!("  {line}"))))
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Result<(), ProgramsError> {
        match self.0.join() {
            Ok(ended) => ended.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
