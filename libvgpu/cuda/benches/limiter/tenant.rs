//! What measured processes do. Each is this program started once more with `tenant <what>`, under the driver that its
//! environment names.

use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::driver::{Driver, load_needed};
use crate::hami::{self, Books};
use crate::random::random;

/// Calls between two looks at the clock: at most half of what a thread may launch without asking, so that more than a
/// quarter of the batches have no launch that asks.
const BATCH: u32 = 31;
/// Batches of one round.
const BATCHES: usize = 1_000;
/// Bytes of an allocation.
const BYTES: usize = 4096;
const OUT_OF_MEMORY: i32 = 2;

pub(crate) fn run(what: &str, arguments: &[String]) -> anyhow::Result<()> {
    let number = |at: usize| -> anyhow::Result<u64> {
        arguments.get(at).with_context(|| format!("{what} wants more arguments"))?.parse().context("a number")
    };
    match what {
        "rounds" => {
            if arguments.iter().any(|argument| argument == "pinned") {
                pin()?;
            }
            rounds()
        }
        "first" => first(),
        "start" => start(number(0)?),
        "wait" => {
            let driver = Driver::start_without_context()?;
            println!("ready");
            std::io::stdout().flush()?;
            // All of them wait for the end of the same pipe.
            std::io::stdin().read_to_end(&mut Vec::new())?;
            timed(|| driver.total().map_err(|code| anyhow::anyhow!("cuDeviceTotalMem: {code}")))?;
            loop {
                std::thread::park();
            }
        }
        "race" => race(number(0)?, number(1)?, number(2)?),
        other => bail!("no tenant does {other:?}"),
    }
}

/// Keeps this process on the last of the processors it may use: the first one has more interrupts to handle.
fn pin() -> anyhow::Result<()> {
    let may = sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| may.is_set(*cpu)).context("no processor")?;
    let mut only = CpuSet::new();
    only.set(last);
    Ok(sched_setaffinity(None, &only)?)
}

/// Does what each line of the input says, and answers with a line of numbers.
fn rounds() -> anyhow::Result<()> {
    let driver = Driver::start()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let summary = match words[..] {
            ["launch", threads] => launches(&driver, threads.parse()?, || {})?,
            ["hami-launch", threads] => {
                launches(&driver, threads.parse()?, || hami::before_launch(black_box([64, 1, 1])))?
            }
            ["alloc", live] => {
                allocations(live.parse()?, BATCHES, || driver.alloc(BYTES), |address| driver.free(address))?
            }
            ["alloc-older"] => older(&driver)?,
            ["hami-alloc", live] => {
                let (live, books) = (live.parse()?, Books::default());
                let alloc = || books.alloc(BYTES as u64, 8 << 30, || driver.alloc(BYTES));
                let free = |address| books.free(address, || driver.free(address));
                let batches = if live > 1_000 { 3 } else { BATCHES };
                allocations(live, batches, alloc, free)?
            }
            ["info"] => summary(vec![batches(BATCHES, || {
                black_box(driver.info());
            })]),
            _ => bail!("no round is called {line:?}"),
        };
        let Summary { quartile, median, mean } = summary;
        println!("{quartile} {median} {mean}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Nanoseconds per call, by batch.
fn batches(count: usize, mut call: impl FnMut()) -> Vec<f64> {
    let one = |_| {
        let begun = Instant::now();
        (0..BATCH).for_each(|_| call());
        begun.elapsed().as_nanos() as f64 / f64::from(BATCH)
    };
    (0..count).map(one).collect()
}

/// Of all threads' batches.
struct Summary {
    /// The lower one.
    quartile: f64,
    median: f64,
    mean: f64,
}

fn summary(threads: Vec<Vec<f64>>) -> Summary {
    let mut all: Vec<f64> = threads.into_iter().flatten().collect();
    all.sort_by(f64::total_cmp);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    Summary { quartile: all[all.len() / 4], median: all[all.len() / 2], mean }
}

fn launches(driver: &Driver, threads: usize, before: impl Fn() + Sync) -> anyhow::Result<Summary> {
    let barrier = Barrier::new(threads);
    let one = || {
        driver.enter()?;
        barrier.wait();
        let none = std::ptr::null_mut();
        Ok(batches(BATCHES, || {
            before();
            // SAFETY: the driver without time looks at none of the arguments.
            black_box(unsafe { (driver.launch)(0x1234, 64, 1, 1, 256, 1, 1, 0, 0, none, none) });
        }))
    };
    let all: anyhow::Result<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    });
    all.map(summary)
}

