//! What programs do: endless sequences of launches, waits and pauses.

use crate::{MS, Nanos, Random, US};

/// A kind of program.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// Launches kernels of one length without ever waiting.
    Saturating(Nanos),
    /// Sixteen functions from 10 us to 10 ms, in no order.
    Mix,
    /// One function with two lengths.
    Bimodal(Nanos, Nanos),
    /// Launches a kernel, waits for it, pauses.
    Loop(Nanos, Nanos),
    /// Launches kernels for a while, waits for them, thinks.
    Bursts {
        /// Of a kernel.
        kernel: Nanos,
        /// Kernels of a burst.
        count: u64,
        /// Between bursts.
        think: Nanos,
    },
    /// Requests that come at random and are served one by one.
    Requests {
        /// Of a request.
        kernel: Nanos,
        /// Mean time from one to the next.
        every: Nanos,
    },
    /// Does nothing outside [from, to), and in it what the pattern says.
    During(Nanos, Nanos, Box<Pattern>),
}

/// One thing a program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Launches a function.
    Launch {
        /// Which.
        function: usize,
        /// How long it runs.
        length: Nanos,
    },
    /// Waits for everything launched.
    Wait,
    /// Does nothing until a moment.
    Pause(Nanos),
    /// A request that came at a moment has been answered.
    Answered(Nanos),
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    pattern: Pattern,
    random: Random,
    step: u64,
    arrival: Nanos,
}

impl Program {
    /// From its beginning.
    pub fn new(pattern: Pattern, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let arrival = match &pattern {
            Pattern::Requests { every, .. } => random.exponential(*every),
            _ => 0,
        };
        Self { pattern, random, step: 0, arrival }
    }

    /// What it does next; `now` is when it does it.
    pub fn next(&mut self, now: Nanos) -> Deed {
        let pattern = self.pattern.clone();
        self.deed(&pattern, now)
    }

    fn deed(&mut self, pattern: &Pattern, now: Nanos) -> Deed {
        if let Pattern::During(from, to, inner) = pattern {
            return match now {
                now if now < *from => Deed::Pause(*from),
                now if now >= *to => Deed::Pause(Nanos::MAX),
                _ => self.deed(inner, now),
            };
        }
        let step = self.step;
        self.step += 1;
        match pattern {
            Pattern::Saturating(length) => Deed::Launch { function: 0, length: *length },
            Pattern::Mix => {
                let function = self.random.below(16) as usize;
                let length = (10e3 * 1000f64.powf(function as f64 / 15.0)) as Nanos;
                Deed::Launch { function, length }
            }
            Pattern::Bimodal(short, long) => {
                let length = if self.random.below(2) == 0 { *short } else { *long };
                Deed::Launch { function: 0, length }
            }
            Pattern::Loop(length, pause) => match step % 3 {
                0 => Deed::Launch { function: 0, length: *length },
                1 => Deed::Wait,
                _ => Deed::Pause(now + pause),
            },
            Pattern::Bursts { kernel, count, think } => match step % (count + 2) {
                n if n < *count => Deed::Launch { function: 0, length: *kernel },
                n if n == *count => Deed::Wait,
                _ => Deed::Pause(now + think),
            },
            Pattern::Requests { kernel, every } => match step % 4 {
                0 => Deed::Pause(self.arrival.max(now)),
                1 => Deed::Launch { function: 0, length: *kernel },
                2 => Deed::Wait,
                _ => {
                    let came = self.arrival;
                    self.arrival += self.random.exponential(*every);
                    Deed::Answered(came)
                }
            },
            Pattern::During(..) => Deed::Pause(Nanos::MAX),
        }
    }
}

/// Launches 100 us and waits, with 20 us between.
pub const SYNCHRONISING: Pattern = Pattern::Loop(100 * US, 20 * US);
/// Answers with tokens: 5 ms on the GPU, 1 ms on the host.
pub const DECODING: Pattern = Pattern::Loop(5 * MS, MS);
