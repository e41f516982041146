//! What measured processes do. Each is this program started once more with `tenant <what>`, under the driver that its
//! environment names.

use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::driver::Driver;

/// Calls between two looks at the clock: fewer than a thread may launch without asking, so that most batches have none
/// that asks.
const BATCH: u32 = 16;
/// Batches of one round.
const BATCHES: usize = 2_000;
/// Bytes of an allocation.
const BYTES: usize = 4096;
const OUT_OF_MEMORY: i32 = 2;

pub(crate) fn run(what: &str, arguments: &[String]) -> anyhow::Result<()> {
    let number = |at: usize| -> anyhow::Result<u64> {
        arguments.get(at).with_context(|| format!("{what} wants more arguments"))?.parse().context("a number")
    };
    match what {
        "rounds" => rounds(),
        "first" => first(Instant::now()),
        "start" => start(number(0)?),
        "wait" => {
            // All of them wait for the end of the same pipe.
            std::io::stdin().read_to_end(&mut Vec::new())?;
            first(Instant::now())?;
            loop {
                std::thread::park();
            }
        }
        "race" => race(number(0)?, number(1)?, number(2)?),
        other => bail!("no tenant does {other:?}"),
    }
}

/// Does what each line of the input says, and answers with a line of numbers.
fn rounds() -> anyhow::Result<()> {
    let driver = Driver::start()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (median, mean) = match words[..] {
            ["launch", threads] => launches(&driver, threads.parse()?)?,
            ["alloc", live] => allocations(&driver, live.parse()?)?,
            ["info"] => summary(vec![batches(|| {
                black_box(driver.info());
            })]),
            _ => bail!("no round is called {line:?}"),
        };
        println!("{median} {mean}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Nanoseconds per call, by batch.
fn batches(mut call: impl FnMut()) -> Vec<f64> {
    let one = |_| {
        let begun = Instant::now();
        (0..BATCH).for_each(|_| call());
        begun.elapsed().as_nanos() as f64 / f64::from(BATCH)
    };
    (0..BATCHES).map(one).collect()
}

/// Median and mean of all threads' batches.
fn summary(threads: Vec<Vec<f64>>) -> (f64, f64) {
    let mut all: Vec<f64> = threads.into_iter().flatten().collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all.iter().sum::<f64>() / all.len() as f64)
}

fn launches(driver: &Driver, threads: usize) -> anyhow::Result<(f64, f64)> {
    let barrier = Barrier::new(threads);
    let one = || {
        driver.enter()?;
        barrier.wait();
        let none = std::ptr::null_mut();
        Ok(batches(|| {
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
fn allocations(driver: &Driver, live: usize) -> anyhow::Result<(f64, f64)> {
    let alloc = || driver.alloc(BYTES).map_err(|code| anyhow::anyhow!("cuMemAlloc: {code}"));
    let kept: anyhow::Result<Vec<u64>> = (0..live).map(|_| alloc()).collect();
    let kept = kept?;
    let all = batches(|| {
        if let Ok(address) = driver.alloc(BYTES) {
            black_box(driver.free(address));
        }
    });
    for address in kept {
        ensure!(driver.free(address) == 0, "cuMemFree fails");
    }
    Ok(summary(vec![all]))
}

/// Loads the driver, makes a context and allocates; says how many nanoseconds that took, and when it ended.
fn first(begun: Instant) -> anyhow::Result<()> {
    let driver = Driver::start()?;
    driver.alloc(BYTES).map_err(|code| anyhow::anyhow!("cuMemAlloc: {code}"))?;
    let took = begun.elapsed().as_nanos();
    println!("{took}");
    std::io::stdout().flush()?;
    std::mem::forget(driver);
    Ok(())
}

/// Starts so many processes that begin at once; says what each of them said, in the order in which they ended.
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
    // Until all of them are asleep at the pipe.
    std::thread::sleep(std::time::Duration::from_millis(500));
    drop(go);
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while text.iter().filter(|byte| **byte == b'\n').count() < count as usize {
        let read = told.read(&mut buffer)?;
        ensure!(read > 0, "some processes ended early");
        text.extend_from_slice(&buffer[..read]);
    }
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
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
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
