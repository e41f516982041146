//! A scene, played: tenants on one GPU under one way of control.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use vgpu_core::compute::Terms;
use vgpu_core::compute::arbiter::{Arbiter, Id};
use vgpu_core::compute::gate::{Gate, Share};
use vgpu_core::compute::view::View;
use vgpu_core::compute::words::{Lease, Tenant, Turn};

use crate::gpu::{Gpu, Slicing};
use crate::hami::{self, Hami};
use crate::measure::Record;
use crate::pattern::{Pattern, Program};
use crate::process::{Limiter, Process, Then};
use crate::{MS, Nanos, Random, SECOND, US};

/// Who limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nobody: the GPU's own slices.
    Nothing,
    /// HAMi-core's method.
    Hami,
    /// `vgpu-core`, with an arbiter on the node.
    Leases,
    /// `vgpu-core` without an arbiter.
    BucketAlone,
}

/// One share and the programs in it, each a process.
#[derive(Debug, Clone)]
pub struct TenantSpec {
    /// What it is entitled to.
    pub terms: Terms,
    /// Others may have been promised the same time.
    pub oversubscribed: bool,
    /// Its programs.
    pub programs: Vec<Pattern>,
}

/// Something that happens to a scene.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// A tenant's terms are changed.
    Terms(usize, Terms),
    /// A process is killed, by its number over all tenants.
    Kill(usize),
    /// The arbiter ends.
    StopArbiter,
}

/// What is played.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Who limits.
    pub control: Control,
    /// On whom.
    pub tenants: Vec<TenantSpec>,
    /// How the GPU shares itself.
    pub slicing: Slicing,
    /// How long.
    pub length: Nanos,
    /// From a tenant's word to its neighbour's launch, by way of the node: half to the arbiter, half from it.
    pub hand_over: Nanos,
    /// What happens when.
    pub changes: Vec<(Nanos, Change)>,
    /// Decides all that is random.
    pub seed: u64,
}

impl Scene {
    /// Twelve seconds of these tenants.
    pub fn new(control: Control, tenants: Vec<TenantSpec>) -> Self {
        Self {
            control,
            tenants,
            slicing: Slicing::default(),
            length: 12 * SECOND,
            hand_over: 150 * US,
            changes: Vec::new(),
            seed: 1,
        }
    }

