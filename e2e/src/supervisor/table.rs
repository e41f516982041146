//! The programs a supervisor answers for. It reaps every process of its pid namespace, its programs and orphans alike.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::control::ProgramStatus;

/// How one program is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// By which it is asked for.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Search path it gets.
    pub path: String,
    /// File its output goes to.
    pub log: PathBuf,
    /// Whether it is started again when it ends by itself.
    pub restarts: bool,
}

struct Entry {
    program: Program,
    pid: Option<i32>,
    wanted: bool,
    restarts: u32,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// Commands run on request, and how they ended.
    commands: BTreeMap<i32, Option<i32>>,
}

/// All programs of one supervisor.
#[derive(Default)]
pub(super) struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program, or one known by that name again. Already running is fine.
    pub(super) fn start(&self, program: Program) -> io::Result<i32> {
        let mut state = self.lock();
        let name = program.name.clone();
        let entry =
            state.entries.entry(name).or_insert(Entry { program, pid: None, wanted: true, restarts: 0 });
        entry.wanted = true;
        if let Some(pid) = entry.pid {
            return Ok(pid);
        }
        let pid = spawn(&entry.program)?;
        entry.pid = Some(pid);
        Ok(pid)
    }

    /// Starts a known program.
    pub(super) fn start_again(&self, name: &str) -> io::Result<i32> {
        let known = self.lock().entries.get(name).map(|e| e.program.clone());
        known.map_or_else(|| Err(unknown(name)), |program| self.start(program))
    }

    /// Ends a program and keeps it down.
    pub(super) fn stop(&self, name: &str) -> io::Result<()> {
        for (signal, seconds) in [(Signal::TERM, 10), (Signal::KILL, 10)] {
            let mut state = self.lock();
            let entry = state.entries.get_mut(name).ok_or_else(|| unknown(name))?;
            entry.wanted = false;
            let Some(pid) = entry.pid.and_then(Pid::from_raw) else { return Ok(()) };
            let _ = kill_process(pid, signal);
            drop(state);
            if self.wait(seconds, |s| {
                s.entries.get(name).is_none_or(|e| e.pid != Some(pid.as_raw_nonzero().get()))
            }) {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("{name} survived SIGKILL")))
    }

    /// SIGKILL, waits until it is dead; what restarts by itself restarts.
    pub(super) fn kill(&self, name: &str) -> io::Result<()> {
        let pid = self.lock().entries.get(name).ok_or_else(|| unknown(name))?.pid;
        let Some(pid) = pid.and_then(Pid::from_raw) else { return Ok(()) };
        kill_process(pid, Signal::KILL)?;
        let dead = |s: &State| s.entries.get(name).is_none_or(|e| e.pid != Some(pid.as_raw_nonzero().get()));
        if self.wait(10, dead) { Ok(()) } else { Err(io::Error::other(format!("{name} survived SIGKILL"))) }
    }

    /// What runs.
    pub(super) fn status(&self) -> BTreeMap<String, ProgramStatus> {
        let state = self.lock();
        let status = |e: &Entry| ProgramStatus { pid: e.pid, restarts: e.restarts };
        state.entries.iter().map(|(name, e)| (name.clone(), status(e))).collect()
    }

    /// Runs a command to its end: exit status, stdout, stderr.
    pub(super) fn run(&self, command: &[String], path: &str) -> io::Result<(i32, String, String)> {
        let (program, args) = command.split_first().ok_or_else(|| io::Error::other("an empty command"))?;
        // Registered under the lock: the reaper, which takes it too, cannot see the end before the beginning.
        let mut state = self.lock();
        let mut child = Command::new(program)
            .args(args)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        state.commands.insert(pid, None);
        drop(state);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let errors = child.stderr.take();
        let reader = std::thread::spawn(move || {
            errors.map(|mut e| e.read_to_end(&mut stderr)).transpose().map(|_| stderr)
        });
        if let Some(mut out) = child.stdout.take() {
            out.read_to_end(&mut stdout)?;
        }
        let stderr = reader.join().unwrap_or_else(|_| Ok(Vec::new()))?;
        self.wait(60, |s| s.commands.get(&pid).is_none_or(Option::is_some));
        let code = self.lock().commands.remove(&pid).flatten().unwrap_or(-1);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((code, text(stdout), text(stderr)))
    }

    fn wait(&self, seconds: u64, mut done: impl FnMut(&State) -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut state = self.lock();
        while !done(&state) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Reaps for ever. The caller is PID 1's main thread.
    pub(super) fn reap(&self) -> ! {
        loop {
            // Any child: containers' shims lead process groups of their own, which `waitpid(None)` leaves out.
            let Ok(Some((pid, status))) = wait(WaitOptions::empty()) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let pid = pid.as_raw_nonzero().get();
            let mut state = self.lock();
            if let Some(ended) = state.commands.get_mut(&pid) {
                *ended = Some(status.exit_status().unwrap_or(-1));
            }
            if let Some(entry) = state.entries.values_mut().find(|e| e.pid == Some(pid)) {
                entry.pid = None;
            }
            self.changed.notify_all();
        }
    }

    /// Starts again, after half a second, what ended by itself. Runs for ever on a thread of its own.
    pub(super) fn keep_up(&self) -> ! {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let mut state = self.lock();
            let down = |e: &&mut Entry| e.wanted && e.pid.is_none() && e.program.restarts;
            for entry in state.entries.values_mut().filter(down) {
                if let Ok(pid) = spawn(&entry.program) {
                    entry.pid = Some(pid);
                    entry.restarts += 1;
                }
            }
        }
    }
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no program {name} here"))
}

fn spawn(program: &Program) -> io::Result<i32> {
    if let Some(folder) = program.log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&program.log)?;
    let (name, args) = program.command.split_first().ok_or_else(|| io::Error::other("an empty command"))?;
    let child = Command::new(name)
        .args(args)
        .env_clear()
        .env("PATH", &program.path)
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
    i32::try_from(child.id()).map_err(io::Error::other)
}
