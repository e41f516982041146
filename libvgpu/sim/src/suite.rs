//! The scenes by which the controller is judged, and what is asked of it in them.

use vgpu_core::compute::{Enforcement, Priority, Terms};

use crate::measure::{Record, percentile};
use crate::pattern::{Pattern, SYNCHRONISING};
use crate::world::{Change, Control, Scene, TenantSpec};
use crate::{MS, Nanos, SECOND, US};

/// The first part of every run is not judged.
pub const WARM_UP: Nanos = 2 * SECOND;
/// Percent of the GPU a [`SYNCHRONISING`] program reaches alone without limits: 100 of 128 us.
pub const SYNCHRONISING_NATIVE: f64 = 78.1;
/// Kernel lengths by name.
pub const LENGTHS: [(&str, Nanos); 5] =
    [("10us", 10 * US), ("100us", 100 * US), ("1ms", MS), ("10ms", 10 * MS), ("100ms", 100 * MS)];
/// Caps of two contending tenants.
pub const CAPS: [(u32, u32); 3] = [(30, 70), (50, 50), (10, 90)];

/// A share with a cap.
pub fn hard(cores: u32, programs: &[Pattern]) -> TenantSpec {
    tenant(cores, Enforcement::Hard, Priority::Normal, programs)
}

/// A share with a guarantee.
pub fn elastic(cores: u32, programs: &[Pattern]) -> TenantSpec {
    tenant(cores, Enforcement::Elastic, Priority::Normal, programs)
}

/// A share.
pub fn tenant(cores: u32, enforcement: Enforcement, priority: Priority, programs: &[Pattern]) -> TenantSpec {
    let terms = Terms { cores, enforcement, priority };
    TenantSpec { terms, oversubscribed: false, programs: programs.to_vec() }
}

/// The same share, whose time others may have been promised too.
pub fn oversubscribed(of: TenantSpec) -> TenantSpec {
    TenantSpec { oversubscribed: true, ..of }
}

/// What came of a tenant, and what it was entitled to, in percent of the GPU.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// Of the run.
    pub mean: f64,
    /// What it was entitled to.
    pub want: f64,
    /// Its cap.
    pub cap: f64,
    /// Mean distance from it over windows of a second.
    pub error: f64,
}

impl Judged {
    fn of(record: &Record, tenant: usize, cap: f64, want: f64) -> Self {
        Self { mean: record.mean(tenant, WARM_UP), want, cap, error: record.error(tenant, WARM_UP, want) }
    }

    /// Distance of the run from what was owed.
    pub fn mean_error(&self) -> f64 {
        (self.mean - self.want).abs()
    }

    /// By how much it got more than its cap.
    pub fn over(&self) -> f64 {
        self.mean - self.cap
    }
}

/// A capped tenant alone. Long kernels are run for longer: a second is too short to judge them.
pub fn alone(control: Control, pattern: &Pattern, cap: u32, seed: u64) -> Judged {
    let mut scene = Scene::new(control, vec![hard(cap, std::slice::from_ref(pattern))]);
    scene.seed = seed;
    if matches!(pattern, Pattern::Saturating(length) if *length >= 100 * MS) {
        scene.length = WARM_UP + 60 * SECOND;
    }
    let native = if *pattern == SYNCHRONISING { SYNCHRONISING_NATIVE } else { 100.0 };
    Judged::of(&scene.play(), 0, cap.into(), native.min(cap.into()))
}

/// The pairs of programs that contend, by name.
pub fn pairs() -> [(&'static str, Pattern, Pattern); 7] {
    let short = || Pattern::Saturating(100 * US);
    let long = || Pattern::Saturating(10 * MS);
    [
        ("100us beside 100us", short(), short()),
        ("100us beside 10ms", short(), long()),
        ("10ms beside 100us", long(), short()),
        ("synchronising beside 100us", SYNCHRONISING, short()),
        ("100us beside synchronising", short(), SYNCHRONISING),
        ("mixed beside mixed", Pattern::Mix, Pattern::Mix),
        ("two lengths beside 1ms", Pattern::Bimodal(50 * US, 20 * MS), Pattern::Saturating(MS)),
    ]
}

/// Two capped tenants. A program that waits for each kernel is owed its cap of what it reaches alone.
pub fn contending(scene: &Scene) -> ([Judged; 2], f64) {
    let record = scene.play();
    let judge = |index: usize| {
        let spec = &scene.tenants[index];
        let cap = f64::from(spec.terms.cores);
        let native = if spec.programs[0] == SYNCHRONISING { SYNCHRONISING_NATIVE } else { 100.0 };
        Judged::of(&record, index, cap, cap * native / 100.0)
    };
    ([judge(0), judge(1)], record.lost(WARM_UP))
}

/// Two capped tenants with a program each.
pub fn pair(control: Control, caps: (u32, u32), first: &Pattern, second: &Pattern, seed: u64) -> Scene {
    let first = hard(caps.0, std::slice::from_ref(first));
    let second = hard(caps.1, std::slice::from_ref(second));
    Scene { seed, ..Scene::new(control, vec![first, second]) }
}

/// Shares of four equal tenants of very different programs.
pub fn four(control: Control, seed: u64) -> Vec<f64> {
    let burst = Pattern::Bursts { kernel: MS, count: 30, think: 10 * MS };
    let programs: [&[Pattern]; 4] = [
        &[Pattern::Saturating(100 * US)],
        &[Pattern::Saturating(10 * MS)],
        &[Pattern::Mix, Pattern::Mix],
        &[burst.clone(), burst.clone(), burst.clone()],
    ];
    let tenants = programs.iter().map(|p| hard(25, p)).collect();
    let record = Scene { seed, ..Scene::new(control, tenants) }.play();
    (0..4).map(|t| record.mean(t, WARM_UP)).collect()
}

/// Milliseconds from a change of 30/70 to 60/40 until both tenants are within a tenth of their new caps over 100 ms;
/// `None`: not within two seconds.
pub fn limit_change(control: Control, seed: u64) -> Option<u64> {
    let mut scene =
        pair(control, (30, 70), &Pattern::Saturating(100 * US), &Pattern::Saturating(100 * US), seed);
    let at = 6 * SECOND;
    for (tenant, cores) in [(0, 60), (1, 40)] {
        scene.changes.push((at, Change::Terms(tenant, Terms { cores, ..scene.tenants[tenant].terms })));
    }
    let record = scene.play();
    let settled = |delay: &u64| {
        let from = at + delay * MS;
        let near =
            |tenant, want: f64| (record.share(tenant, from, from + 100 * MS) - want).abs() <= want / 10.0;
        near(0, 60.0) && near(1, 40.0)
    };
    (0..2_000).step_by(10).find(settled)
}

/// p99 of requests of 5 ms with high priority, in nanoseconds, and the share of the low one beside them.
pub fn high(control: Control, low: Option<Nanos>, seed: u64) -> (Nanos, f64) {
    let requests = Pattern::Requests { kernel: 5 * MS, every: 20 * MS };
    let mut tenants = vec![tenant(50, Enforcement::Elastic, Priority::High, &[requests])];
    if let Some(kernel) = low {
        tenants.push(tenant(50, Enforcement::Elastic, Priority::Low, &[Pattern::Saturating(kernel)]));
    }
    let record = Scene { seed, length: 32 * SECOND, ..Scene::new(control, tenants) }.play();
    let rest = if low.is_some() { record.mean(1, WARM_UP) } else { 0.0 };
    (percentile(&record.latencies(0, WARM_UP), 99), rest)
}
