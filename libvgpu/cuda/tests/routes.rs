//! Every way a program finds the driver's functions, with each family of allocations and launches through it: the limit
//! holds, and after each step the share is charged what the fake driver has handed out and run.
//!
//! The program is `routes/client.c`, built here; it says what it did, step by step, and waits until that was checked.

mod bench;
#[path = "routes/compiler.rs"]
mod compiler;
#[path = "routes/route.rs"]
mod route;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use vgpu_share::Share;

use bench::{Bench, Case, Form, MIB, run_cases, until};
use route::{Program, ROUTES, Route};

const LIMIT: u64 = 256 * MIB;
/// Of the client, where it finds everything.
const STEPS: u32 = 33;

fn main() -> ExitCode {
    let lacks = compiler::lacks();
    let mut cases = Vec::new();
    for (form, prefix) in [(Form::Shim, "shim"), (Form::Preload, "preload")] {
        for route in &ROUTES {
            if form == Form::Preload && route.program == Program::Plugin {
                cases.push(Case::new(format!("{prefix}::{}_goes_past_it", route.name), move || {
                    past(&Bench::with(form)?, route)
                }));
                continue;
            }
            cases.push(Case::new(format!("{prefix}::{}", route.name), move || {
                let bench = Bench::with(form)?;
                through(&bench, route)
            }));
        }
        cases.push(Case::new(format!("{prefix}::dlvsym_finds_nothing_as_ever"), move || versions(form)));
    }
    run_cases(cases.into_iter().map(|case| case.lacking(lacks.as_deref())).collect())
}

/// The client under way.
struct Client {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    answers: ChildStdin,
}

impl Client {
    fn start(bench: &Bench, route: &Route) -> anyhow::Result<Self> {
        let mut child = route.client(bench)?.stdin(Stdio::piped()).spawn().context("cannot start unshare")?;
        let out = child.stdout.take().context("its output is a pipe")?;
        let answers = child.stdin.take().context("its input is a pipe")?;
        Ok(Self { child, lines: BufReader::new(out).lines(), answers })
    }

    /// What it says next; the end of it is an error.
    fn next(&mut self) -> anyhow::Result<(String, u64, String)> {
        let line = match self.lines.next() {
            Some(line) => line?,
            None => {
                let status = self.child.wait()?;
                let mut error = String::new();
                std::io::Read::read_to_string(self.child.stderr.as_mut().context("a pipe")?, &mut error)?;
                bail!("it ended with {status}: {error}");
            }
        };
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (what, number, name) = (word(), word(), word());
        ensure!(what != "failed", "{number} {name}");
        Ok((what, number.parse().with_context(|| line.clone())?, name))
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        Ok(self.answers.write_all(b"\n")?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn through(bench: &Bench, route: &Route) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", LIMIT, 90)?)?;
    let charged = || {
        share.reap();
        share.ledger.used()
    };
    let time = || share.usage.compute.account.charged.load(Ordering::Relaxed);
    let mut client = Client::start(bench, route)?;
    let (mut before, mut absent, mut seen, mut refused) = (0, BTreeSet::new(), 0, 0);
    loop {
        let (what, number, name) = client.next()?;
        let (used, held) = (charged(), bench.held()?);
        ensure!(used == held, "{name}: {used} bytes are charged, the driver holds {held}");
        match what.as_str() {
            "none" => ensure!(held == 0, "after {name} {held} bytes are held"),
            "holds" => ensure!(held >= number && number > 0, "{name}: {held} bytes are held"),
            "refused" => refused += 1,
            "total" => ensure!(number == LIMIT, "{name} says {number}"),
            "ran" => {
                // What was measured is charged a moment later.
                until(&format!("{name} is charged"), || Ok(time() >= before + number / 10 * 9))?;
                until("all of it", || Ok(share.usage.compute.is_idle()))?;
                before = time();
            }
            "absent" => drop(absent.insert(name)),
            "end" => {
                let expected = route.is_interposed && route.program == Program::Linked;
                ensure!((number > 40) == expected, "{number} calls went through the interposer");
                client.go_on()?;
                let status = client.child.wait()?;
                ensure!(status.success(), "{status}");
                break;
            }
            other => bail!("it says {other}"),
        }
        seen += 1;
        client.go_on()?;
    }
    let expected: BTreeSet<String> = route.absent.iter().map(|name| (*name).to_owned()).collect();
    ensure!(absent == expected, "{absent:?} are not found");
    // Of the graph's memory two steps are left out, and one says so.
    let steps = if absent.is_empty() { STEPS } else { STEPS - 1 };
    ensure!(seen == steps && refused == 9, "{seen} steps, {refused} refusals");
    let counted = share.usage.memory.0.refused.load(Ordering::Relaxed);
    ensure!(counted >= refused, "{counted} refusals are counted, the program met {refused}");
    Ok(())
}

/// The one route the preload object does not stand in: what the README says of it is so.
fn past(bench: &Bench, route: &Route) -> anyhow::Result<()> {
    bench.share("s", LIMIT, 90)?;
    let mut client = Client::start(bench, route)?;
    let (what, number, name) = client.next()?;
    ensure!(what == "total" && number > LIMIT, "{name} says {number}");
    Ok(())
}

/// A lookup by a version: as without the limiter it finds nothing, and so nothing past the limiter.
fn versions(form: Form) -> anyhow::Result<()> {
    for form in [Form::Native, form] {
        let bench = Bench::with(form)?;
        let program = compiler::build(&bench, "client", &["client.c"], &["-ldl"], false)?;
        let out = bench.command(&[], &program, &["dlvsym"]).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success() && text == "found 0\n", "{form:?}: {} {text} {error}", out.status);
    }
    Ok(())
}
