//! Registration with the kubelet: it finds the socket, asks who is there, and says how it went.
//!
//! A restarted kubelet scans its registry folder, so nothing has to be done about its restarts.

use std::path::Path;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use vgpu_api::names;

use crate::proto::registration::registration_server::{Registration, RegistrationServer};
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// Services behind the endpoint; the kubelet takes the first it knows.
pub const SUPPORTED: [&str; 1] = ["v1.DRAPlugin"];

/// Answers the kubelet.
#[derive(Debug)]
pub struct RegistrationService {
    endpoint: String,
    registered: watch::Sender<Option<Instant>>,
}

impl RegistrationService {
    /// `endpoint` is the DRA socket; `registered` gets the time of the last good registration.
    pub fn server(endpoint: &Path, registered: watch::Sender<Option<Instant>>) -> RegistrationServer<Self> {
        RegistrationServer::new(Self { endpoint: endpoint.to_string_lossy().into_owned(), registered })
    }
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "DRAPlugin".into(),
            name: names::DRIVER.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: SUPPORTED.map(str::to_owned).into(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
            self.registered.send_replace(Some(Instant::now()));
        } else {
            tracing::error!(error = status.error, "the kubelet did not register the plugin and tries again");
            self.registered.send_replace(None);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
