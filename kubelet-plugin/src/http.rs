//! `/metrics` and `/healthz`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

use crate::metrics;

/// Routes. Healthy means that the kubelet can find both `sockets`; a node without GPUs is healthy too.
pub fn router(registry: Registry, sockets: Vec<PathBuf>) -> Router {
    let registry = Arc::new(registry);
    Router::new()
        .route("/metrics", get(move || scrape(registry.clone())))
        .route("/healthz", get(move || health(sockets.clone())))
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

async fn health(sockets: Vec<PathBuf>) -> Response {
    match sockets.iter().find(|path| !path.exists()) {
        None => "ok\n".into_response(),
        Some(path) => {
            let message = format!("socket {} is gone: a restart makes it anew\n", path.display());
            (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
        }
    }
}
