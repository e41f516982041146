//! A simulated GPU that contexts share by time slices, with tenants on it: the compute controller of `vgpu-core` can be
//! judged by what it does to shares, latency and idle time, in seconds and the same on every machine.
//!
//! Tenants run the very code a process runs, [`vgpu_core::compute`]; only events, clocks and wake-ups are simulated. A run
//! is decided by its [`world::Scene`] and seed. What each tenant really got is known to the GPU alone and measured there.
//!
//! Not modelled: several streams and kernels that overlap in one context, copies, clocks of GPU and host that drift apart,
//! processes held back by CPU limits.

pub mod gpu;
pub mod hami;
pub mod measure;
pub mod pattern;
mod process;
pub mod suite;
pub mod world;

/// Nanoseconds.
pub type Nanos = u64;
/// In nanoseconds.
pub const US: Nanos = 1_000;
/// In nanoseconds.
pub const MS: Nanos = 1_000_000;
/// In nanoseconds.
pub const SECOND: Nanos = 1_000_000_000;

/// Small, fast, and the same everywhere: SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence by seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `n`.
    pub const fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A waiting time of a Poisson process.
    pub fn exponential(&mut self, mean: Nanos) -> Nanos {
        (-(1.0 - self.unit()).ln() * mean as f64) as Nanos
    }
}
