//! Random programs: processes that allocate, free, fork before and after their first call, and are killed. After every step
//! what is charged, what the driver holds and what a model says are the same.
//!
//! But for one thing: a child forked after its parent's first call has the driver's files open too, and the driver keeps the
//! parent's memory as long as it lives. The share does not: nobody can use that memory any more.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use vgpu_share::Share;

use crate::bench::{Bench, MIB, until};
use crate::cuda::{Cuda, OUT_OF_MEMORY};
use crate::random::random;
use crate::{Tenant, used};

const LIMIT: u64 = 64 * MIB;
const STEPS: usize = 120;
/// Processes alive at once.
const MOST: usize = 6;

/// Does what it reads from the first pipe, and answers in the second with a code of the driver or a process id.
pub(crate) fn obey(pipes: &[String]) -> anyhow::Result<()> {
    let [from, to] = pipes else { bail!("two pipes") };
    let (mut from, mut to) = open(Path::new(from), Path::new(to))?;
    let (mut cuda, mut live): (Option<Cuda>, Vec<u64>) = (None, Vec::new());
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["alloc", bytes] => {
                let driver = match cuda.take() {
                    Some(driver) => driver,
                    None => Cuda::start()?,
                };
                let made = driver.alloc(bytes.parse()?);
                cuda = Some(driver);
                made.map_or_else(
                    |code| code,
                    |address| {
                        live.push(address);
                        0
                    },
                )
            }
            ["free", at] => {
                let address = live.swap_remove(at.parse()?);
                cuda.as_ref().context("it has allocated")?.free(address).err().unwrap_or(0)
            }
            ["fork", child_from, child_to] => {
                // SAFETY: one thread, which holds no lock.
                match unsafe { libc::fork() } {
                    0 => {
                        if cuda.is_some() {
                            // As with the real driver there is no CUDA for it. It only lives on.
                            std::mem::forget(cuda);
                            loop {
                                // SAFETY: no conditions.
                                unsafe { libc::pause() };
                            }
                        }
                        (from, to) = open(Path::new(child_from), Path::new(child_to))?;
                        continue;
                    }
                    child => child,
                }
            }
            _ => bail!("{line:?}"),
        };
        writeln!(to, "{answer}")?;
    }
}

fn open(from: &Path, to: &Path) -> anyhow::Result<(BufReader<File>, File)> {
    // For reading and writing: opening does not wait for the other side.
    let pipe = |path: &Path| {
        OpenOptions::new().read(true).write(true).open(path).context(path.display().to_string())
    };
    Ok((BufReader::new(pipe(from)?), pipe(to)?))
}

/// One process as the model has it.
struct Process {
    pid: i32,
    /// `None`: it was forked after its parent's first call and does nothing.
    pipes: Option<(File, BufReader<File>)>,
    has_called: bool,
    /// Whose files of the driver it has open beside its own.
    heir_of: Option<i32>,
    /// Bytes of each allocation.
    live: Vec<u64>,
}

impl Process {
    fn ask(&mut self, what: &str) -> anyhow::Result<i32> {
        let (to, from) = self.pipes.as_mut().context("it listens")?;
        writeln!(to, "{what}")?;
        let mut line = String::new();
        from.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("{what}: it said {line:?}"))
    }
}

/// Killed when dropped; roots are children of this process, forked ones are not.
struct Scene {
    folder: tempfile::TempDir,
    next: usize,
    roots: Vec<Tenant>,
    processes: Vec<Process>,
    /// Bytes processes had when they were killed.
    dead: Vec<(i32, u64)>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        while let Some(process) = self.processes.pop() {
            // SAFETY: a process of this test.
            unsafe { libc::kill(process.pid, libc::SIGKILL) };
        }
    }
}

