//! Names, addresses and paths of one cluster. Everything a cluster writes lies in its state folder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Address of the control plane in the cluster's own network.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// ClusterIP of the `kubernetes` service; also an address of the control plane, so pods reach it without kube-proxy.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Bridge of the control plane and the nodes.
pub const BRIDGE: &str = "e2e0";
/// Where fake-gpu's driver root lies inside a node.
pub const DRIVER_ROOT: &str = "/opt/fake-gpu";

/// Of how a cluster is laid out and how it shows that it lives. Another version's is never touched: by our signs it may
/// seem dead.
pub const VERSION: u32 = 2;

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLayout {
    /// Kubernetes name.
    pub name: String,
    /// 0-based.
    pub index: u8,
    /// fake-gpu's description of its GPUs, for example `T4x4`; empty for a node without a driver.
    pub gpus: String,
}

impl NodeLayout {
    /// Address on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, 11 + self.index)
    }

    /// First address of its pods' network, a /24.
    pub fn pod_network(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 98, 1 + self.index, 0)
    }
}

/// One cluster, as written to `layout.json` in its state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// [`VERSION`].
    pub version: u32,
    /// State folder.
    pub state: PathBuf,
    /// Name of its cgroups.
    pub cgroup: String,
    /// Folder of the Kubernetes programs.
    pub programs: PathBuf,
    /// runc.
    pub runc: PathBuf,
    /// The program that is PID 1.
    pub supervisor: PathBuf,
    /// Folder with fake-gpu's program and shared objects.
    pub artifacts: PathBuf,
    /// OCI archives imported on every node.
    pub images: Vec<PathBuf>,
    /// The nodes.
    pub nodes: Vec<NodeLayout>,
    /// Requests per second kube-scheduler may send; absent for its own limit.
    #[serde(default)]
    pub scheduler_qps: Option<u32>,
}

impl Layout {
    /// Reads `layout.json`.
    ///
    /// # Errors
    /// It is not there, or another version's.
    pub fn read(state: &Path) -> std::io::Result<Self> {
        let text = std::fs::read(state.join("layout.json"))?;
        let layout: Self = serde_json::from_slice(&text)?;
        let other = || std::io::Error::other(format!("version {} of this program made it", layout.version));
        if layout.version == VERSION { Ok(layout) } else { Err(other()) }
    }

    /// Writes `layout.json`.
    pub fn write(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.state)?;
        // By a rename: a reader sees all of it or no file.
        let part = self.state.join("layout.json.part");
        std::fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(part, self.state.join("layout.json"))
    }

    /// Certificates, keys and kubeconfigs.
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// A file of [`Self::pki`].
    pub fn pki_file(&self, name: &str) -> String {
        self.pki().join(name).display().to_string()
    }

    /// Logs of the control plane's programs.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// What the cluster's guard and PID 1 print. Whoever holds its lock is the living cluster.
    pub fn log(&self) -> PathBuf {
        self.logs().join("cluster.log")
    }

    /// Process id of PID 1, as the host sees it.
    pub fn init_file(&self) -> PathBuf {
        self.state.join("init.pid")
    }

    /// Whether it outlives the program that started it.
    pub fn kept(&self) -> bool {
        self.kept_file().exists()
    }

    /// There if the cluster is kept.
    pub fn kept_file(&self) -> PathBuf {
        self.state.join("kept")
    }

    /// Everything of one node.
    pub fn node(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Control socket of the cluster's supervisor, or of a node's.
    pub fn socket(&self, node: Option<&str>) -> PathBuf {
        node.map_or_else(|| self.state.clone(), |n| self.node(n)).join("control.sock")
    }

    /// The file that is a node's GPUs, as the host sees it.
    pub fn gpus_file(&self, node: &str) -> PathBuf {
        self.node(node).join("fake-gpu/gpus")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_versions_layout_is_not_taken_for_ours() {
        let ours = r#"{"version": 2, "state": "", "cgroup": "c", "programs": "", "runc": "", "supervisor": "", "artifacts": "",
                       "images": [], "nodes": []}"#;
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("layout.json"), text).unwrap();
            Layout::read(dir.path())
        };
        assert!(read(ours).is_ok());
        assert!(read(&ours.replace("\"version\": 2,", "\"version\": 1,")).is_err());
        assert!(read(&ours.replace("\"version\": 2,", "")).is_err());
    }
}
