//! The words every part of vgpu-dra shares: names on the wire, quantities, ShareConfig and the custom resources.
//!
//! Nothing here talks to anything. User input ([`ShareConfig`]) is decoded strictly, with the path of the offending
//! field; what the project stored itself is decoded leniently by whoever reads it.

mod gpu_node;
mod gpu_policy;
pub mod names;
mod quantity;
mod share_config;

pub use gpu_node::{Gpu, GpuNode, GpuNodeSpec, GpuNodeStatus, Health, Limiter, Registration};
pub use gpu_policy::{GpuPolicy, GpuPolicySpec};
pub use quantity::{Format, Quantity, QuantityError};
pub use share_config::{
    Cores, Enforcement, Memory, Oversubscription, Placement, Policy, Priority, ShareConfig, ShareConfigError,
    Topology,
};

/// One mebibyte in bytes; capacities are floored to it and shares are multiples of it.
pub const MIB: u64 = 1 << 20;
