//! What one wants to see when a test on a cluster failed.

use super::driver::DRIVER_NAMESPACE;
use super::{Cluster, save_logs};

/// Share files with the start of their contents, and CDI specs and checkpoints, which are text.
const FILES: &str = "find /run/vgpu-dra /var/run/cdi /var/lib/vgpu-dra -type f -ls
    find /run/vgpu-dra -type f | while read -r file; do echo \"$file:\"; od -A d -t x8 -w32 -N 512 \"$file\"; done
    find /var/run/cdi /var/lib/vgpu-dra -type f | while read -r file; do echo \"$file:\"; head -c 4096 \"$file\"; echo; done";

impl Cluster {
    /// Prints events, objects, our logs and the driver's files to stderr, and saves the logs of all programs, which
    /// otherwise go with the cluster.
    pub fn dump(&self, namespace: &str) {
        eprintln!("=== {namespace}: what the cluster looks like");
        let kubectl = |title: &str, args: &[&str]| {
            let text = self.kubectl(args).map_or_else(
                |e| e.to_string(),
                |o| format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr)),
            );
            eprintln!("--- {title}\n{}", text.trim_end());
        };
        kubectl("pods", &["get", "pods", "-A", "-o", "wide"]);
        kubectl("events", &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]);
        kubectl("claims", &["get", "resourceclaims", "-n", namespace, "-o", "yaml"]);
        kubectl("slices", &["get", "resourceslices"]);
        kubectl("nodes", &["get", "gpunodes"]);
        for component in ["vgpu-controller", "vgpu-kubelet-plugin"] {
            let label = format!("app.kubernetes.io/name={component}");
            let args =
                ["logs", "-n", DRIVER_NAMESPACE, "-l", &label, "--tail=60", "--prefix", "--all-containers"];
            kubectl(&format!("log of {component}"), &args);
        }
        for node in &self.layout().nodes {
            if let Ok((_, stdout, stderr)) = self.node_run(&node.name, &["sh", "-c", FILES]) {
                eprintln!("--- files of {}\n{}{}", node.name, stdout, stderr);
            }
        }
        match save_logs(self.layout(), namespace) {
            Ok(folder) => eprintln!("=== logs of the cluster's programs are in {}", folder.display()),
            Err(error) => eprintln!("=== the logs could not be saved: {error}"),
        }
    }

    /// Copies the logs of all programs to where the end of the cluster does not remove them.
    ///
    /// # Errors
    /// A file could not be copied.
    pub fn keep_logs(&self, occasion: &str) -> std::io::Result<std::path::PathBuf> {
        save_logs(self.layout(), occasion)
    }
}
