//! `/metrics` and `/healthz`.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::error::PrepareError;
use crate::prepare::Node;

/// Label of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// Every metric; each is there from the start.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Claims that could not be prepared or unprepared.
    pub failures: Family<Reason, Counter>,
    /// Seconds of one Prepare, without the read from the API server.
    pub prepare_seconds: Histogram,
    /// Claims prepared now.
    pub prepared: Gauge,
    /// GPUs found.
    pub gpus: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("vgpu_kubelet_plugin");
        let failures = Family::<Reason, Counter>::default();
        for reason in PrepareError::REASONS {
            drop(failures.get_or_create(&Reason { reason }));
        }
        registry.register("failures", "Claims that could not be prepared or unprepared", failures.clone());
        let prepare_seconds = Histogram::new(exponential_buckets(1e-4, 3.0, 10));
        registry.register(
            "prepare_seconds",
            "Seconds of one Prepare without the API read",
            prepare_seconds.clone(),
        );
        let prepared = Gauge::default();
        registry.register("claims_prepared", "Claims prepared now", prepared.clone());
        let gpus = Gauge::default();
        registry.register("gpus", "GPUs found", gpus.clone());
        Self { registry, failures, prepare_seconds, prepared, gpus }
    }
}

impl Metrics {
    /// Counts a failure.
    pub fn failed(&self, error: &PrepareError) {
        self.failures.get_or_create(&Reason { reason: error.reason() }).inc();
    }

    /// OpenMetrics text, with what each share may use and uses as of now.
    pub fn text(&self, node: &Node) -> String {
        let claims = node.prepared();
        self.prepared.set(i64::try_from(claims.len()).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Encoding and writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.truncate(end);
        for (name, help) in [
            ("vgpu_share_memory_limit_bytes", "Memory the share may use"),
            ("vgpu_share_memory_used_bytes", "Memory charged to the share's living processes"),
        ] {
            let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
            for (uid, claim) in &claims {
                for share in claim.shares.iter().filter(|s| s.limited) {
                    let used = || node.share_files().usage(uid, &share.share_id).map_or(0, |u| u.memory);
                    let value = if name.ends_with("limit_bytes") { share.memory } else { used() };
                    let _ = writeln!(
                        text,
                        "{name}{{namespace=\"{}\",claim=\"{}\",request=\"{}\",gpu=\"{}\"}} {value}",
                        claim.namespace, claim.name, share.request, share.uuid
                    );
                }
            }
        }
        text.push_str("# EOF\n");
        text
    }
}

/// Serves on a task of its own.
///
/// # Errors
/// The address is taken.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, node: Arc<Node>) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on --metrics-address {address}"))?;
    let router = axum::Router::new()
        .route("/healthz", axum::routing::get(async || "ok"))
        .route("/metrics", axum::routing::get(async move || metrics.text(&node)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}
