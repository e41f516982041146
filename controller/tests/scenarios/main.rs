//! The controller against an API server, a scheduler and a claim controller in memory, on paused time.

mod harness;

mod allocation;
mod changes;
mod claims;
mod containers;
mod explanations;
mod failures;
mod gangs;
mod gate;
mod leadership;
mod nominations;
mod notices;
mod overcommit;
mod policies;
mod preemption;
mod quota;
mod reclaiming;
mod refusals;
mod replanning;
mod scheduler_mode;
mod schedulers;
mod simulation;
mod slices;
mod taints;
mod topology;
