//! PID 1 of the cluster and of each node: starts programs, starts again what ends by itself, obeys a control socket.
//!
//! [`plane`] is PID 1 of the whole cluster, [`node`] of one node inside it. Both are the same table of programs behind
//! the same protocol (see [`crate::control`]); they differ in what they set up first.

mod link;
pub mod node;
pub mod plane;
mod server;
mod table;

pub use table::Program;

/// Why a supervisor could not set up what it is PID 1 of.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A file, folder, mount or program.
    #[error("cannot {action} {what}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A network link, address or route.
    #[error("cannot {action} {what}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that had to become ready did not.
    #[error("{what} was not ready after {seconds} s")]
    NotReady {
        /// What.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
}

impl SupervisorError {
    pub(crate) fn io(action: &'static str, what: impl ToString) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { action, what, source }
    }
}

/// Asks every 50 ms until yes.
fn until(what: &str, seconds: u64, mut ready: impl FnMut() -> bool) -> Result<(), SupervisorError> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !ready() {
        if std::time::Instant::now() > end {
            return Err(SupervisorError::NotReady { what: what.to_owned(), seconds });
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}
