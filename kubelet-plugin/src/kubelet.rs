//! What the kubelet sees: registration and the DRA service. Nothing here but translation.
//!
//! The registration socket's name holds an `@`: the kubelet dials it by its bare path, which gRPC for Go puts escaped into
//! the `:authority` header, and an authority without a user part may not hold `%`. With `@` what stands before it reads
//! as one, and our HTTP/2 library takes it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client, ResourceExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use vgpu_api::names::{DRIVER, pool};

use crate::error::PrepareError;
use crate::metrics::Metrics;
use crate::prepare::Node;

#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated")]
mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated")]
mod registration {
    tonic::include_proto!("pluginregistration");
}

use dra::dra_plugin_server::{DraPlugin, DraPluginServer};
use registration::registration_server::{Registration, RegistrationServer};

/// Most bytes of a unix socket's path.
const PATH_BYTES: usize = 107;

/// Sockets of this instance.
#[derive(Debug, Clone)]
pub struct Sockets {
    dra: PathBuf,
    registration: PathBuf,
}

impl Sockets {
    /// By the pod's UID.
    ///
    /// # Errors
    /// A path is too long for a socket.
    pub fn new(plugins: &Path, registry: &Path, pod: &str) -> anyhow::Result<Self> {
        let dra = plugins.join(DRIVER).join(format!("dra-{pod}.sock"));
        let registration = registry.join(format!("{DRIVER}@{pod}-reg.sock"));
        for path in [&dra, &registration] {
            let length = path.as_os_str().len();
            ensure!(
                length <= PATH_BYTES,
                "{} has {length} bytes and a socket's path may have {PATH_BYTES}: use a shorter kubelet root directory",
                path.display()
            );
        }
        Ok(Self { dra, registration })
    }

    /// Removes both, so that the kubelet forgets this instance.
    pub fn remove(&self) {
        for path in [&self.registration, &self.dra] {
            // Gone already is what is wanted.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn listen(path: &Path) -> anyhow::Result<UnixListenerStream> {
    let folder = path.parent().context("a socket without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

/// Serves both until the process ends. The receiver says whether the kubelet has taken the plugin.
///
/// # Errors
/// A socket cannot be made.
pub fn serve(
    sockets: &Sockets,
    client: Client,
    node_name: &str,
    node: Arc<Node>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<watch::Receiver<bool>> {
    let (registered, receiver) = watch::channel(false);
    // The service first: the kubelet may call as soon as it has seen the registration.
    let incoming = listen(&sockets.dra)?;
    let plugin = Plugin { client, pool: pool(node_name), node, metrics };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(DraPluginServer::new(plugin))
            .serve_with_incoming(incoming),
    );
    let incoming = listen(&sockets.registration)?;
    let registrar = Registrar { endpoint: sockets.dra.display().to_string(), registered };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(RegistrationServer::new(registrar))
            .serve_with_incoming(incoming),
    );
    Ok(receiver)
}

struct Registrar {
    endpoint: String,
    registered: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(
        &self,
        _: Request<registration::InfoRequest>,
    ) -> Result<Response<registration::PluginInfo>, Status> {
        Ok(Response::new(registration::PluginInfo {
            r#type: "DRAPlugin".into(),
            name: DRIVER.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["v1.DRAPlugin".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<registration::RegistrationStatus>,
    ) -> Result<Response<registration::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("the kubelet has registered the plugin");
        } else {
            tracing::error!(error = status.error, "the kubelet did not register the plugin");
        }
        self.registered.send_replace(status.plugin_registered);
        Ok(Response::new(registration::RegistrationStatusResponse {}))
    }
}

struct Plugin {
    client: Client,
    pool: String,
    node: Arc<Node>,
    metrics: Arc<Metrics>,
}

impl Plugin {
    async fn read(&self, claim: &dra::Claim) -> Result<ResourceClaim, PrepareError> {
        let name = format!("{}/{}", claim.namespace, claim.name);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let found = api.get(&claim.name).await;
        let found = found.map_err(|e| PrepareError::Read { claim: name.clone(), message: e.to_string() })?;
        let uid = found.uid().unwrap_or_default();
        if uid != claim.uid {
            return Err(PrepareError::OtherClaim { claim: name, found: uid, asked: claim.uid.clone() });
        }
        Ok(found)
    }

    async fn prepare(&self, claim: &dra::Claim) -> Result<Vec<dra::Device>, PrepareError> {
        let found = self.read(claim).await?;
        let began = Instant::now();
        // Files and mounts block; a worker of the runtime should not.
        let prepared = tokio::task::block_in_place(|| self.node.prepare(&found))?;
        self.metrics.prepare_seconds.observe(began.elapsed().as_secs_f64());
        let device = |p: crate::prepare::Prepared| dra::Device {
            request_names: vec![p.request],
            pool_name: self.pool.clone(),
            device_name: p.device,
            cdi_device_ids: p.cdi_ids,
            share_id: Some(p.share_id),
        };
        Ok(prepared.into_iter().map(device).collect())
    }
}

#[tonic::async_trait]
impl DraPlugin for Plugin {
    async fn node_prepare_resources(
        &self,
        request: Request<dra::NodePrepareResourcesRequest>,
    ) -> Result<Response<dra::NodePrepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            let answer = match self.prepare(&claim).await {
                Ok(devices) => {
                    tracing::info!(
                        claim = claim.name,
                        namespace = claim.namespace,
                        uid = claim.uid,
                        "prepared"
                    );
                    dra::NodePrepareResourceResponse { devices, error: String::new() }
                }
                Err(error) => {
                    self.metrics.failed(&error);
                    tracing::warn!(claim = claim.name, namespace = claim.namespace, %error, "not prepared");
                    dra::NodePrepareResourceResponse { devices: vec![], error: error.to_string() }
                }
            };
            claims.insert(claim.uid, answer);
        }
        Ok(Response::new(dra::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<dra::NodeUnprepareResourcesRequest>,
    ) -> Result<Response<dra::NodeUnprepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            let done = tokio::task::block_in_place(|| self.node.unprepare(&claim.uid));
            let error = done.map_or_else(
                |error| {
                    self.metrics.failed(&error);
                    error.to_string()
                },
                |()| String::new(),
            );
            tracing::info!(
                claim = claim.name,
                namespace = claim.namespace,
                uid = claim.uid,
                error,
                "unprepared"
            );
            claims.insert(claim.uid, dra::NodeUnprepareResourceResponse { error });
        }
        Ok(Response::new(dra::NodeUnprepareResourcesResponse { claims }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_authority_a_kubelet_sends_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::new(dir.path(), dir.path(), "uid").unwrap();
        let registrar = Registrar { endpoint: "/x".into(), registered: watch::channel(false).0 };
        let incoming = listen(&sockets.registration).unwrap();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(RegistrationServer::new(registrar))
                .serve_with_incoming(incoming),
        );
        // As gRPC for Go escapes the path it dials.
        let authority = sockets.registration.display().to_string().replace('/', "%2F");
        let stream = tokio::net::UnixStream::connect(&sockets.registration).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(authority.as_str())
            .path_and_query("/pluginregistration.Registration/GetInfo");
        let request = http::Request::post(uri.build().unwrap())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(vec![0, 0, 0, 0, 0].into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    }

    #[test]
    fn a_path_too_long_for_a_socket_says_so() {
        let long = PathBuf::from("/").join("x".repeat(90));
        let error = Sockets::new(&long, &long, "uid").unwrap_err().to_string();
        assert!(error.contains("use a shorter kubelet root directory"), "{error}");
    }
}