    /// Plays it.
    pub fn play(&self) -> Record {
        let mut world = World::new(self);
        world.play(self);
        Record {
            tenants: (0..self.tenants.len()).map(|t| world.contexts(t)).collect(),
            length: self.length,
            busy: (0..world.processes.len()).map(|p| world.gpu.busy(p).to_vec()).collect(),
            latencies: world.processes.iter().map(|p| p.latencies.clone()).collect(),
            delays: world.processes.iter().map(|p| p.delays.clone()).collect(),
            charged: world.words.iter().map(|w| w.account.charged.load(Ordering::Relaxed)).collect(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Change(usize),
    Arbiter,
    Poll(usize),
    Watch(usize),
    Run(usize, u64),
}

struct World {
    now: Nanos,
    gpu: Gpu,
    processes: Vec<Process>,
    terms: Vec<Terms>,
    oversubscribed: Vec<bool>,
    words: Vec<Tenant>,
    leases: Vec<Lease>,
    arbiter: Option<Arbiter>,
    arbiter_at: Nanos,
    hand_over: Nanos,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    sequence: u64,
}

impl World {
    fn new(scene: &Scene) -> Self {
        let mut random = Random::new(scene.seed);
        let mut processes = Vec::new();
        for (tenant, spec) in scene.tenants.iter().enumerate() {
            for pattern in &spec.programs {
                let slot = processes.len();
                let limiter = match scene.control {
                    Control::Nothing => Limiter::Nothing,
                    Control::Hami => Limiter::Hami(Hami::new(spec.terms.cores)),
                    Control::Leases | Control::BucketAlone => {
                        Limiter::Gate(Box::new(Gate::new(slot as u32)), Default::default())
                    }
                };
                let program = Program::new(pattern.clone(), random.next());
                processes.push(Process::new(tenant, slot, program, limiter));
            }
        }
        let count = scene.tenants.len();
        Self {
            now: 0,
            gpu: Gpu::new(scene.slicing, processes.len()),
            processes,
            terms: scene.tenants.iter().map(|t| t.terms).collect(),
            oversubscribed: scene.tenants.iter().map(|t| t.oversubscribed).collect(),
            words: (0..count).map(|_| Tenant::default()).collect(),
            leases: (0..count).map(|_| Lease::default()).collect(),
            arbiter: (scene.control == Control::Leases).then(Arbiter::default),
            arbiter_at: Nanos::MAX,
            hand_over: scene.hand_over,
            events: BinaryHeap::new(),
            sequence: 0,
        }
    }

    fn contexts(&self, tenant: usize) -> Vec<usize> {
        (0..self.processes.len()).filter(|p| self.processes[*p].tenant == tenant).collect()
    }

    fn at(&mut self, when: Nanos, event: Event) {
        if when < Nanos::MAX {
            self.sequence += 1;
            self.events.push(Reverse((when, self.sequence, event)));
        }
    }

    fn play(&mut self, scene: &Scene) {
        // A clock that starts at 0 would be a heartbeat for ever young.
        for process in 0..self.processes.len() {
            self.at(process as Nanos * 37 * US, Event::Run(process, 0));
            if scene.control == Control::Hami {
                self.at((process as Nanos + 1) * 13 * MS, Event::Watch(process));
            }
        }
        for (index, (when, _)) in scene.changes.iter().enumerate() {
            self.at(*when, Event::Change(index));
        }
        self.ring();
        while self.now < scene.length {
            let next = self.events.peek().map_or(Nanos::MAX, |e| e.0.0);
            let gpu = self.gpu.next();
            if gpu <= next {
                self.now = gpu.min(scene.length);
                if let Some(context) = self.gpu.step(self.now) {
                    let when = self.processes[context].told(self.now);
                    self.appoint(context, when);
                }
                continue;
            }
            if next > scene.length {
                self.gpu.step(scene.length);
                return;
            }
            let Some(Reverse((when, _, event))) = self.events.pop() else { return };
            self.gpu.step(when);
            self.now = when;
            self.handle(event, scene);
        }
    }

    fn handle(&mut self, event: Event, scene: &Scene) {
        match event {
            Event::Run(process, appointment) if self.processes[process].appointment == appointment => {
                self.run(process);
            }
            Event::Run(..) => {}
            Event::Poll(process) => self.poll(process),
            Event::Watch(process) => self.watch(process),
            Event::Arbiter if self.arbiter_at == self.now => self.arbitrate(),
            Event::Arbiter => {}
            Event::Change(index) => match scene.changes[index].1 {
                Change::Terms(tenant, terms) => self.terms[tenant] = terms,
                Change::StopArbiter => self.arbiter = None,
                Change::Kill(process) => {
                    self.gpu.kill(process);
                    self.processes[process].alive = false;
                }
            },
        }
    }

    /// The process goes on then, whatever it had planned.
    fn appoint(&mut self, process: usize, when: Nanos) {
        self.processes[process].appointment += 1;
        let appointment = self.processes[process].appointment;
        self.at(when, Event::Run(process, appointment));
    }

    fn run(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if !process.alive {
            return;
        }
        let tenant = process.tenant;
        let share =
            Share { terms: self.terms[tenant], tenant: &self.words[tenant], lease: &self.leases[tenant] };
        let then = process.run(self.now, &mut self.gpu, &share);
        process.waits_for_turn = matches!(then, Then::AtOrTurn(_));
        process.appointment += 1;
        let appointment = process.appointment;
        match then {
            Then::At(when) | Then::AtOrTurn(when) => self.at(when, Event::Run(index, appointment)),
            Then::Told => {}
        }
        self.after(index);
    }

    fn poll(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.polled = false;
        if !process.alive {
            return;
        }
        let tenant = process.tenant;
        let share =
            Share { terms: self.terms[tenant], tenant: &self.words[tenant], lease: &self.leases[tenant] };
        process.poll(self.now, &mut self.gpu, &share);
        self.after(index);
    }

    /// Keeps the timer that polls going, and tells the arbiter what there is to tell.
    fn after(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let tenant = process.tenant;
        let share =
            Share { terms: self.terms[tenant], tenant: &self.words[tenant], lease: &self.leases[tenant] };
        let poll = process.poll_after(self.now, &share).filter(|_| !process.polled);
        process.polled |= poll.is_some();
        if process.take_ring() {
            self.ring();
        }
        if let Some(when) = poll {
            self.at(when, Event::Poll(index));
        }
    }

    fn ring(&mut self) {
        self.arbiter_by(self.now + self.hand_over / 2);
    }

    fn arbiter_by(&mut self, when: Nanos) {
        if when < self.arbiter_at && self.arbiter.is_some() {
            self.arbiter_at = when;
            self.at(when, Event::Arbiter);
        }
    }

    fn arbitrate(&mut self) {
        self.arbiter_at = Nanos::MAX;
        for words in &self.words {
            let dead: Vec<u32> = words.present().filter(|s| !self.processes[*s as usize].alive).collect();
            dead.into_iter().for_each(|slot| words.forget(slot));
        }
        let said = self.words.iter().zip(&self.terms).map(|(words, terms)| View::of(words, *terms, self.now));
        let known = said.zip(&self.oversubscribed).map(|(view, of)| View { oversubscribed: *of, ..view });
        let views: Vec<(Id, View)> = (0..).zip(known).collect();
        let Some(arbiter) = &mut self.arbiter else { return };
        let (notices, next) = arbiter.evaluate(self.now, &views);
        let mut woken = Vec::new();
        for notice in notices {
            let lease = &self.leases[notice.id as usize];
            let changed = lease.publish(self.now, notice.turn, notice.outranked, notice.neighbours);
            if changed && notice.turn != Turn::Denied {
                woken.push(notice.id as usize);
            }
        }
        for process in 0..self.processes.len() {
            let waits = self.processes[process].waits_for_turn;
            if waits && woken.contains(&self.processes[process].tenant) {
                self.appoint(process, self.now + self.hand_over / 2);
            }
        }
        self.arbiter_by(next);
    }

    fn watch(&mut self, index: usize) {
        let used = self.utilisation(self.processes[index].tenant);
        if let Limiter::Hami(hami) = &mut self.processes[index].limiter {
            hami.watch(used);
        }
        self.at(self.now + hami::WATCH, Event::Watch(index));
    }

    /// Percent as NVML gives it: the mean of a third of a second, a second late, per process and whole.
    fn utilisation(&self, tenant: usize) -> i64 {
        const PERIOD: Nanos = 330 * MS;
        let end = self.now.saturating_sub(SECOND) / PERIOD * PERIOD;
        let Some(begin) = end.checked_sub(PERIOD) else { return 0 };
        let window = |at: Nanos| (at / crate::gpu::WINDOW) as usize;
        let percent = |p: usize| {
            let busy: Nanos = (window(begin)..window(end)).filter_map(|w| self.gpu.busy(p).get(w)).sum();
            (busy * 100 / PERIOD) as i64
        };
        self.contexts(tenant).into_iter().map(percent).sum()
    }
}
