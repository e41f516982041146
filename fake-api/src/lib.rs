//! A Kubernetes API server in memory, with the parts of a cluster that answer a controller: scheduler, claim controller,
//! kubelet.
//!
//! [`FakeApi`] is an axum `Router` as the transport of a `kube::Client`, over a store that keeps the API's rules: versions
//! and conflicts, watches with bookmarks and 410, server-side apply, status subresources, finalizers, owners, and the
//! refusals of the kinds the driver works with. A [`Connection`] is one client's way to it, and breaks as told: calls are
//! refused, hang, or take without an answer, watch events come late or twice, the client dies after a write.
//!
//! On a paused current-thread runtime everything here is deterministic. Not here: authorisation, admission policies,
//! defaulting beyond what the driver needs, and `metadata.managedFields` (ownership is kept, not shown).
#![forbid(unsafe_code)]

mod actors;
mod call;
mod connection;
mod kind;
pub mod objects;
mod ownership;
mod patch;
mod random;
mod selector;
mod server;
mod signal;
mod status;
mod store;
mod subresource;
mod validate;
mod watching;

pub use actors::{ClaimController, Kubelets, Scheduler, SchedulerRules};
pub use call::{Call, Verb};
pub use connection::{Connection, Delivery, Fault};
pub use random::Random;
pub use server::FakeApi;
pub use status::Refused;
