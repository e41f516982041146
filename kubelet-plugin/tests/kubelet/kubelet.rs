//! Calls as the kubelet makes them: gRPC over HTTP/2 on a unix socket, by hand, because the authority it sends is one
//! that no Rust client would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use prost::Message;
use prost::bytes::Bytes;
use vgpu_kubelet_plugin::proto::{dra, registration};

/// The kubelet of a node, as far as plugins see it.
#[derive(Debug, Clone)]
pub(crate) struct Kubelet {
    registry: PathBuf,
}

/// A plugin as the kubelet knows it.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) info: registration::PluginInfo,
    socket: PathBuf,
}

impl Kubelet {
    pub(crate) fn new(registry: &Path) -> Self {
        Self { registry: registry.to_owned() }
    }

    /// Registration sockets in the registry folder, by name.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.registry).into_iter().flatten().flatten();
        let mut sockets: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        sockets.sort();
        sockets
    }

    /// Waits for the socket of a pod's plugin, asks it, and tells it that it is registered.
    pub(crate) async fn register(&self, pod_uid: &str) -> anyhow::Result<Registered> {
        let socket = self.registry.join(format!("gpu.vgpu-dra.io@{pod_uid}-reg.sock"));
        let mut result = Err(anyhow::anyhow!("not tried"));
        for _ in 0..400 {
            result = self.ask(&socket).await;
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let plugin = result.with_context(|| format!("no plugin behind {}", socket.display()))?;
        plugin.notify(true, "").await?;
        Ok(plugin)
    }

    async fn ask(&self, socket: &Path) -> anyhow::Result<Registered> {
        let info = call(
            socket,
            &escaped(socket),
            "pluginregistration.Registration/GetInfo",
            &registration::InfoRequest {},
        )
        .await?;
        Ok(Registered { info, socket: socket.to_owned() })
    }
}

/// As grpc-go puts a path it dials into the authority.
fn escaped(socket: &Path) -> String {
    socket.display().to_string().replace('/', "%2F")
}

impl Registered {
    pub(crate) async fn notify(&self, plugin_registered: bool, error: &str) -> anyhow::Result<()> {
        let status = registration::RegistrationStatus { plugin_registered, error: error.into() };
        let method = "pluginregistration.Registration/NotifyRegistrationStatus";
        let _: registration::RegistrationStatusResponse =
            call(&self.socket, &escaped(&self.socket), method, &status).await?;
        Ok(())
    }

    fn endpoint(&self) -> &Path {
        Path::new(&self.info.endpoint)
    }

    pub(crate) async fn prepare(
        &self,
        claims: &[dra::Claim],
    ) -> anyhow::Result<dra::NodePrepareResourcesResponse> {
        let request = dra::NodePrepareResourcesRequest { claims: claims.to_vec() };
        call(
            self.endpoint(),
            "localhost",
            "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            &request,
        )
        .await
    }

    pub(crate) async fn unprepare(
        &self,
        claims: &[dra::Claim],
    ) -> anyhow::Result<dra::NodeUnprepareResourcesResponse> {
        let request = dra::NodeUnprepareResourcesRequest { claims: claims.to_vec() };
        call(
            self.endpoint(),
            "localhost",
            "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            &request,
        )
        .await
    }

    /// The devices of one claim, which must have been prepared.
    pub(crate) async fn devices(&self, claim: &dra::Claim) -> anyhow::Result<Vec<dra::Device>> {
        let mut answer = self.prepare(std::slice::from_ref(claim)).await?;
        let answer = answer.claims.remove(&claim.uid).context("no entry for the claim")?;
        ensure!(answer.error.is_empty(), "{}", answer.error);
        Ok(answer.devices)
    }

    /// Unprepares one claim, which must succeed.
    pub(crate) async fn done(&self, claim: &dra::Claim) -> anyhow::Result<()> {
        let answer = self.unprepare(std::slice::from_ref(claim)).await?;
        let error = &answer.claims.get(&claim.uid).context("no entry for the claim")?.error;
        ensure!(error.is_empty(), "{error}");
        Ok(())
    }
}

/// One unary call.
async fn call<Q: Message, A: Message + Default>(
    socket: &Path,
    authority: &str,
    method: &str,
    request: &Q,
) -> anyhow::Result<A> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let uri = http::Uri::builder().scheme("http").authority(authority).path_and_query(format!("/{method}"));
    let head = http::Request::post(uri.build()?)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = client.send_request(head, false)?;
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len())?.to_be_bytes();
    body.send_data([&[0], length.as_slice(), &message].concat().into(), true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{method} answers {}", response.status());
    let early = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    let mut received = Vec::new();
    while let Some(part) = body.data().await {
        let part: Bytes = part?;
        body.flow_control().release_capacity(part.len())?;
        received.extend_from_slice(&part);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = early.as_ref().or_else(|| trailers.get("grpc-status")).context("no grpc-status")?;
    ensure!(status == "0", "{method} fails with {status:?} {:?}", trailers.get("grpc-message"));
    Ok(A::decode(received.get(5..).context("no message")?)?)
}
