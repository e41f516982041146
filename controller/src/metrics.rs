//! `/metrics` and `/healthz`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Every metric; each is there from the start.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Pods placed.
    pub placed: Counter,
    /// Pods looked at that fit nowhere.
    pub refused: Counter,
    /// Pods whose claims cannot be understood.
    pub invalid: Counter,
    /// Writes that met a conflict or failed.
    pub failed_writes: Counter,
    /// Allocations cleared because the scheduler would not use them.
    pub cleared: Counter,
    /// Allocations taken back because nobody would use them.
    pub taken_back: Counter,
    /// Pods evicted for others.
    pub preempted: Counter,
    /// Pods that wait for an allocation.
    pub waiting: Gauge,
    /// GPUs that are promised more than they have.
    pub overcommitted: Gauge,
    /// Seconds of one decision.
    pub plan_seconds: Histogram,
    /// Seconds of one look at everything, with its decisions.
    pub pass_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("vgpu_controller");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let placed = counter("pods_placed", "Pods placed");
        let refused = counter("pods_refused", "Times a pod fitted nowhere");
        let invalid = counter("pods_invalid", "Times a pod's claims could not be understood");
        let failed_writes = counter("writes_failed", "Writes that met a conflict or failed");
        let cleared =
            counter("allocations_cleared", "Allocations cleared because the scheduler would not use them");
        let taken_back =
            counter("allocations_taken_back", "Allocations taken back because nobody would use them");
        let preempted = counter("pods_preempted", "Evictions of pods for others of higher priority");
        let waiting = Gauge::default();
        registry.register("pods_waiting", "Pods that wait for an allocation", waiting.clone());
        let overcommitted = Gauge::default();
        let help = "GPUs that are promised more than they have; anything but 0 is a defect";
        registry.register("gpus_overcommitted", help, overcommitted.clone());
        let plan_seconds = Histogram::new(exponential_buckets(1e-5, 4.0, 10));
        registry.register("plan_seconds", "Seconds of one decision", plan_seconds.clone());
        let pass_seconds = Histogram::new(exponential_buckets(1e-4, 4.0, 9));
        let help = "Seconds of one look at everything, with its decisions";
        registry.register("pass_seconds", help, pass_seconds.clone());
        Self {
            registry,
            placed,
            refused,
            invalid,
            failed_writes,
            cleared,
            taken_back,
            preempted,
            waiting,
            overcommitted,
            plan_seconds,
            pass_seconds,
        }
    }
}

impl Metrics {
    /// OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Encoding into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Serves on a task of its own.
///
/// # Errors
/// The address is taken.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on --metrics-address {address}"))?;
    let router = axum::Router::new()
        .route("/healthz", axum::routing::get(async || "ok"))
        .route("/metrics", axum::routing::get(async move || metrics.text()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}
