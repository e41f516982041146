//! What tenants do: this test program, started once more with `tenant <what> ...`.

use std::io::Write;

use anyhow::{bail, ensure};

use crate::bench::MIB;
use crate::cuda::{Cuda, OUT_OF_MEMORY};
use crate::random::random;

/// Says that it is ready, for those who wait for a line.
fn ready() -> anyhow::Result<()> {
    println!("ready");
    Ok(std::io::stdout().flush()?)
}

fn hold() -> anyhow::Result<()> {
    ready()?;
    loop {
        std::thread::park();
    }
}

pub(crate) fn run(what: &str, arguments: &[String]) -> anyhow::Result<()> {
    let number = |at: usize| -> anyhow::Result<u64> {
        Ok(arguments.get(at).map(|a| a.parse()).transpose()?.unwrap_or_default())
    };
    match what {
        "hold" => {
            let cuda = Cuda::start()?;
            cuda.alloc(number(0)? * MIB).map_err(|code| anyhow::anyhow!("{code}"))?;
            hold()
        }
        "race" => race(number(0)?, number(1)?, number(2)?),
        "change" => change(),
        "capture" => crate::capture::tenant(),
        "threads" => crate::capture::threads(),
        "families" => crate::families::tenant(),
        "movable" => crate::movable::tenant(),
        "handed" => crate::handed::tenant(),
        "ipc-owner" => crate::movable::owner(),
        "ipc-opener" => crate::movable::opener(arguments),
        "vfork" => crate::movable::hold_after_vfork(),
        "nvml" => crate::nvml::tenant(),
        "obey" => crate::program::obey(arguments),
        "close-all" => {
            let cuda = Cuda::start()?;
            ensure!(cuda.alloc(100 * MIB).is_ok());
            ready()?;
            (0..1024).for_each(|fd| {
                // SAFETY: this program needs none of them any more.
                let _ = unsafe { libc::close(fd) };
            });
            // Numbers that were the library's are other files now.
            let _others: Vec<_> = (0..16).map(|_| std::fs::File::open("/dev/null")).collect();
            std::thread::sleep(std::time::Duration::from_secs(1));
            ensure!(cuda.alloc(10 * MIB).is_ok() && cuda.info().is_ok());
            loop {
                std::thread::park();
            }
        }
        "fork" => {
            let cuda = Cuda::start()?;
            ensure!(cuda.alloc(100 * MIB).is_ok());
            // SAFETY: the child calls nothing but pause.
            if unsafe { libc::fork() } == 0 {
                loop {
                    // SAFETY: no conditions.
                    unsafe { libc::pause() };
                }
            }
            hold()
        }
        "fork-first" => {
            // SAFETY: one thread, which has locked nothing.
            let child = unsafe { libc::fork() };
            let cuda = Cuda::start()?;
            ensure!(cuda.alloc(if child == 0 { 30 } else { 20 } * MIB).is_ok());
            hold()
        }
        "spawn" => {
            let cuda = Cuda::start()?;
            ensure!(cuda.alloc(100 * MIB).is_ok());
            // The standard library takes posix_spawn, which is a vfork.
            let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
            ready()?;
            child.wait()?;
            Ok(())
        }
        other => bail!("no tenant does {other:?}"),
    }
}

/// Allocates and frees mixed sizes at random, and ends with nothing.
fn race(operations: u64, seed: u64, limit: u64) -> anyhow::Result<()> {
    let cuda = Cuda::start()?;
    let mut random = random(seed);
    let mut live = Vec::new();
    let mut refused = 0u64;
    ready()?;
    for _ in 0..operations {
        if random(2) == 0 || live.is_empty() {
            match cuda.alloc(1 + random(limit / 6)) {
                Ok(address) => live.push(address),
                Err(OUT_OF_MEMORY) => refused += 1,
                Err(code) => bail!("cuMemAlloc: {code}"),
            }
        } else {
            let address = live.swap_remove(random(live.len() as u64) as usize);
            cuda.free(address).map_err(|code| anyhow::anyhow!("cuMemFree: {code}"))?;
        }
    }
    for address in live {
        cuda.free(address).map_err(|code| anyhow::anyhow!("cuMemFree: {code}"))?;
    }
    println!("{refused}");
    Ok(())
}

/// Stops itself before an allocation and before its free, for the one who kills it in between.
fn change() -> anyhow::Result<()> {
    let cuda = Cuda::start()?;
    let warm = cuda.alloc(MIB).map_err(|code| anyhow::anyhow!("{code}"))?;
    ensure!(cuda.free(warm).is_ok() && cuda.alloc(3 * MIB).is_ok());
    let stop = || rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    stop()?;
    let address = cuda.alloc(5 * MIB).map_err(|code| anyhow::anyhow!("{code}"))?;
    ensure!(cuda.free(address).is_ok());
    stop()?;
    Ok(())
}
