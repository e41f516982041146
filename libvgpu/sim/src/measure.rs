//! What came of a scene, by what the GPU really did.

use crate::gpu::WINDOW;
use crate::{Nanos, SECOND};

/// A played scene.
#[derive(Debug)]
pub struct Record {
    /// Processes of each tenant.
    pub(crate) tenants: Vec<Vec<usize>>,
    pub(crate) length: Nanos,
    pub(crate) busy: Vec<Vec<Nanos>>,
    pub(crate) latencies: Vec<Vec<(Nanos, Nanos)>>,
    pub(crate) delays: Vec<Vec<(Nanos, Nanos)>>,
    /// What each tenant was charged; nothing by other methods.
    pub charged: Vec<Nanos>,
}

impl Record {
    /// Percent of [from, to) in which a tenant had the GPU. Whole windows of [`WINDOW`].
    pub fn share(&self, tenant: usize, from: Nanos, to: Nanos) -> f64 {
        let windows = (from / WINDOW) as usize..(to / WINDOW) as usize;
        let busy = |p: &usize| -> Nanos { windows.clone().filter_map(|w| self.busy[*p].get(w)).sum() };
        let sum: Nanos = self.tenants[tenant].iter().map(busy).sum();
        sum as f64 * 100.0 / (to - from) as f64
    }

    /// Percent of the run but its first part.
    pub fn mean(&self, tenant: usize, from: Nanos) -> f64 {
        self.share(tenant, from, self.length)
    }

    /// Mean distance from `want` percent over windows of a second.
    pub fn error(&self, tenant: usize, from: Nanos, want: f64) -> f64 {
        let windows = (self.length - from) / SECOND;
        let error = |w: u64| (self.share(tenant, from + w * SECOND, from + (w + 1) * SECOND) - want).abs();
        (0..windows).map(error).sum::<f64>() / windows as f64
    }

    /// Percent of the run but its first part in which nobody's kernel ran.
    pub fn lost(&self, from: Nanos) -> f64 {
        100.0 - (0..self.tenants.len()).map(|t| self.mean(t, from)).sum::<f64>()
    }

    /// How long the requests of a tenant took, in order of length.
    pub fn latencies(&self, tenant: usize, from: Nanos) -> Vec<Nanos> {
        let of = |p: &usize| self.latencies[*p].iter().filter(|(at, _)| *at >= from).map(|(_, took)| *took);
        let mut all: Vec<Nanos> = self.tenants[tenant].iter().flat_map(of).collect();
        all.sort_unstable();
        all
    }

    /// The longest a process of a tenant has waited to launch, of the launches made in [from, to).
    pub fn longest_delay(&self, tenant: usize, from: Nanos, to: Nanos) -> Nanos {
        let of = |p: &usize| {
            let inside = self.delays[*p].iter().filter(|(at, _)| (from..to).contains(at));
            inside.map(|(_, waited)| *waited).max().unwrap_or(0)
        };
        self.tenants[tenant].iter().map(of).max().unwrap_or(0)
    }
}

/// Of sorted values, the one that so many percent do not exceed.
pub fn percentile(sorted: &[Nanos], percent: usize) -> Nanos {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(0)
}

/// Jain's index of fairness: 1 if all are equal, 1/n if one has all.
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|s| s * s).sum();
    sum * sum / (shares.len() as f64 * squares)
}
