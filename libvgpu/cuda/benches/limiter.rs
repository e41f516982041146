//! What the limiter costs a program, and that it lets none of its memory go over the limit.
//!
//! Each measured process is this program once more, in a mount namespace with a share as a container has it, under the
//! shim in front of the fake driver or under the fake driver alone. The driver's calls return at once. Both kinds take
//! turns, as do kinds of calls, and a value is the median over rounds of what the shim adds in one; `baseline` is the
//! native call itself. Rows that begin with `baseline_` are HAMi-core's algorithm instead of the shim, in the native
//! process. How long requests of a share with high priority take is measured in the fake GPU's time: `baseline` is how long
//! they take alone.
//!
//! `--artifacts DIR` measures the libraries of that folder instead of those built with this program, `--only WORD` measures
//! only rows in whose name the word is. Prints one JSON object (see `cargo xtask bench`).

#[path = "../tests/turns/arbiter.rs"]
mod arbiter;
#[path = "../tests/bench/mod.rs"]
mod bench;
#[path = "limiter/driver.rs"]
mod driver;
#[path = "limiter/hami.rs"]
mod hami;
#[path = "../tests/tenants/random.rs"]
mod random;
#[path = "../tests/turns/requests.rs"]
mod requests;
#[path = "../tests/turns/scene.rs"]
mod scene;
#[path = "limiter/tenant.rs"]
mod tenant;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};
use vgpu_core::compute::Priority;

use bench::{Bench, MIB};
use requests::{requests_alone, requests_beside};

/// Rounds of each kind.
const ROUNDS: usize = 25;
/// Processes of each kind whose first calls are timed one after another.
const FIRSTS: usize = 60;
/// Processes that start at once.
const STARTS: usize = 300;
const RACERS: u64 = 8;
/// Allocations and frees of all racers.
const OPERATIONS: u64 = 100_000;

// Rows that are no calls.
const FIRST_CALL: &str = "first_call_extra_ms";
const START: &str = "start_300_last_over_first";
const OVERSHOOT: &str = "overshoot_bytes_8_processes";
const HIGH: &str = "high_p99_over_alone_ms";

const TIMELESS: &str = "gpus: [{model: T4}]\ntime: {mode: none}";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, what, rest @ ..] = &arguments[..]
        && first == "tenant"
    {
        return tenant::run(what, rest);
    }
    if let [_, first, rest @ ..] = &arguments[..]
        && first == "arbiter"
    {
        return arbiter::run(rest);
    }
    let option = |name: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.map(|at| arguments.get(at + 1).with_context(|| format!("{name} wants a value"))).transpose()
    };
    let only = option("--only")?.map_or("", String::as_str);
    let artifacts = match option("--artifacts")? {
        Some(folder) => PathBuf::from(folder),
        None => {
            let mut own = std::env::current_exe()?;
            own.pop();
            own.pop();
            own
        }
    };
    let share = |is_limited| {
        let bench = Bench::described(TIMELESS, &artifacts, is_limited)?;
        bench.share("s", 8192 * MIB, 50)?;
        anyhow::Ok(bench)
    };
    let (native, limited) = (share(false)?, share(true)?);
    let mut metrics = Metrics::default();
    calls(&native, &limited, only, &mut metrics)?;
    if FIRST_CALL.contains(only) {
        first_calls(&native, &limited, &mut metrics)?;
    }
    if START.contains(only) {
        starts(&limited, &mut metrics)?;
    }
    if OVERSHOOT.contains(only) {
        let overshoot = overshoot(&Bench::described("gpus: [{model: T4}]", &artifacts, true)?)?;
        metrics.put(OVERSHOOT, "bytes", overshoot, None, Some(0.0));
    }
    if HIGH.contains(only) {
        high(&artifacts, &mut metrics)?;
    }
    println!("{}", Value::Object(metrics.0));
    Ok(())
}

#[derive(Default)]
struct Metrics(Map<String, Value>);

