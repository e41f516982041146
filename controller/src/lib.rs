//! Publishes what nodes have as ResourceSlices and decides where the shares of waiting pods go.
//!
//! One task, the planner, owns every decision. It looks at what the API server's watches have brought, brings its model
//! up to date and does what is due; it keeps nothing that it could not find out again, so it may die at any line. Writes
//! run beside it and report back. Only the holder of the Lease runs any of this.
//!
//! | room | what |
//! |---|---|
//! | [`controller`], [`leader`] | from the Lease to the end |
//! | [`stores`] | what the watches have brought |
//! | [`pod`], [`claim`], [`node`], [`class`], [`attribute`], [`request`], [`shapes`], [`slice`], [`taint`], [`quota`], [`preemption`] | pure: what an object means |
//! | [`shared`] | what many objects have alike |
//! | [`facts`] | what is worked out of an object once per version |
//! | [`model`] | all of it as the engine sees it |
//! | [`planner`] | what is due, in what order |
//! | [`allocation`] | the writes to claims and pods |
//! | [`publisher`], [`gate`] | slices; the ConfigMaps the admission policies read |
#![forbid(unsafe_code)]

pub mod allocation;
pub mod args;
pub mod attribute;
pub mod claim;
pub mod class;
pub mod controller;
pub mod events;
pub mod explanation;
pub mod facts;
pub mod gate;
mod kind;
pub mod leader;
pub mod metrics;
pub mod model;
pub mod node;
pub mod planner;
pub mod pod;
pub mod preemption;
pub mod publisher;
pub mod quota;
pub mod request;
pub mod scheduler_mode;
pub mod selector;
pub mod shapes;
pub mod shared;
pub mod slice;
pub mod snapshot;
pub mod stores;
pub mod taint;

/// Field manager and reporter of everything the controller writes.
pub const MANAGER: &str = "vgpu-dra.io/controller";
/// Longest a write may take: shorter than what is left of the Lease when it was last renewed in time.
pub const WRITE_DEADLINE: std::time::Duration = std::time::Duration::from_millis(2500);
