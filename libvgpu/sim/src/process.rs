//! A simulated process: one thread that runs a program, with or without a limiter around its launches.

use std::collections::VecDeque;

use vgpu_core::compute::estimate::Key;
use vgpu_core::compute::gate::{Gate, Share, Verdict};

use crate::gpu::Gpu;
use crate::hami::{self, Hami};
use crate::pattern::{Deed, Program};
use crate::{Nanos, US};

/// Host time of a launch.
const LAUNCH: Nanos = 3 * US;
/// Host time of recording an event.
const RECORD: Nanos = 700;
/// From the end of what a thread waits for until it runs.
const WAKE: Nanos = 8 * US;
/// Kernels a context's queue holds before a launch blocks.
const QUEUE: usize = 1_024;

/// Two markers around an epoch; the second is recorded once the epoch is closed.
type Pair = (u64, Option<u64>);

#[derive(Debug)]
pub(crate) enum Limiter {
    Nothing,
    Gate(Box<Gate>, VecDeque<Pair>),
    Hami(Hami),
}

/// What the process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Next,
    Launch { function: usize, length: Nanos },
    Blocked { function: usize, length: Nanos },
}

/// When a process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    At(Nanos),
    /// Or when its share's turn changes.
    AtOrTurn(Nanos),
    /// When the GPU tells.
    Told,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) tenant: usize,
    pub(crate) context: usize,
    pub(crate) limiter: Limiter,
    program: Program,
    phase: Phase,
    /// Only the latest appointment counts.
    pub(crate) appointment: u64,
    pub(crate) waits_for_turn: bool,
    pub(crate) polled: bool,
    pub(crate) alive: bool,
    pub(crate) latencies: Vec<(Nanos, Nanos)>,
    /// Longest time between wanting to launch and launching, by when it ended.
    pub(crate) delays: Vec<(Nanos, Nanos)>,
    asked: Option<Nanos>,
}

impl Process {
    pub(crate) fn new(tenant: usize, context: usize, program: Program, limiter: Limiter) -> Self {
        Self {
            tenant,
            context,
            limiter,
            program,
            phase: Phase::Next,
            appointment: 0,
            waits_for_turn: false,
            polled: false,
            alive: true,
            latencies: Vec::new(),
            delays: Vec::new(),
            asked: None,
        }
    }

    /// After the GPU has told it that what it waited for has ended.
    pub(crate) fn told(&self, now: Nanos) -> Nanos {
        now + if matches!(self.phase, Phase::Blocked { .. }) { 0 } else { WAKE }
    }

    /// Runs the thread until it has to wait.
    pub(crate) fn run(&mut self, now: Nanos, gpu: &mut Gpu, share: &Share<'_>) -> Then {
        if let Phase::Blocked { function, length } = self.phase {
            self.phase = Phase::Launch { function, length };
        }
        self.poll(now, gpu, share);
        loop {
            if let Phase::Launch { function, length } = self.phase {
                return self.launch(now, function, length, gpu, share);
            }
            match self.program.next(now) {
                Deed::Launch { function, length } => {
                    self.phase = Phase::Launch { function, length };
                    self.asked = Some(now);
                }
                Deed::Wait => {
                    let spent = self.close(gpu, share);
                    if gpu.tell_at(self.context, gpu.queued(self.context)) {
                        return Then::Told;
                    }
                    return Then::At(now + spent + 1);
                }
                Deed::Pause(until) if until > now => return Then::At(until),
                Deed::Pause(_) => {}
                Deed::Answered(came) => self.latencies.push((now, now - came)),
            }
        }
    }

    fn launch(
        &mut self,
        now: Nanos,
        function: usize,
        length: Nanos,
        gpu: &mut Gpu,
        share: &Share<'_>,
    ) -> Then {
        if gpu.depth(self.context) >= QUEUE {
            self.phase = Phase::Blocked { function, length };
            gpu.tell_at(self.context, gpu.queued(self.context) - QUEUE as u64 + 1);
            return Then::Told;
        }
        let mut spent = LAUNCH;
        match &mut self.limiter {
            Limiter::Nothing => gpu.launch(self.context, length),
            Limiter::Hami(hami) => {
                if !hami.draw(length) {
                    return Then::At(now + hami::NAP);
                }
                gpu.launch(self.context, length);
            }
            Limiter::Gate(gate, pairs) => {
                let key = Key { function, grid: [1; 3], block: [1; 3] };
                let verdict = gate.ask(now, share, &key);
                if verdict != Verdict::Launch {
                    if gate.close(share) {
                        end(gpu, self.context, pairs);
                    }
                    return match verdict {
                        Verdict::WaitForTurn(until) => Then::AtOrTurn(until),
                        Verdict::Wait(until) => Then::At(until),
                        Verdict::Launch => Then::At(now),
                    };
                }
                let plan = gate.plan(now, share, &key);
                if plan.end {
                    end(gpu, self.context, pairs);
                    spent += RECORD;
                }
                if plan.start {
                    pairs.push_back((gpu.record(self.context), None));
                    spent += RECORD;
                }
                let ends = gate.launched(now, share, &key);
                gpu.launch(self.context, length);
                if ends {
                    end(gpu, self.context, pairs);
                    spent += RECORD;
                }
            }
        }
        if let Some(asked) = self.asked.take() {
            self.delays.push((now, now - asked));
        }
        self.phase = Phase::Next;
        Then::At(now + spent)
    }

    /// Takes in what has ended. The same by the thread before a launch and by a timer.
    pub(crate) fn poll(&mut self, now: Nanos, gpu: &mut Gpu, share: &Share<'_>) {
        let Limiter::Gate(gate, pairs) = &mut self.limiter else { return };
        while let Some((start, Some(stop))) = pairs.front().copied() {
            let stamps = gpu.stamp(self.context, start).zip(gpu.stamp(self.context, stop));
            let Some((began, ended)) = stamps else { break };
            gpu.forget(self.context, stop);
            pairs.pop_front();
            gate.harvest(now, share, began, ended);
        }
        if gate.close_idle(now, share) {
            end(gpu, self.context, pairs);
        }
        gate.settle(now, share);
    }

    /// Ends the open epoch; gives the host time of it.
    fn close(&mut self, gpu: &mut Gpu, share: &Share<'_>) -> Nanos {
        let Limiter::Gate(gate, pairs) = &mut self.limiter else { return 0 };
        if !gate.close(share) {
            return 0;
        }
        end(gpu, self.context, pairs);
        RECORD
    }

    /// When the timer that polls has to run again; `None`: nothing is in flight.
    pub(crate) fn poll_after(&self, now: Nanos, share: &Share<'_>) -> Option<Nanos> {
        let Limiter::Gate(gate, _) = &self.limiter else { return None };
        (!gate.is_empty()).then(|| now + gate.poll_after(now, share))
    }

    pub(crate) fn take_ring(&mut self) -> bool {
        if let Limiter::Gate(gate, _) = &mut self.limiter { gate.take_ring() } else { false }
    }
}

fn end(gpu: &mut Gpu, context: usize, pairs: &mut VecDeque<Pair>) {
    if let Some(pair) = pairs.back_mut() {
        pair.1 = Some(gpu.record(context));
    }
}
