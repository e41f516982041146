//! Memory that threads of a process hand to each other: each allocates, frees some of its own and passes on the rest.

use std::io::BufRead;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{bail, ensure};
use vgpu_share::Share;

use crate::bench::{Bench, MIB};
use crate::cuda::{Cuda, OUT_OF_MEMORY};
use crate::random::random;
use crate::{Tenant, agrees};

const LIMIT: u64 = 64 * MIB;
const THREADS: usize = 4;
const OPERATIONS: u64 = 5_000;
/// What stays, so that there is something to compare.
const KEPT: u64 = 3 * MIB;

pub(crate) fn tenant() -> anyhow::Result<()> {
    let cuda = Cuda::start()?;
    ensure!(cuda.alloc(KEPT).is_ok());
    let (give, take): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel()).unzip();
    std::thread::scope(|scope| {
        let threads: Vec<_> = take
            .into_iter()
            .enumerate()
            .map(|(n, from)| {
                let (cuda, to) = (&cuda, give[(n + 1) % THREADS].clone());
                scope.spawn(move || thread(cuda, n as u64 + 1, &from, to))
            })
            .collect();
        drop(give);
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn thread(cuda: &Cuda, seed: u64, from: &Receiver<u64>, to: Sender<u64>) -> anyhow::Result<()> {
    cuda.enter()?;
    let mut random = random(seed);
    let free = |address| cuda.free(address).map_err(|code| anyhow::anyhow!("cuMemFree: {code}"));
    let mut own = Vec::new();
    for _ in 0..OPERATIONS {
        match random(4) {
            0 | 1 => match cuda.alloc(1 + random(LIMIT / 10)) {
                Ok(address) => own.push(address),
                Err(OUT_OF_MEMORY) => own.drain(..).try_for_each(free)?,
                Err(code) => bail!("cuMemAlloc: {code}"),
            },
            2 => own.pop().map_or(Ok(()), free)?,
            _ => own.pop().map_or(Ok(()), |address| to.send(address))?,
        }
        from.try_iter().try_for_each(free)?;
    }
    own.into_iter().try_for_each(free)?;
    // Ends when the one before has let go of its end.
    drop(to);
    from.iter().try_for_each(free)
}

pub(crate) fn agree(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", LIMIT, 0)?)?;
    let mut tenant = Tenant::start_talking(bench, &["handed"])?;
    let said = tenant.line()?;
    ensure!(said == "ready", "it said {said:?}");
    agrees(bench, &share, KEPT)?;
    let peak = bench.peak()?;
    ensure!(peak <= LIMIT && peak > LIMIT / 2, "at most {peak} of {LIMIT} bytes held");
    tenant.say("end")
}