impl Scene {
    fn pipes(&mut self) -> anyhow::Result<[PathBuf; 2]> {
        self.next += 1;
        let pipes = ["from", "to"].map(|name| self.folder.path().join(format!("{name}-{}", self.next)));
        for pipe in &pipes {
            rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::from_raw_mode(0o600))?;
        }
        Ok(pipes)
    }

    fn add(&mut self, pid: i32, pipes: Option<&[PathBuf; 2]>, heir_of: Option<i32>) -> anyhow::Result<()> {
        let pipes = pipes.map(|[from, to]| open(to, from).map(|(read, write)| (write, read))).transpose()?;
        self.processes.push(Process { pid, pipes, has_called: false, heir_of, live: Vec::new() });
        Ok(())
    }

    fn start(&mut self, bench: &Bench) -> anyhow::Result<()> {
        let pipes = self.pipes()?;
        let names = pipes.each_ref().map(|pipe| pipe.display().to_string());
        let root = Tenant::start(bench, &[], &["obey", &names[0], &names[1]])?;
        let pid = i32::try_from(root.0.id())?;
        self.roots.push(root);
        self.add(pid, Some(&pipes), None)
    }

    fn fork(&mut self, at: usize) -> anyhow::Result<()> {
        let pipes = self.pipes()?;
        let line = format!("fork {} {}", pipes[0].display(), pipes[1].display());
        let process = self.processes.get_mut(at).context("a process")?;
        let (pid, parent) = (process.ask(&line)?, process.has_called.then_some(process.pid));
        self.add(pid, parent.is_none().then_some(&pipes), parent)
    }

    fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        let process = self.processes.swap_remove(at);
        self.dead.push((process.pid, process.live.iter().sum()));
        // SAFETY: a process of this test.
        unsafe { libc::kill(process.pid, libc::SIGKILL) };
        match self.roots.iter().position(|root| i32::try_from(root.0.id()) == Ok(process.pid)) {
            Some(root) => drop(self.roots.swap_remove(root)),
            None => until("a forked process is gone", || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
                Ok(stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z")))
            })?,
        }
        Ok(())
    }

    /// What the driver keeps for children of dead processes.
    fn inherited(&self) -> u64 {
        let has_heir = |pid: i32| self.processes.iter().any(|process| process.heir_of == Some(pid));
        self.dead.iter().filter(|(pid, _)| has_heir(*pid)).map(|(_, bytes)| bytes).sum()
    }

    fn held(&self) -> u64 {
        self.processes.iter().flat_map(|process| &process.live).sum()
    }
}

fn play(bench: &Bench, share: &Share, seed: u64) -> anyhow::Result<[usize; 5]> {
    let mut random = random(seed);
    let mut random = move |below: usize| random(below as u64) as usize;
    let mut scene = Scene {
        folder: tempfile::tempdir()?,
        next: 0,
        roots: Vec::new(),
        processes: Vec::new(),
        dead: Vec::new(),
    };
    let mut done = [0; 5];
    for step in 0..STEPS {
        let listening: Vec<usize> =
            (0..scene.processes.len()).filter(|at| scene.processes[*at].pipes.is_some()).collect();
        let what = random(20);
        let chosen = listening.get(random(listening.len())).copied();
        let kind = match (what, chosen) {
            (0..2, _) | (_, None) if scene.processes.len() < MOST => {
                scene.start(bench)?;
                0
            }
            (2..4, Some(at)) if scene.processes.len() < MOST => {
                scene.fork(at)?;
                1
            }
            (0..6, _) | (_, None) => {
                scene.kill(random(scene.processes.len()))?;
                2
            }
            (6..10, Some(at)) if !scene.processes[at].live.is_empty() => {
                let process = &mut scene.processes[at];
                let which = random(process.live.len());
                process.live.swap_remove(which);
                ensure!(process.ask(&format!("free {which}"))? == 0, "cuMemFree");
                3
            }
            (_, Some(at)) => {
                let bytes = (1 + random(LIMIT as usize / 3 / 512)) as u64 * 512;
                let fits = scene.held() + bytes <= LIMIT;
                let process = &mut scene.processes[at];
                process.has_called = true;
                let code = process.ask(&format!("alloc {bytes}"))?;
                ensure!(code == if fits { 0 } else { OUT_OF_MEMORY }, "{bytes} bytes: {code}, fits: {fits}");
                process.live.extend(fits.then_some(bytes));
                4
            }
        };
        done[kind] += 1;
        let (charged, held, model) = (used(share), bench.held()? - scene.inherited(), scene.held());
        ensure!(
            charged == model && held == model,
            "step {step} of seed {seed}: charged {charged}, held {held}, expected {model}"
        );
    }
    drop(scene);
    until("nothing is left", || Ok(used(share) == 0 && bench.held()? == 0))?;
    Ok(done)
}

pub(crate) fn agree(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", LIMIT, 0)?)?;
    let seeds = if std::env::var_os("VGPU_TEST_LONG").is_some() { 100 } else { 3 };
    let mut sum = [0; 5];
    for seed in 1..=seeds {
        let done = play(bench, &share, seed)?;
        sum.iter_mut().zip(done).for_each(|(sum, n)| *sum += n);
    }
    let [started, forked, killed, freed, allocated] = sum;
    println!(
        "  {seeds} programs: {started} started, {forked} forked, {killed} killed, {allocated} allocations, {freed} freed"
    );
    ensure!(sum.iter().all(|n| *n > 0), "{sum:?}");
    Ok(())
}
