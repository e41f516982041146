//! What the plugin counts, and what shares use, as Prometheus reads it.
//!
//! Figures of shares are read from their files at each scrape. They are what tenants' processes booked, so a tenant can
//! falsify its own and nobody else's.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use vgpu_api::{Enforcement, Health, MIB};

use crate::checkpoint::{PreparedClaim, PreparedShare};
use crate::discovery::Discovery;
use crate::error::PrepareError;
use crate::gpus::health::{HealthBook, Severity};
use crate::share_files::{self, SharePaths, read_usage};
use crate::state::State;

/// Seconds: a tenth of a millisecond to a minute.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    call: &'static str,
    reason: &'static str,
}

const PREPARE: &str = "prepare";
const UNPREPARE: &str = "unprepare";

/// Counters and histograms, there at zero from the start.
pub struct Metrics {
    /// Preparing one claim, without reading it from the API server.
    pub prepare: Histogram,
    /// Unpreparing one claim.
    pub unprepare: Histogram,
    /// Reading one claim from the API server.
    pub claim_read: Histogram,
    /// Damaged checkpoints rebuilt.
    pub rebuilds: Counter,
    /// Times a GPU that several shares wanted went to another of them.
    pub turns: Counter,
    failures: Family<Failure, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            prepare: Histogram::new(BUCKETS),
            unprepare: Histogram::new(BUCKETS),
            claim_read: Histogram::new(BUCKETS),
            rebuilds: Counter::default(),
            turns: Counter::default(),
            failures: Family::default(),
        };
        for reason in PrepareError::REASONS {
            for call in [PREPARE, UNPREPARE] {
                drop(metrics.failures.get_or_create(&Failure { call, reason }));
            }
        }
        metrics
    }
}

impl Metrics {
    /// Counts a failed Prepare.
    pub fn prepare_failed(&self, error: &PrepareError) {
        self.failures.get_or_create(&Failure { call: PREPARE, reason: error.reason() }).inc();
    }

    /// Counts a failed Unprepare.
    pub fn unprepare_failed(&self, error: &PrepareError) {
        self.failures.get_or_create(&Failure { call: UNPREPARE, reason: error.reason() }).inc();
    }

    /// A registry of these and of what `node` collects.
    pub fn registry(&self, node: NodeCollector) -> Registry {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("vgpu_kubelet_plugin");
        own.register(
            "prepare_seconds",
            "Seconds of preparing one claim, without reading it from the API server",
            self.prepare.clone(),
        );
        own.register("unprepare_seconds", "Seconds of unpreparing one claim", self.unprepare.clone());
        own.register(
            "claim_read_seconds",
            "Seconds of reading one claim from the API server",
            self.claim_read.clone(),
        );
        own.register(
            "failures",
            "Claims that could not be prepared or unprepared, by call and reason",
            self.failures.clone(),
        );
        own.register(
            "checkpoint_rebuilds",
            "Damaged or lost checkpoints that were rebuilt",
            self.rebuilds.clone(),
        );
        own.register(
            "turns",
            "Times a GPU that several shares wanted went to another of them",
            self.turns.clone(),
        );
        registry.register_collector(Box::new(node));
        registry
    }
}

/// The text of a scrape.
pub fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut body = String::new();
    text::encode(&mut body, registry)?;
    Ok(body)
}

