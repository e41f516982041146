//! Requests of a share beside another that never waits, in virtual time.

use anyhow::Context;
use vgpu_core::compute::{Enforcement, Priority};

use crate::bench::Bench;
use crate::scene::{Scene, Tenant, of, play_on, spin, with};

/// How a share with requests and one with kernels of 100 us fare beside each other.
pub(crate) struct Beside {
    /// Nanoseconds that 99 of 100 requests stay within.
    pub(crate) p99: u64,
    /// Percent of the GPU that the other keeps.
    pub(crate) kept: f64,
}

/// Kernels of 5 ms, every 20.37 ms: no whole number of the other's kernels, so that they come at every moment of its turns.
fn requests<'a>(priority: Priority, program: &'a [&'a str]) -> Tenant<'a> {
    of(with(50, Enforcement::Elastic, priority), program)
}

fn p99(scene: &Scene) -> anyhow::Result<u64> {
    scene.p99.first().copied().flatten().context("requests")
}

/// Makes GPUs in virtual time, of which so many participants are to be waited for.
pub(crate) type Make<'a> = &'a dyn Fn(u32) -> anyhow::Result<Bench>;

/// Nanoseconds that 99 of 100 requests stay within, when nobody else is there.
pub(crate) fn requests_alone(make: Make<'_>, seconds: &str) -> anyhow::Result<u64> {
    let program = spin!("5000", seconds, "--every-micros", "20370");
    p99(&play_on(&make(1)?, &[requests(Priority::High, program)], &[&[]], &[])?)
}

/// The same beside another share.
pub(crate) fn requests_beside(
    make: Make<'_>,
    priority: Priority,
    other: Priority,
    seconds: &str,
) -> anyhow::Result<Beside> {
    let program = spin!("5000", seconds, "--every-micros", "20370");
    let never_waits = spin!("100", seconds);
    let low = of(with(50, Enforcement::Elastic, other), never_waits);
    let scene = play_on(&make(2)?, &[requests(priority, program), low], &[&[]], &[])?;
    Ok(Beside { p99: p99(&scene)?, kept: scene.percent(1)? })
}
