//! Unix sockets for the kubelet, one pair per instance of the plugin.
//!
//! Names carry the pod's UID, so that two instances can serve side by side; a killed one leaves its sockets behind, and
//! nobody but the next instance removes them.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use vgpu_api::names;

/// Bytes a socket's path may have: `sun_path` less the closing NUL (unix(7)).
pub const LONGEST: usize = 107;

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than the kernel takes.
    #[error("socket path {} has {length} bytes, the kernel takes {LONGEST}: choose a shorter {flag}", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
        /// The flag that decides it.
        flag: &'static str,
    },
    /// Making the folder, removing an old socket or binding failed.
    #[error("cannot {action} {}: {source}; check {flag}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The flag that decides it.
        flag: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// `<plugins>/gpu.vgpu-dra.io/dra-<pod UID>.sock`: the DRA service.
pub fn dra_path(plugins: &Path, pod_uid: &str) -> PathBuf {
    plugins.join(names::DRIVER).join(format!("dra-{pod_uid}.sock"))
}

/// `<registry>/gpu.vgpu-dra.io@<pod UID>-reg.sock`: registration.
///
/// The `@` is needed: the kubelet dials this socket by its bare path and grpc-go then sends the escaped path as the HTTP/2
/// authority (`%2Fvar%2Flib%2F...`), which h2 refuses as malformed, unless an `@` makes what stands before it the
/// authority's user part.
pub fn registration_path(registry: &Path, pod_uid: &str) -> PathBuf {
    registry.join(format!("{}@{pod_uid}-reg.sock", names::DRIVER))
}

/// A bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
}

impl Socket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a socket cannot be removed");
        }
    }
}

/// Binds a socket in place of whatever has its name. `flag` names the folder's flag in errors.
pub fn bind(path: PathBuf, flag: &'static str) -> Result<(UnixListener, Socket), SocketError> {
    let length = path.as_os_str().len();
    if length > LONGEST {
        return Err(SocketError::TooLong { path, length, flag });
    }
    let failed =
        |action, path: &Path, source| SocketError::Io { action, path: path.to_owned(), flag, source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed("make folder", folder, e))?;
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove the old socket", &path, e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|e| failed("listen on", &path, e))?;
    Ok((listener, Socket { path }))
}

/// Removes sockets of dead instances: those of this driver in the folder of `own` that nobody listens on any more.
/// A kubelet that still has one registered drops it when its file goes.
pub fn remove_dead(own: &Path) {
    let (Some(folder), Some(own_name)) = (own.parent(), own.file_name()) else { return };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let ours = (text.starts_with("dra-") && text.ends_with(".sock"))
            || (text.starts_with(&format!("{}@", names::DRIVER)) && text.ends_with("-reg.sock"));
        if !ours || name == own_name {
            continue;
        }
        let path = entry.path();
        let refused = std::os::unix::net::UnixStream::connect(&path)
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if refused && std::fs::remove_file(&path).is_ok() {
            tracing::info!(path = %path.display(), "removed the socket of a dead instance");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kubelets_folders() {
        let uid = "7d0c6f0e-3f0b-4a56-9c0d-0f4d2b0f8f11";
        let dra = dra_path(Path::new("/var/lib/kubelet/plugins"), uid);
        let registration = registration_path(Path::new("/var/lib/kubelet/plugins_registry"), uid);
        assert!(dra.as_os_str().len() <= LONGEST && registration.as_os_str().len() <= LONGEST);
        assert_eq!(
            registration.to_str().unwrap(),
            "/var/lib/kubelet/plugins_registry/gpu.vgpu-dra.io@7d0c6f0e-3f0b-4a56-9c0d-0f4d2b0f8f11-reg.sock"
        );
    }

    #[tokio::test]
    async fn a_path_too_long_names_the_flag() {
        let path = Path::new("/tmp").join("x".repeat(LONGEST));
        let message = bind(path, "--plugins-dir").unwrap_err().to_string();
        assert!(
            message.ends_with("has 112 bytes, the kernel takes 107: choose a shorter --plugins-dir"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn dead_sockets_go_and_living_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        drop(std::os::unix::net::UnixListener::bind(path("dra-dead.sock")).unwrap());
        drop(std::os::unix::net::UnixListener::bind(path("other-dead.sock")).unwrap());
        let _living = std::os::unix::net::UnixListener::bind(path("dra-living.sock")).unwrap();
        let (_listener, own) = bind(path("dra-own.sock"), "--plugins-dir").unwrap();
        remove_dead(own.path());
        assert!(!path("dra-dead.sock").exists());
        assert!(path("dra-living.sock").exists() && path("other-dead.sock").exists());
        drop(own);
        assert!(!path("dra-own.sock").exists());
    }

    #[tokio::test]
    async fn a_socket_left_by_a_kill_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dra-x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        bind(path, "--plugins-dir").unwrap();
    }
}
