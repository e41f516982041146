//! What the tests have in common: a driver root of fakes under the shims, shares, tenants in mount namespaces of their own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use vgpu_core::limits::Limits;

pub(crate) const MIB: u64 = 1 << 20;

/// How the limiter gets between a tenant and the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Not at all.
    Native,
    /// Under the names of the driver's libraries.
    Shim,
    /// Named by the container's /etc/ld.so.preload.
    Preload,
}

/// A test by its name.
pub(crate) type Test = fn(&Bench) -> anyhow::Result<()>;

/// Runs tests one after another; without root they are skipped.
pub(crate) fn run(tests: &[(&'static str, Test)]) -> ExitCode {
    let trial = |(name, test): &(&'static str, Test)| {
        let test = *test;
        Case::new(*name, move || test(&Bench::new()?))
    };
    run_cases(tests.iter().map(trial).collect())
}

/// One test, which may lack something of this machine.
pub(crate) struct Case {
    name: String,
    lacks: Option<String>,
    run: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
}

impl Case {
    /// It needs root, as every tenant does.
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        let lacks = (!rustix::process::geteuid().is_root()).then(|| "mount namespaces need root".to_owned());
        Self { name: name.into(), lacks, run: Box::new(run) }
    }

    /// It needs nothing.
    pub(crate) fn anywhere(
        name: impl Into<String>,
        run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), lacks: None, run: Box::new(run) }
    }

    /// Skipped, if there is a reason to.
    pub(crate) fn lacking(mut self, reason: Option<&str>) -> Self {
        self.lacks = self.lacks.or_else(|| reason.map(str::to_owned));
        self
    }
}

/// Runs tests one after another; what is lacking is named.
pub(crate) fn run_cases(cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trial = |case: Case| {
        if let Some(reason) = case.lacks.as_ref().filter(|_| !arguments.list) {
            println!("skipped: {}: {reason}", case.name);
        }
        let run = move || (case.run)().map_err(|e| Failed::from(format!("{e:#}")));
        Trial::test(case.name, run).with_ignored_flag(case.lacks.is_some())
    };
    let trials = cases.into_iter().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A driver root with one fake T4, the shims over its libraries, and a folder of shares.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    /// Of containers. In memory, as on a node: a store into a file on a disk may wait for the disk.
    shares: tempfile::TempDir,
    artifacts: PathBuf,
    form: Form,
    pub(crate) uuid: String,
}

