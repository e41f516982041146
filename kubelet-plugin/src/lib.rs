//! The node's DRA plugin: what GPUs there are goes up to GpuNode, what claims were given comes down to containers.
//!
//! ```text
//! gpus (NVML) -> discovery -> gpu_node -> GpuNode.status            slices -> registration generation
//!                   |
//! kubelet -> service -> claim (API) -> state -> share_files, cdi, checkpoint -> CDI ids
//!                                                   |
//! processes of shares <---------------------- arbiter: whose turn it is on each GPU
//! ```
//! [`state`] has what must survive a kill at any line, [`host`] every step that changes the node, [`service`] and
//! [`registration`] speak with the kubelet. Nothing here decides a placement, and nothing trusts a container.
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod args;
pub mod cdi;
pub mod checkpoint;
pub mod claim;
pub mod damage;
pub mod discovery;
pub mod error;
pub mod gpu_node;
pub mod gpus;
pub mod host;
pub mod http;
pub mod limiter;
pub mod lock;
pub mod metrics;
pub mod overhead;
pub mod plugin;
pub mod proto;
pub mod registration;
pub mod service;
pub mod share_files;
pub mod slices;
pub mod socket;
pub mod state;
