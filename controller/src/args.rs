//! Command line.

use std::net::SocketAddr;

use vgpu_api::{Placement, Policy};

/// Who allocates claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Allocator {
    /// This controller, by policy: devices have a taint that keeps kube-scheduler off.
    Controller,
    /// kube-scheduler, first fit: devices are published without the taint, pods get no gate.
    Scheduler,
}

/// The controller's flags.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "vgpu-controller",
    about = "Publishes ResourceSlices and allocates ResourceClaims by policy",
    version
)]
pub struct Args {
    /// Who allocates claims.
    #[arg(long, default_value = "controller")]
    pub allocator: Allocator,
    /// Order of nodes when neither claim nor class says.
    #[arg(long, default_value = "Binpack")]
    pub node_policy: Policy,
    /// Order of GPUs when neither claim nor class says.
    #[arg(long, default_value = "Binpack")]
    pub gpu_policy: Policy,
    /// Whether a pod of higher priority that fits nowhere has others evicted for it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub preemption: bool,
    /// Whether ResourceQuotas limit by HAMi's hard keys too: limits.nvidia.com/gpumem (MiB) and limits.nvidia.com/gpucores.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub hami_quotas: bool,
    /// Where /metrics and /healthz are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Namespace of the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "vgpu-dra-system")]
    pub namespace: String,
    /// Name this controller holds the Lease by.
    #[arg(long, env = "POD_NAME", default_value = "vgpu-controller")]
    pub identity: String,
}

impl Args {
    /// What is laid under class and claim configuration.
    pub fn placement(&self) -> Placement {
        Placement { node: Some(self.node_policy), gpu: Some(self.gpu_policy), ..Placement::default() }
    }
}
