//! The limiter's logic without CUDA: share files, ledger, slots, the compute controller. std alone, no I/O of its own.
//!
//! A share is one budget for every process that uses it. It is two small files: `limits` ([`limits`]), which the node's
//! plugin writes and tenants can only read, and `usage` ([`usage`]), which tenants change and the plugin only reads. What
//! needs a system call (file locks, the clock) is a trait here, implemented where the system is.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod array;
pub mod compute;
pub mod known;
pub mod ledger;
pub mod limits;
pub mod newest;
pub mod places;
pub mod pointers;
pub mod sync;
pub mod usage;
pub mod virtual_memory;