impl Metrics {
    fn put(&mut self, name: &str, unit: &str, value: f64, baseline: Option<f64>, goal: Option<f64>) {
        let ok = goal.map(|goal| value <= goal);
        let row = json!({"value": value, "unit": unit, "baseline": baseline, "goal": goal, "ok": ok});
        self.0.insert(name.to_owned(), row);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn tenant(bench: &Bench, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = bench.command(&[], &std::env::current_exe()?, &[&["tenant"], arguments].concat());
    command.stderr(Stdio::inherit());
    Ok(command)
}

/// A process that does rounds when it is told to.
struct Rounds(Child);

impl Rounds {
    /// All on one processor, or where they like.
    fn start(bench: &Bench, is_pinned: bool) -> anyhow::Result<Self> {
        let arguments: &[&str] = if is_pinned { &["rounds", "pinned"] } else { &["rounds"] };
        let child = tenant(bench, arguments)?.stdin(Stdio::piped()).spawn();
        Ok(Self(child.context("cannot start unshare")?))
    }

    /// Nanoseconds per call: lower quartile, median and mean over its batches.
    fn round(&mut self, what: &str) -> anyhow::Result<[f64; 3]> {
        writeln!(self.0.stdin.as_mut().context("its input is a pipe")?, "{what}")?;
        let mut line = String::new();
        // It writes one line for each it reads, so nothing is left in the buffer.
        BufReader::new(self.0.stdout.as_mut().context("its output is a pipe")?).read_line(&mut line)?;
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().map_err(|_| anyhow::anyhow!("{what}: it said {line:?}"))
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A kind of call, and what it took in each round.
struct Row {
    /// What the processes are told to do.
    what: &'static str,
    name: &'static str,
    goal: Option<f64>,
    /// What the shim adds, and on average.
    extra: Vec<f64>,
    amortised: Vec<f64>,
    /// The driver alone.
    plain: Vec<f64>,
    /// What HAMi-core's algorithm adds.
    hami: Vec<f64>,
}

const CALLS: [(&str, &str, Option<f64>); 7] = [
    ("launch 1", "launch_extra_ns_1_threads", Some(2.0)),
    ("launch 2", "launch_extra_ns_2_threads", Some(2.0)),
    ("launch 8", "launch_extra_ns_8_threads", Some(4.0)),
    ("alloc 0", "alloc_free_extra_ns_0_live", Some(60.0)),
    ("alloc 50000", "alloc_free_extra_ns_50000_live", Some(60.0)),
    ("alloc-older", "alloc_free_older_extra_ns", None),
    ("info", "mem_get_info_extra_ns", Some(20.0)),
];

impl Row {
    fn of((what, name, goal): (&'static str, &'static str, Option<f64>)) -> Self {
        let none = Vec::new;
        Self { what, name, goal, extra: none(), amortised: none(), plain: none(), hami: none() }
    }

    fn is_launch(&self) -> bool {
        self.what.starts_with("launch")
    }

    fn measure(&mut self, native: &mut Rounds, limited: &mut Rounds) -> anyhow::Result<()> {
        // Of launches, those with credit left; what asking adds is in the amortised cost.
        let place = usize::from(!self.is_launch());
        let (one, other) = (native.round(self.what)?, limited.round(self.what)?);
        // Its list takes a tenth of a millisecond to search when 50,000 are live: one round tells as much.
        let wanted = match self.what {
            "alloc 50000" => self.hami.is_empty(),
            what => !matches!(what, "info" | "alloc-older"),
        };
        if wanted {
            self.hami.push(native.round(&format!("hami-{}", self.what))?[place] - one[place]);
        }
        self.extra.push(other[place] - one[place]);
        self.plain.push(one[place]);
        self.amortised.push(other[2] - one[2]);
        Ok(())
    }

    fn report(self, metrics: &mut Metrics) {
        let plain = Some(median(self.plain));
        metrics.put(self.name, "ns", median(self.extra), plain, self.goal);
        if !self.hami.is_empty() {
            metrics.put(&format!("baseline_{}", self.name), "ns", median(self.hami), plain, None);
        }
        if self.what.starts_with("launch") {
            let name = self.name.replace("extra", "amortised_extra");
            metrics.put(&name, "ns", median(self.amortised), plain, None);
        }
    }
}

fn calls(native: &Bench, limited: &Bench, only: &str, metrics: &mut Metrics) -> anyhow::Result<()> {
    // Processors of one machine are not equally fast at a moment: what is one thread's is measured on one of them.
    let mut pinned = (Rounds::start(native, true)?, Rounds::start(limited, true)?);
    let mut free = (Rounds::start(native, false)?, Rounds::start(limited, false)?);
    let mut rows: Vec<Row> = CALLS.into_iter().filter(|call| call.1.contains(only)).map(Row::of).collect();
    // Nor at all moments: each kind of call is measured over the whole time.
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let is_free = matches!(row.what, "launch 2" | "launch 8");
            let (native, limited) = if is_free { &mut free } else { &mut pinned };
            row.measure(native, limited)?;
        }
    }
    rows.into_iter().for_each(|row| row.report(metrics));
    Ok(())
}

/// Nanoseconds from before the driver is loaded to behind the first allocation.
fn first_call(bench: &Bench) -> anyhow::Result<f64> {
    let out = tenant(bench, &["first"])?.output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.trim().parse().with_context(|| format!("{} it said {text:?}", out.status))
}

fn first_calls(native: &Bench, limited: &Bench, metrics: &mut Metrics) -> anyhow::Result<()> {
    let (mut extra, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..FIRSTS {
        let (one, other) = (first_call(native)?, first_call(limited)?);
        extra.push((other - one) / 1e6);
        plain.push(one / 1e6);
    }
    metrics.put(FIRST_CALL, "ms", median(extra), Some(median(plain)), Some(0.2));
    Ok(())
}

/// How much longer the last tenth of processes that open the share at once take for it than the first. They have
/// initialised the driver before, and what the fake driver takes for the call itself is a thousandth of it.
fn last_over_first(bench: &Bench) -> anyhow::Result<f64> {
    let out = tenant(bench, &["start", &STARTS.to_string()])?.output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let took: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(took.len() == STARTS, "{}: {} of {STARTS} said how long they took", out.status, took.len());
    let (first, last) = (&took[..STARTS / 10], &took[STARTS - STARTS / 10..]);
    Ok(median(last.to_vec()) / median(first.to_vec()))
}

fn starts(limited: &Bench, metrics: &mut Metrics) -> anyhow::Result<()> {
    let ratios: anyhow::Result<Vec<f64>> = (0..5).map(|_| last_over_first(limited)).collect();
    metrics.put(START, "1", median(ratios?), None, Some(2.0));
    Ok(())
}

/// Bytes over the limit that the driver ever handed out to processes that race for a share.
fn overshoot(bench: &Bench) -> anyhow::Result<f64> {
    const LIMIT: u64 = 256 * MIB;
    bench.share("s", LIMIT, 0)?;
    let each = (OPERATIONS / RACERS).to_string();
    let racers: anyhow::Result<Vec<Child>> = (1..=RACERS)
        .map(|seed| {
            let mut command = tenant(bench, &["race", &each, &seed.to_string(), &LIMIT.to_string()])?;
            command.spawn().context("cannot start unshare")
        })
        .collect();
    for mut racer in racers? {
        let status = racer.wait()?;
        ensure!(status.success(), "a racer: {status}");
    }
    let peak = bench.peak()?;
    ensure!(peak > LIMIT / 2, "they held {peak} bytes at most: that is no race");
    Ok(peak.saturating_sub(LIMIT) as f64)
}

/// How much longer requests of a share with high priority take beside kernels of 100 us of one with low priority.
fn high(artifacts: &Path, metrics: &mut Metrics) -> anyhow::Result<()> {
    let make = &|participants| Bench::in_virtual_time_of(participants, artifacts);
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let alone = ms(requests_alone(make, "10")?);
    let beside = requests_beside(make, Priority::High, Priority::Low, "10")?;
    metrics.put(HIGH, "ms", ms(beside.p99) - alone, Some(alone), Some(2.0));
    metrics.put("low_beside_high_percent", "percent", beside.kept, None, None);
    Ok(())
}
