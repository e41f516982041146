//! Pods with one claim each, from their creation until they are bound.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::api::{ApiResource, PostParams};
use kube::core::{NotUsed, Object, Request};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::fleet::{self, CALLS};
use crate::plane::{Allocator, Plane};

pub(crate) const NAMESPACE: &str = "bench";
/// Bound before the clock starts, to fill caches.
const WARM_UP: usize = 20;
const PATIENCE: Duration = Duration::from_secs(1200);

/// What a measurement gave.
pub(crate) struct Outcome {
    pub(crate) pods_per_second: f64,
    /// From a pod's creation to its binding.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) writes_per_pod: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods_per_second, p50_ms, p99_ms, writes_per_pod } = self;
        write!(
            f,
            "{pods_per_second:.1} pods/s, bound after {p50_ms:.0} ms (p99 {p99_ms:.0}), {writes_per_pod:.1} writes each"
        )
    }
}

/// Of a pod nothing else is read, so that watching costs little.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    node_name: Option<String>,
}

/// Makes so many pods as fast as the API server takes them and waits until all are bound.
pub(crate) async fn bind(plane: &Plane, pods: usize) -> anyhow::Result<Outcome> {
    let client = plane.cluster.client().await?;
    fleet::create(&client).await?;
    let controller = plane.controller()?;
    fleet::ready(&client).await?;
    prepare(&client, plane.allocator).await?;
    // The scheduler alone: nobody beside it takes processor time.
    let _controller = (plane.allocator == Allocator::Controller).then_some(controller);
    run(&client, "warm", WARM_UP).await?;
    let (before, spent) = (plane.writes()?, plane.processor_seconds()?);
    let (elapsed, mut latencies) = run(&client, "p", pods).await?;
    let seconds = since(&spent, &plane.processor_seconds()?);
    // Events are written a little later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let kinds = since(&before, &plane.writes()?);
    let writes: f64 = kinds.values().sum();
    eprintln!("    writes per pod: {}", each(&kinds, pods as f64));
    eprintln!("    ms of processor time per pod: {}", each(&seconds, pods as f64 / 1e3));
    latencies.sort();
    let at = |share: f64| {
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(0.0, Duration::as_secs_f64) * 1e3
    };
    Ok(Outcome {
        pods_per_second: pods as f64 / elapsed.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        writes_per_pod: writes / pods as f64,
    })
}

/// What came since then.
fn since(then: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    now.iter().map(|(what, n)| (what.clone(), n - then.get(what).copied().unwrap_or(0.0))).collect()
}

/// For people: what there is of each kind per pod, if it is worth a word.
fn each(of: &BTreeMap<String, f64>, pods: f64) -> String {
    let told = of.iter().filter(|(_, n)| **n / pods >= 0.05);
    told.map(|(what, n)| format!("{what}: {:.2}", n / pods)).collect::<Vec<_>>().join(", ")
}

/// A namespace with a template; returns when pods of it get their gate, if they are to get one.
pub(crate) async fn prepare(client: &Client, allocator: Allocator) -> anyhow::Result<()> {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    let exactly = json!({"deviceClassName": "gpu.vgpu-dra.io",
        "capacity": {"requests": {"memory": "20Gi", "cores": "20"}}});
    let template = json!({"metadata": {"name": "share"},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}}});
    let templates: Api<ResourceClaimTemplate> = Api::namespaced(client.clone(), NAMESPACE);
    templates.create(&PostParams::default(), &serde_json::from_value(template)?).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..300 {
        let listed = allocator == Allocator::Scheduler || maps.get_opt("vgpu-dra-claims").await?.is_some();
        if listed && accounts.get_opt("default").await?.is_some() {
            // Until the admission policy has seen it too.
            tokio::time::sleep(Duration::from_secs(3)).await;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("the namespace is not ready after 60 s")
}

pub(crate) fn pod(name: &str) -> anyhow::Result<Pod> {
    let pod = json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "main", "image": "none", "resources": {"claims": [{"name": "gpu"}],
            "requests": {"cpu": "10m", "memory": "16Mi"}}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "share"}]}});
    Ok(serde_json::from_value(pod)?)
}

async fn run(client: &Client, prefix: &str, count: usize) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let resource = ApiResource::erase::<Pod>(&());
    let seen: Api<Object<Binding, NotUsed>> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let url = seen.resource_url().to_owned();
    let started = Instant::now();
    let creating = async {
        let create = |index: usize| {
            let (client, url, name) = (client.clone(), url.clone(), format!("{prefix}{index}"));
            async move {
                let (begun, pod) = (Instant::now(), serde_json::to_vec(&pod(&name)?)?);
                let request = Request::new(url).create(&PostParams::default(), pod)?;
                // What is read of the answer takes time from those who are measured.
                let made = client.request::<IgnoredAny>(request).await;
                made.with_context(|| format!("create pod {name}"))?;
                anyhow::Ok((name, begun))
            }
        };
        stream::iter((0..count).map(create)).buffer_unordered(CALLS).try_collect::<HashMap<_, _>>().await
    };
    let watching = async {
        let mut bound: HashMap<String, Instant> = HashMap::new();
        // Only bound ones, so that watching costs little.
        let bound_only = watcher::Config::default().fields("spec.nodeName!=");
        let mut changes = std::pin::pin!(watcher(seen, bound_only).default_backoff().applied_objects());
        while let Some(object) = changes.next().await {
            let Ok(object) = object else { continue };
            let name = object.name_any();
            if object.spec.node_name.is_some() && name.starts_with(prefix) {
                bound.entry(name).or_insert_with(Instant::now);
            }
            if bound.len() == count {
                return Ok(bound);
            }
        }
        bail!("the watch ended")
    };
    let both = futures::future::try_join(creating, watching);
    let (created, bound) =
        tokio::time::timeout(PATIENCE, both).await.context("not all pods were bound in 20 minutes")??;
    let last = bound.values().max().copied().unwrap_or(started);
    let latency = |(name, at): (&String, &Instant)| Some(at.saturating_duration_since(*created.get(name)?));
    Ok((last - started, bound.iter().filter_map(latency).collect()))
}
