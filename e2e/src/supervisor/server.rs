//! The control socket of a supervisor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};

use super::SupervisorError;
use super::table::Table;
use crate::control::{Reply, Request};

/// Does what a supervisor does differently from others; `None` leaves it to the table.
pub(super) type Special = Box<dyn Fn(&Request) -> Option<std::io::Result<Reply>> + Send + Sync>;

/// Listens on threads of its own.
pub(super) fn serve(
    socket: &Path,
    path: String,
    table: Arc<Table>,
    special: Special,
) -> Result<(), SupervisorError> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(SupervisorError::io("listen on", socket.display()))?;
    let special = Arc::new(special);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (table, special, path) = (table.clone(), special.clone(), path.clone());
            std::thread::spawn(move || answer(stream, &table, &special, &path));
        }
    });
    Ok(())
}

fn answer(stream: UnixStream, table: &Table, special: &Special, path: &str) {
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).is_err() {
        return;
    }
    let reply = match serde_json::from_str(&line) {
        Ok(request) => special(&request)
            .unwrap_or_else(|| obey(&request, table, path))
            .unwrap_or_else(|e| Reply::Failed { message: e.to_string() }),
        Err(e) => Reply::Failed { message: format!("not a request: {e}") },
    };
    if let Ok(mut text) = serde_json::to_string(&reply) {
        text.push('\n');
        // The asker may be gone; nothing here depends on it.
        let _ = (&stream).write_all(text.as_bytes());
    }
}

fn obey(request: &Request, table: &Table, path: &str) -> std::io::Result<Reply> {
    match request {
        Request::Status => Ok(Reply::Status { programs: table.status() }),
        Request::Start { program } => table.start_again(program).map(|_| Reply::Done),
        Request::Stop { program } => table.stop(program).map(|()| Reply::Done),
        Request::Kill { program } => table.kill(program).map(|()| Reply::Done),
        Request::Run { command } => {
            table.run(command, path).map(|(code, stdout, stderr)| Reply::Output { code, stdout, stderr })
        }
        Request::KillProcesses { executable } => Ok(Reply::Killed { count: kill_processes(executable) }),
    }
}

/// By the name of the program file, as seen in this pid namespace.
fn kill_processes(executable: &str) -> usize {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = words.split(|b| *b == 0).next().unwrap_or_default();
        Path::new(&*String::from_utf8_lossy(program)).file_name().is_some_and(|n| n == executable)
    };
    let kill = |pid: i32| Pid::from_raw(pid).is_some_and(|p| kill_process(p, Signal::KILL).is_ok());
    pids.filter(is_it).filter(|pid| kill(*pid)).count()
}
