//! `/metrics` and `/healthz`.
//!
//! Healthy means that the plugin can do its work: both sockets answer as they answer the kubelet, its folders can be
//! written, and NVML answers. A node without GPUs or without a driver is healthy; the GpuNode says what it lacks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use rustix::fs::{Access, access};
use tonic::transport::{Channel, Endpoint};

use crate::discovery::Watchdog;
use crate::metrics;
use crate::proto::dra::NodePrepareResourcesRequest;
use crate::proto::dra::dra_plugin_client::DraPluginClient;
use crate::proto::registration::InfoRequest;
use crate::proto::registration::registration_client::RegistrationClient;

/// For one call through a socket. There are two, and the chart's probes wait longer than both.
const CALL: Duration = Duration::from_secs(2);
/// NVML is slow while a driver starts, and never this slow.
const STUCK: Duration = Duration::from_secs(120);

/// What health depends on.
#[derive(Debug, Clone)]
pub struct Checks {
    /// The DRA service's socket.
    pub dra: PathBuf,
    /// The registration service's socket.
    pub registration: PathBuf,
    /// Folders that must be writable.
    pub folders: Vec<PathBuf>,
    /// Whether the GPUs are still looked at.
    pub watchdog: Arc<Watchdog>,
}

impl Checks {
    /// Runs all of them. Error: the first that failed, with its cure.
    pub async fn run(&self) -> Result<(), String> {
        let socket = |path: &PathBuf, why: String| {
            format!("the socket {} does not answer ({why}): restart the plugin", path.display())
        };
        self.ask_registration().await.map_err(|e| socket(&self.registration, e))?;
        self.ask_dra().await.map_err(|e| socket(&self.dra, e))?;
        for folder in &self.folders {
            access(folder, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|e| format!("the folder {} cannot be written: {e}", folder.display()))?;
        }
        self.watchdog.check(STUCK)
    }

    async fn ask_registration(&self) -> Result<(), String> {
        let mut client = RegistrationClient::new(connect(&self.registration).await?);
        client.get_info(InfoRequest {}).await.map(drop).map_err(|e| e.to_string())
    }

    async fn ask_dra(&self) -> Result<(), String> {
        let mut client = DraPluginClient::new(connect(&self.dra).await?);
        let nothing = NodePrepareResourcesRequest { claims: Vec::new() };
        client.node_prepare_resources(nothing).await.map(drop).map_err(|e| e.to_string())
    }
}

async fn connect(path: &std::path::Path) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).map_err(|e| e.to_string())?;
    endpoint.timeout(CALL).connect_timeout(CALL).connect().await.map_err(|e| {
        // The outer error says no more than "transport error".
        std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)
    })
}

/// Routes.
pub fn router(registry: Registry, checks: Checks) -> Router {
    let registry = Arc::new(registry);
    Router::new()
        .route("/metrics", get(move || scrape(registry.clone())))
        .route("/healthz", get(move || health(checks.clone())))
}

async fn scrape(registry: Arc<Registry>) -> Response {
    // Reads the share files.
    let body = tokio::task::spawn_blocking(move || metrics::encode(&registry)).await;
    match body {
        Ok(Ok(body)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Ok(Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn health(checks: Checks) -> Response {
    match checks.run().await {
        Ok(()) => "ok\n".into_response(),
        Err(why) => {
            tracing::warn!(why, "not healthy");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        }
    }
}
