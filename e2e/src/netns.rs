//! Reaching a cluster's network from the host: commands and connections that live in its network namespace.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tower::Service;

use crate::layout::{CONTROL_PLANE, Layout};

/// A network namespace, held open.
#[derive(Debug, Clone)]
pub struct NetworkNamespace(Arc<File>);

impl NetworkNamespace {
    /// Of a process on this host.
    ///
    /// # Errors
    /// The process is gone, or this program may not look.
    pub fn of(pid: Pid) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/ns/net")).map(|f| Self(Arc::new(f)))
    }

    fn enter(&self) -> io::Result<()> {
        use std::os::fd::AsFd;
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Makes a command run in it, and end with the thread that waits for it: a killed program leaves no kubectl behind.
    pub fn command(&self, command: &mut Command) {
        let own = self.clone();
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            own.enter()
        };
        // SAFETY: between fork and exec only prctl(2) and setns(2) are called; they allocate nothing and take no lock.
        unsafe { command.pre_exec(prepare) };
    }

    /// Connects from inside it, on a thread that ends afterwards: a namespace belongs to a thread.
    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let own = self.clone();
        let connect = move || {
            own.enter()?;
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        std::thread::spawn(connect).join().map_err(|_| io::Error::other("the connecting thread panicked"))?
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig.
    #[error("cannot use the cluster's kubeconfig")]
    Config(#[from] kube::config::KubeconfigError),
    /// TLS.
    #[error("cannot set up TLS to the cluster")]
    Tls(#[from] kube::Error),
}

/// A Kubernetes client for the cluster's admin. Must be made inside a tokio runtime.
///
/// # Errors
/// [`ClientError`] if the certificates cannot be read.
pub async fn client(layout: &Layout, namespace: &NetworkNamespace) -> Result<kube::Client, ClientError> {
    let kubeconfig = Kubeconfig::read_from(layout.pki().join("admin.kubeconfig"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let https = config.rustls_https_connector_with_connector(Connector(namespace.clone()))?;
    let executor = hyper_util::rt::TokioExecutor::new();
    let hyper = hyper_util::client::legacy::Client::builder(executor).build::<_, Body>(https);
    let service = tower::ServiceBuilder::new().layer(config.base_uri_layer()).service(hyper);
    let service = tower::util::MapErr::new(service, tower::BoxError::from);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Connects every request to the control plane, whatever host it names.
#[derive(Clone)]
struct Connector(NetworkNamespace);

impl Service<http::Uri> for Connector {
    type Response = TokioIo<tokio::net::TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let namespace = self.0.clone();
        Box::pin(async move {
            let to = SocketAddr::V4(SocketAddrV4::new(CONTROL_PLANE, 443));
            let connect = tokio::task::spawn_blocking(move || namespace.connect(to));
            let stream = connect.await.map_err(io::Error::other)??;
            Ok(TokioIo::new(tokio::net::TcpStream::from_std(stream)?))
        })
    }
}
