//! The control protocol of supervisors: one JSON line asked, one answered, on a unix socket in the state folder.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a supervisor can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Request {
    /// Which programs there are and whether they run.
    Status,
    /// Starts a program that was stopped.
    Start {
        /// Its name.
        program: String,
    },
    /// SIGTERM, after ten seconds SIGKILL; it stays down.
    Stop {
        /// Its name.
        program: String,
    },
    /// SIGKILL; it is started again as anything that ends by itself. A node stays down.
    Kill {
        /// Its name.
        program: String,
    },
    /// Runs a command in the supervisor's namespaces.
    Run {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// SIGKILL to every process whose program file has this name.
    KillProcesses {
        /// File name of the executable.
        executable: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Reply {
    /// Done.
    Done,
    /// It could not.
    Failed {
        /// Why.
        message: String,
    },
    /// To [`Request::Status`].
    Status {
        /// By name.
        programs: BTreeMap<String, ProgramStatus>,
    },
    /// To [`Request::Run`].
    Output {
        /// Exit status; -1 if a signal ended it.
        code: i32,
        /// What it printed.
        stdout: String,
        /// What it printed on standard error.
        stderr: String,
    },
    /// To [`Request::KillProcesses`].
    Killed {
        /// How many.
        count: usize,
    },
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Process id in the supervisor's pid namespace; absent while it does not run.
    pub pid: Option<i32>,
    /// How often it was started after it had ended by itself.
    pub restarts: u32,
}

/// Why a supervisor was not heard.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket.
    #[error("cannot talk to the supervisor at {socket}")]
    Io {
        /// Where.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks one thing.
///
/// # Errors
/// [`ControlError`]: nobody listens, or the supervisor could not do it.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, ControlError> {
    let talk = || -> io::Result<Reply> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    };
    match talk() {
        Ok(Reply::Failed { message }) => Err(ControlError::Refused(message)),
        Ok(reply) => Ok(reply),
        Err(source) => Err(ControlError::Io { socket: socket.to_owned(), source }),
    }
}
