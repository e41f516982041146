//! A driver root of fakes in a folder, and programs run on it.
#![allow(dead_code, unused_imports, reason = "each suite uses its part")]

pub(crate) mod cuda;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use fake_gpu::{Gpus, install};

pub(crate) const MIB: u64 = 1 << 20;
/// What a T4 has to share.
pub(crate) const T4: u64 = 15_104 * MIB;

/// A node with GPUs.
pub(crate) struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    /// # Panics
    /// The libraries are not built; says how to.
    pub(crate) fn new(gpus: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Self::artifacts();
        if let Err(error) = install::install_unprivileged(folder.path(), "node", gpus, &artifacts) {
            panic!(
                "{error}: run `cargo build -p fake-cuda -p fake-nvml -p fake-nvidia-smi -p fake-time` first"
            );
        }
        Self { folder }
    }

    /// Beside the test's own `deps`.
    fn artifacts() -> PathBuf {
        let test = std::env::current_exe().unwrap();
        test.parent().and_then(Path::parent).unwrap().to_owned()
    }

    /// Something cargo built.
    pub(crate) fn artifact(name: &str) -> PathBuf {
        Self::artifacts().join(name)
    }

    /// With GPUs described by the text of a file.
    pub(crate) fn described(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Self::new(file.path().to_str().unwrap())
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub(crate) fn gpus(&self) -> Gpus {
        Gpus::open(&self.path("gpus")).unwrap()
    }

    pub(crate) fn uuid(&self, index: usize) -> String {
        self.gpus().uuid(index)
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("LD_LIBRARY_PATH", self.path("lib"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn workload(&self, args: &[&str]) -> Running {
        Running::start(self.command(env!("CARGO_BIN_EXE_vgpu-workload"), args))
    }

    pub(crate) fn smi(&self, args: &[&str]) -> Output {
        self.command(self.path("bin/nvidia-smi"), args).output().unwrap()
    }
}

/// A program under way; killed with the test.
pub(crate) struct Running {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, as JSON.
    ///
    /// # Panics
    /// The program ended instead; shows what it said.
    #[track_caller]
    pub(crate) fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("no result: {}", self.errors());
        }
        serde_json::from_str(&line).unwrap()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        }
        text
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Status and what it said on stderr.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.errors())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something to become true.
///
/// # Panics
/// It did not within ten seconds.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}