impl Bench {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::of("T4x1")
    }

    /// One in virtual time: it takes as long as its tenants compute, and what comes of it does not depend on the machine.
    pub(crate) fn in_virtual_time(participants: u32) -> anyhow::Result<Self> {
        Self::in_virtual_time_of(participants, &artifacts()?)
    }

    /// The same, of the libraries and programs in a folder.
    pub(crate) fn in_virtual_time_of(participants: u32, artifacts: &Path) -> anyhow::Result<Self> {
        let description =
            format!("gpus: [{{model: T4}}]\ntime: {{mode: virtual, participants: {participants}}}");
        Self::described(&description, artifacts, true)
    }

    /// One under another form of the limiter.
    pub(crate) fn with(form: Form) -> anyhow::Result<Self> {
        Self::made_of("T4x1", artifacts()?, form)
    }

    /// One of other GPUs.
    pub(crate) fn of(gpus: &str) -> anyhow::Result<Self> {
        Self::made_of(gpus, artifacts()?, Form::Shim)
    }

    /// GPUs described in YAML, with or without the shims, of the libraries in a folder.
    pub(crate) fn described(description: &str, artifacts: &Path, is_limited: bool) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), description)?;
        let form = if is_limited { Form::Shim } else { Form::Native };
        Self::made_of(file.path().to_str().context("a path in UTF-8")?, artifacts.to_owned(), form)
    }

    fn made_of(gpus: &str, artifacts: PathBuf, form: Form) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        // Tenants of other users look in.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let root = folder.path().join("root");
        fake_gpu::install::install(&root, &root, "bench", gpus, &artifacts)?;
        for (shim, name, real) in [
            ("libvgpu_cuda_shim.so", "libcuda.so.1", "libcuda-real.so"),
            ("libvgpu_nvml_shim.so", "libnvidia-ml.so.1", "libnvidia-ml-real.so"),
        ]
        .into_iter()
        .filter(|_| form == Form::Shim)
        {
            fs::rename(root.join("lib").join(name), root.join("lib").join(real))?;
            copy(&limiter(&artifacts, shim), &root.join("lib").join(name))?;
        }
        if form == Form::Preload {
            let object = root.join("lib/libvgpu_preload.so");
            copy(&limiter(&artifacts, "libvgpu_preload.so"), &object)?;
            fs::create_dir(folder.path().join("etc"))?;
            fs::write(folder.path().join("etc/ld.so.preload"), format!("{}\n", object.display()))?;
        }
        let memory = Path::new("/dev/shm");
        let shares = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        fs::set_permissions(shares.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(shares.path().join("shares"))?;
        let uuid = fake_gpu::Gpus::open(&root.join("gpus"))?.uuid(0);
        Ok(Self { folder, shares, artifacts, form, uuid })
    }

    /// The folder tenants find the driver's libraries in.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.folder.path().join("root/lib")
    }

    /// Puts other libraries where the fakes are.
    pub(crate) fn put_driver(&self, cuda: &Path, nvml: &Path) -> anyhow::Result<()> {
        let names = match self.form {
            Form::Shim => ["libcuda-real.so", "libnvidia-ml-real.so"],
            Form::Native | Form::Preload => ["libcuda.so.1", "libnvidia-ml.so.1"],
        };
        for (from, name) in [cuda, nvml].into_iter().zip(names) {
            copy(from, &self.libraries().join(name))?;
        }
        Ok(())
    }

    /// A folder for what a test makes, which tenants see.
    pub(crate) fn room(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn share(&self, name: &str, memory: u64, cores: u32) -> anyhow::Result<PathBuf> {
        self.share_of("shares", name, memory, cores)
    }

    /// A share that is in another container than the others.
    pub(crate) fn share_of(
        &self,
        container: &str,
        name: &str,
        memory: u64,
        cores: u32,
    ) -> anyhow::Result<PathBuf> {
        self.share_as(container, name, &Limits { memory, cores, ..Limits::default() })
    }

    /// The same with all there is to say of it.
    pub(crate) fn share_as(&self, container: &str, name: &str, limits: &Limits) -> anyhow::Result<PathBuf> {
        let folder = self.shares.path().join(container).join(&self.uuid).join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("limits"), vgpu_core::limits::encode(limits))?;
        let bell = folder.join(vgpu_share::bell::NAME);
        rustix::fs::mkfifoat(rustix::fs::CWD, &bell, rustix::fs::Mode::from_raw_mode(0o666))?;
        fs::write(folder.join("usage"), vgpu_core::usage::empty())?;
        fs::set_permissions(folder.join("usage"), fs::Permissions::from_mode(0o666))?;
        Ok(folder)
    }

    /// Starts a program of this workspace as a tenant.
    pub(crate) fn start(&self, program: &str, args: &[&str]) -> anyhow::Result<Child> {
        self.command(&[], &self.artifacts.join(program), args).spawn().context("cannot start unshare")
    }

    /// The same in another container.
    pub(crate) fn start_in(&self, container: &str, program: &str, args: &[&str]) -> anyhow::Result<Child> {
        let program = self.artifacts.join(program);
        self.command_in(container, &[], &program, args).spawn().context("cannot start unshare")
    }

    /// A tenant; `wrapper` is a command that starts it.
    pub(crate) fn command(&self, wrapper: &[&str], program: &Path, args: &[&str]) -> Command {
        self.command_in("shares", wrapper, program, args)
    }

    fn command_in(&self, container: &str, wrapper: &[&str], program: &Path, args: &[&str]) -> Command {
        let shares = self.shares.path().join(container);
        let etc = self.folder.path().join("etc").display().to_string();
        let preload = match self.form {
            Form::Preload => format!(" && mount -t overlay overlay -o lowerdir={etc}:/etc /etc"),
            Form::Native | Form::Shim => String::new(),
        };
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir /run/vgpu-dra && mount --bind \"$0\" /run/vgpu-dra{preload} && exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(shares)
            .args(wrapper)
            .arg(program)
            .args(args)
            .env("LD_LIBRARY_PATH", self.libraries())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let out = self.start(program, args)?.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(out.status.success(), "{program} {args:?}: {} {}", text(&out.stdout), text(&out.stderr));
        Ok(text(&out.stdout))
    }

    pub(crate) fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.run("vgpu-workload", args)?;
        serde_json::from_str(text.trim()).with_context(|| format!("{args:?} printed {text:?}"))
    }

    /// Wrapper of a tenant that goes by the GPU's clock. Of those due at once the lowest rank goes first.
    pub(crate) fn clock(&self, rank: u32) -> [String; 4] {
        [
            "env".into(),
            format!("FAKE_GPU_RANK={rank}"),
            format!("FAKE_GPU_FILE={}", self.gpu_file().display()),
            format!("LD_PRELOAD={}", self.artifacts.join("libfake_time.so").display()),
        ]
    }

    /// Starts `vgpu-workload` as such a tenant.
    pub(crate) fn start_by_its_clock(&self, rank: u32, args: &[&str]) -> anyhow::Result<Child> {
        self.start_by_its_clock_in("shares", rank, args)
    }

    /// The same in another container.
    pub(crate) fn start_by_its_clock_in(
        &self,
        container: &str,
        rank: u32,
        args: &[&str],
    ) -> anyhow::Result<Child> {
        let clock = self.clock(rank);
        let wrapper: Vec<&str> = clock.iter().map(String::as_str).collect();
        let program = self.artifacts.join("vgpu-workload");
        self.command_in(container, &wrapper, &program, args).spawn().context("cannot start unshare")
    }

    /// The file that is the GPUs.
    pub(crate) fn gpu_file(&self) -> PathBuf {
        self.folder.path().join("root/gpus")
    }

    pub(crate) fn gpus(&self) -> anyhow::Result<fake_gpu::Gpus> {
        Ok(fake_gpu::Gpus::open(&self.gpu_file())?)
    }

    /// Bytes the driver has handed out to living processes.
    pub(crate) fn handed_out(&self) -> anyhow::Result<u64> {
        let gpus = self.gpus()?;
        let mut locked = gpus.lock();
        locked.reap(None);
        Ok(locked.used(0))
    }

    /// The same without what the driver keeps for contexts.
    pub(crate) fn held(&self) -> anyhow::Result<u64> {
        let status = self.gpus()?.status_of(0);
        Ok(status.used - status.processes.iter().map(|p| p.overhead).sum::<u64>())
    }

    /// Most bytes processes held at once.
    pub(crate) fn peak(&self) -> anyhow::Result<u64> {
        Ok(self.gpus()?.status_of(0).peak)
    }
}

/// The folder cargo builds into.
pub(crate) fn artifacts() -> anyhow::Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    folder.pop();
    Ok(folder)
}

/// A file of the limiter as it is shipped, where that was built, or as cargo builds it.
pub(crate) fn limiter(artifacts: &Path, file: &str) -> PathBuf {
    let shipped = std::env::var_os("VGPU_LIMITER").map(|all| Path::new(&all).join(std::env::consts::ARCH));
    shipped.map(|folder| folder.join(file)).filter(|path| path.is_file()).unwrap_or(artifacts.join(file))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

/// The first line a tenant says.
pub(crate) fn line(tenant: &mut Child) -> anyhow::Result<String> {
    let out = tenant.stdout.as_mut().context("its output is a pipe")?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    Ok(line.trim().to_owned())
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not after 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
