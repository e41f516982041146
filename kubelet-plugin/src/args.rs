//! Command line. Paths are the same inside the plugin's container and on the host unless said otherwise.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::limiter::Form;

/// The plugin's flags.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "vgpu-kubelet-plugin", about = "The node's DRA plugin of vgpu-dra", version)]
pub struct Args {
    /// This node.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// UID of this pod; sockets carry it, so that two instances can stand side by side during an update.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Checkpoint and installed limiters.
    #[arg(long, default_value = "/var/lib/vgpu-dra")]
    pub state_dir: PathBuf,
    /// Share files.
    #[arg(long, default_value = "/run/vgpu-dra/shares")]
    pub share_dir: PathBuf,
    /// CDI specs.
    #[arg(long, default_value = "/var/run/cdi")]
    pub cdi_dir: PathBuf,
    /// The kubelet's plugins.
    #[arg(long, default_value = "/var/lib/kubelet/plugins")]
    pub plugins_dir: PathBuf,
    /// Where the kubelet looks for registration sockets.
    #[arg(long, default_value = "/var/lib/kubelet/plugins_registry")]
    pub registry_dir: PathBuf,
    /// The root NVIDIA's driver is installed in, as seen here.
    #[arg(long, default_value = "/driver-root")]
    pub driver_root: PathBuf,
    /// The same root on the host.
    #[arg(long, default_value = "/")]
    pub driver_root_host: PathBuf,
    /// A CDI spec as `nvidia-ctk cdi generate` writes it, as seen here. Without it the usual places below the driver
    /// root are tried, then the root itself is described.
    #[arg(long)]
    pub driver_cdi_spec: Option<PathBuf>,
    /// libnvidia-ml.so.1, if it is not below the driver root.
    #[arg(long)]
    pub nvml_library: Option<PathBuf>,
    /// The limiter's libraries.
    #[arg(long, default_value = "/usr/lib/vgpu-dra")]
    pub limiter_dir: PathBuf,
    /// How the limiter gets into containers of claims prepared from now on: under the names of the driver's libraries, or
    /// by the container's /etc/ld.so.preload.
    #[arg(long, value_enum, default_value_t)]
    pub limiter_form: Form,
    /// Where /metrics and /healthz are served.
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub metrics_address: SocketAddr,
    /// Where sysfs is mounted.
    #[arg(long, default_value = "/sys")]
    pub sysfs: PathBuf,
}