/// Pairs of an allocation and its free, beside so many that stay.
fn allocations(
    live: usize,
    count: usize,
    alloc: impl Fn() -> Result<u64, i32>,
    free: impl Fn(u64) -> i32,
) -> anyhow::Result<Summary> {
    let one = |_| alloc().map_err(|code| anyhow::anyhow!("cuMemAlloc: {code}"));
    let kept: anyhow::Result<Vec<u64>> = (0..live).map(one).collect();
    let kept = kept?;
    let all = batches(count, || {
        if let Ok(address) = alloc() {
            black_box(free(address));
        }
    });
    // The oldest first, which a list finds at once.
    for address in kept {
        ensure!(free(address) == 0, "cuMemFree fails");
    }
    Ok(summary(vec![all]))
}

/// Pairs of an allocation and the free of the one before it.
fn older(driver: &Driver) -> anyhow::Result<Summary> {
    let mut before = driver.alloc(BYTES).map_err(|code| anyhow::anyhow!("cuMemAlloc: {code}"))?;
    let all = batches(BATCHES, || {
        if let Ok(address) = driver.alloc(BYTES) {
            black_box(driver.free(before));
            before = address;
        }
    });
    ensure!(driver.free(before) == 0, "cuMemFree fails");
    Ok(summary(vec![all]))
}

/// Nanoseconds in which this thread could have run and others did.
fn delayed() -> anyhow::Result<u64> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("no statistics of the scheduler")?;
    text.split_whitespace().nth(1).context("a delay")?.parse().context("a number")
}

/// Says how many nanoseconds something took, without those in which it waited for a processor.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (delay, begun) = (delayed()?, Instant::now());
    let done = work()?;
    let took = begun.elapsed().as_nanos() as u64;
    println!("{}", took.saturating_sub(delayed()? - delay));
    std::io::stdout().flush()?;
    Ok(done)
}

/// Loads the driver, makes a context and allocates.
fn first() -> anyhow::Result<()> {
    let load = || {
        let driver = Driver::start()?;
        driver.alloc(BYTES).map_err(|code| anyhow::anyhow!("cuMemAlloc: {code}"))?;
        Ok(driver)
    };
    load_needed()?;
    timed(load).map(std::mem::forget)
}

/// Starts so many processes that ask for the first thing of their share at once; says what each of them said, in the order
/// in which they were done.
fn start(count: u64) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let (begin, go) = std::io::pipe()?;
    let (mut told, tell) = std::io::pipe()?;
    let mut children = Vec::new();
    for _ in 0..count {
        let mut command = Command::new(&own);
        command.args(["tenant", "wait"]).stdin(begin.try_clone()?).stdout(tell.try_clone()?);
        children.push(command.stderr(Stdio::inherit()).spawn()?);
    }
    drop((begin, tell));
    let mut lines = |count: u64| {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while text.iter().filter(|byte| **byte == b'\n').count() < count as usize {
            let read = told.read(&mut buffer)?;
            ensure!(read > 0, "some processes ended early");
            text.extend_from_slice(&buffer[..read]);
        }
        Ok(text)
    };
    lines(count)?;
    // Until the last of them is asleep at the pipe.
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(go);
    let text = lines(count)?;
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    std::io::stdout().write_all(&text)?;
    Ok(())
}

/// Allocates and frees mixed sizes at random, and ends with nothing.
fn race(operations: u64, seed: u64, limit: u64) -> anyhow::Result<()> {
    let driver = Driver::start()?;
    let mut random = random(seed);
    let mut live = Vec::new();
    for _ in 0..operations {
        if random(2) == 0 || live.is_empty() {
            match driver.alloc(1 + random(limit / 6) as usize) {
                Ok(address) => live.push(address),
                Err(OUT_OF_MEMORY) => {}
                Err(code) => bail!("cuMemAlloc: {code}"),
            }
        } else {
            let address = live.swap_remove(random(live.len() as u64) as usize);
            ensure!(driver.free(address) == 0, "cuMemFree fails");
        }
    }
    live.into_iter().try_for_each(|address| {
        ensure!(driver.free(address) == 0, "cuMemFree fails");
        Ok(())
    })
}