/// What is read anew at each scrape.
pub struct NodeCollector {
    /// Prepared shares.
    pub state: Arc<State>,
    /// GPUs.
    pub discovery: watch::Receiver<Arc<Discovery>>,
    /// Registration.
    pub registered: watch::Receiver<Option<tokio::time::Instant>>,
    /// Xid events.
    pub health: Arc<HealthBook>,
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

type Labels = Vec<(&'static str, String)>;

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let discovery = self.discovery.borrow().clone();
        let count = |state: &str| {
            let of = discovery.gpus.iter().filter(|g| match g.health {
                Health::Unhealthy => state == "unhealthy",
                Health::Healthy if g.unpublished.is_empty() => state == "usable",
                Health::Healthy => state == "unusable",
            });
            (vec![("state", state.to_owned())], of.count() as f64)
        };
        let gpus = ["usable", "unusable", "unhealthy"].map(count);
        gauge(
            &mut encoder,
            "vgpu_kubelet_plugin_gpus",
            "GPUs found: usable for shares, unusable (GpuNode says why), unhealthy",
            &gpus,
        )?;
        let registered = f64::from(u8::from(self.registered.borrow().is_some()));
        gauge(
            &mut encoder,
            "vgpu_kubelet_plugin_registered",
            "1 when the kubelet has the plugin registered",
            &[(vec![], registered)],
        )?;

        let mut family = encoder.encode_descriptor(
            "vgpu_kubelet_plugin_xid_events",
            "Xid events of the driver: program, contained, critical (the GPU is unhealthy)",
            None,
            MetricType::Counter,
        )?;
        for severity in Severity::ALL {
            let labels = [("severity", severity.name())];
            ConstCounter::new(self.health.seen(severity)).encode(family.encode_family(&labels)?)?;
        }

        let prepared = self.state.prepared();
        let shares: Vec<(&String, &PreparedClaim, &PreparedShare)> =
            prepared.claims.iter().flat_map(|(uid, c)| c.shares.iter().map(move |s| (uid, c, s))).collect();
        let total = shares.len() as f64;
        gauge(
            &mut encoder,
            "vgpu_kubelet_plugin_shares_prepared",
            "Shares prepared on this node, exclusive GPUs and looks of admins included",
            &[(vec![], total)],
        )?;
        let claims = prepared.claims.len() as f64;
        gauge(
            &mut encoder,
            "vgpu_kubelet_plugin_claims_prepared",
            "Claims prepared on this node",
            &[(vec![], claims)],
        )?;

        let labels = |claim: &PreparedClaim, share: &PreparedShare| -> Labels {
            vec![
                ("namespace", claim.namespace.clone()),
                ("claim", claim.name.clone()),
                ("request", share.request.clone()),
                ("share", share.share_id.clone()),
                ("gpu", share.uuid.clone()),
            ]
        };
        let of = |value: &dyn Fn(&PreparedShare) -> f64| -> Vec<(Labels, f64)> {
            let limited = shares.iter().filter(|(.., s)| !s.looks_only());
            limited.map(|(_, c, s)| (labels(c, s), value(s))).collect()
        };
        gauge(
            &mut encoder,
            "vgpu_share_memory_limit_bytes",
            "GPU memory of a share",
            &of(&|s| s.memory as f64),
        )?;
        gauge(
            &mut encoder,
            "vgpu_share_cores_limit",
            "Percent of GPU time a share may use; 0: no cap",
            &of(&|s| match s.enforcement {
                Enforcement::Hard => f64::from(s.cores % 100),
                Enforcement::Elastic | Enforcement::None => 0.0,
            }),
        )?;
        let used: Vec<_> = shares
            .iter()
            .filter(|(_, _, share)| !share.exclusive)
            .filter_map(|(uid, claim, share)| {
                let paths = SharePaths::new(&self.state.paths().share_dir, uid, &share.share_id);
                let usage = read_usage(&paths).ok()?;
                // Booked figures are the tenants' own: one past the limit cannot be true.
                Some((
                    labels(claim, share),
                    usage.memory.min(share.memory),
                    usage.processes.len(),
                    usage.gpu_nanos,
                ))
            })
            .collect();
        let memory: Vec<_> = used.iter().map(|(l, memory, ..)| (l.clone(), *memory as f64)).collect();
        gauge(
            &mut encoder,
            "vgpu_share_memory_used_bytes",
            "GPU memory charged to living processes of a share",
            &memory,
        )?;
        let kept: Vec<_> = shares
            .iter()
            .filter(|(_, _, share)| !share.exclusive)
            .filter_map(|(uid, claim, share)| {
                let paths = SharePaths::new(&self.state.paths().share_dir, uid, &share.share_id);
                Some((labels(claim, share), share_files::told(&paths)?.overhead as f64))
            })
            .collect();
        gauge(
            &mut encoder,
            "vgpu_share_overhead_bytes",
            "GPU memory the driver keeps for each process of a share, charged to it",
            &kept,
        )?;
        let processes: Vec<_> = used.iter().map(|(l, _, n, _)| (l.clone(), *n as f64)).collect();
        gauge(
            &mut encoder,
            "vgpu_share_processes",
            "Living processes of a share that use its GPU",
            &processes,
        )?;
        let mut family = encoder.encode_descriptor(
            "vgpu_share_gpu_seconds",
            "GPU time charged to a share",
            None,
            MetricType::Counter,
        )?;
        for (labels, _, _, nanos) in &used {
            let counter = ConstCounter::<f64>::new(*nanos as f64 / 1e9);
            counter.encode(family.encode_family(labels)?)?;
        }
        let memory: Vec<_> = discovery
            .gpus
            .iter()
            .map(|g| (vec![("gpu", g.uuid.clone())], (u64::try_from(g.memory_mib).unwrap_or(0) * MIB) as f64))
            .collect();
        gauge(&mut encoder, "vgpu_gpu_memory_bytes", "Memory of a GPU that can be shared out", &memory)?;
        let booked: Vec<_> = discovery
            .gpus
            .iter()
            .map(|g| {
                let sum: u64 = prepared.shares_on(&g.uuid, "").map(|(_, _, s)| s.memory).sum();
                (vec![("gpu", g.uuid.clone())], sum as f64)
            })
            .collect();
        gauge(
            &mut encoder,
            "vgpu_gpu_memory_prepared_bytes",
            "Memory of a GPU held by prepared shares",
            &booked,
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[(Labels, f64)],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    if let [(labels, value)] = values
        && labels.is_empty()
    {
        return ConstGauge::<f64>::new(*value).encode(family);
    }
    for (labels, value) in values {
        ConstGauge::<f64>::new(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}
