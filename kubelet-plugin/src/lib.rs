//! The node's DRA plugin: says what GPUs there are, and makes allocated shares so.
//!
//! | room | what |
//! |---|---|
//! | [`gpus`] | the GPUs, by NVML |
//! | [`gpu_node`] | tells the controller about them |
//! | [`kubelet`] | registration and the DRA service, nothing but translation |
//! | [`claim`] | pure: an allocated claim as shares of this node |
//! | [`prepare`] | share files, CDI spec, checkpoint, in an order that may stop anywhere |
//! | [`share`], [`cdi`], [`driver_spec`], [`checkpoint`], [`limiter`] | each of these by itself |
#![forbid(unsafe_code)]

pub mod args;
pub mod cdi;
pub mod checkpoint;
pub mod claim;
pub mod driver_spec;
pub mod error;
pub mod file;
pub mod gpu_node;
pub mod gpus;
pub mod kubelet;
pub mod limiter;
pub mod metrics;
pub mod prepare;
pub mod share;

/// Field manager of everything the plugin writes.
pub const MANAGER: &str = "vgpu-dra.io/kubelet-plugin";
