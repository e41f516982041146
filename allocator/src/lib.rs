//! The placement engine: plain types in, a placement or a refusal out.
//!
//! It knows neither Kubernetes nor a clock, does no I/O and draws no random numbers: the same calls in the same
//! order give the same answer. Ties break by node name, then by GPU name.
//!
//! A [`Cluster`] holds what there is and what is taken. What is taken is held *by key* (pod and claim UIDs), so that a
//! write in flight and the same write seen again by a watch are one holding. [`Cluster::plan`] answers for one pod at a
//! time, node and GPUs together, and changes nothing; the caller holds what it decides to write.
#![forbid(unsafe_code)]

mod cluster;
mod demand;
mod exhaustive;
mod fill;
#[cfg(test)]
mod fixture;
mod fragmentation;
mod hash;
mod index;
mod mix;
mod overcommit;
mod placement;
mod plan;
mod policy;
mod refusal;
mod room;
mod summary;
mod taken;
mod tally;
mod topology;
pub mod trace;
mod vacancy;

pub use cluster::{Cluster, Gpu, GpuState, Node, Overcommitted, Room, Share};
pub use demand::{Constraint, Demand, Exclusions, MemoryAsk, NodeExclusion, Request, Rule, Shapes};
pub use mix::{LESSON, Mix};
pub use overcommit::{Overcommit, Oversubscribed};
pub use placement::{GpuReason, NodeReason, PlacedShare, Placement, Refusal, Score};
pub use policy::{POLICIES, Policy};
pub use topology::{Site, Topology};
