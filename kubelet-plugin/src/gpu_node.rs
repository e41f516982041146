//! Keeps this node's GpuNode: created, owned by the Node, its status written when what it says changes.
//!
//! **Registration generation.** A slice is published again only when the plugin asks for it by a higher generation, because
//! the kubelet deletes slices on purpose too. The plugin asks when it is registered, its slices are missing, and the
//! controller owes it nothing more ([`RaiseRule`]). The kubelet's own wipe can come before or after the registration and
//! may be repeated, so the rule looks at states, not at the order of events: a slice wiped after it was published again is
//! simply missing once more.
//!
//! **Two instances** (during an upgrade) may both write. Neither rewrites what the other wrote unless its own view changes
//! or the difference lasts, so they do not quarrel; the generation only ever grows.

mod raise;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use vgpu_api::{GpuNode, GpuNodeStatus, Limiter, Registration, names};

pub use self::raise::RaiseRule;
use crate::discovery::Discovery;
use crate::slices::NodeSlices;

/// Field manager of everything this plugin writes.
pub const FIELD_MANAGER: &str = "vgpu-dra.io/kubelet-plugin";
/// How often the Node is read, for what device plugins offer.
const NODE_INTERVAL: Duration = Duration::from_secs(30);
/// How long another instance's words may stand where they differ from ours.
const DRIFT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(2);
/// For one call to the API server.
const CALL: Duration = Duration::from_secs(10);

/// Where the publisher's knowledge comes from.
pub struct Publisher {
    /// API server.
    pub client: Client,
    /// This node.
    pub node: String,
    /// What there is.
    pub discovery: watch::Receiver<Arc<Discovery>>,
    /// Slices of this node.
    pub slices: watch::Receiver<NodeSlices>,
    /// Since when the kubelet has the plugin registered.
    pub registered: watch::Receiver<Option<Instant>>,
}

/// The GpuNode as the API server has it; `None` outside until first listed, inside when it does not exist.
type Stored = Option<Option<GpuNode>>;

/// Publishes for ever. Errors are logged and tried again.
pub async fn run(publisher: Publisher) {
    let (sender, stored) = watch::channel(None);
    let watched = watch_stored(publisher.client.clone(), publisher.node.clone(), sender);
    tokio::join!(watched, publish(publisher, stored));
}

async fn watch_stored(client: Client, node: String, sender: watch::Sender<Stored>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut events = pin!(watcher(Api::<GpuNode>::all(client), config).default_backoff());
    let mut listed = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(object)) => listed = Some(object),
            Ok(watcher::Event::InitDone) => drop(sender.send(Some(listed.take()))),
            Ok(watcher::Event::Apply(object)) => drop(sender.send(Some(Some(object)))),
            Ok(watcher::Event::Delete(_)) => drop(sender.send(Some(None))),
            Err(error) => tracing::warn!(%error, "cannot watch the GpuNode of this node"),
        }
    }
}

async fn publish(mut from: Publisher, mut stored: watch::Receiver<Stored>) {
    let mut rule = RaiseRule::default();
    let mut generation = 0;
    let mut written: Option<GpuNodeStatus> = None;
    let mut differs_since: Option<Instant> = None;
    let mut missing_since: Option<Instant> = None;
    let mut existed = false;
    let mut node = NodeView::default();
    loop {
        let mut wake = node.refresh(&from).await;
        let object = stored.borrow_and_update().clone();
        let slices = from.slices.borrow_and_update().clone();
        let registered = *from.registered.borrow_and_update();
        let mut status = status(&from.discovery.borrow_and_update(), &slices, &node);
        // Before the Node was read, nobody would own the object and a device plugin would go unseen.
        if let (Some(object), true, true) = (object, slices.known, node.read.is_some()) {
            let now = Instant::now();
            let old = object.as_ref().and_then(|o| o.status.as_ref());
            // Somebody deleted it. The watch may lag behind our own first write, so its absence alone says nothing.
            if existed && object.is_none() {
                written = None;
            }
            existed = object.is_some();
            let stored_generation = old.map_or(0, |s| s.registration.generation);
            generation = generation.max(stored_generation);
            missing_since = if slices.ours { None } else { missing_since.or(Some(now)) };
            if slices.ours {
                rule.present();
            }
            let offers = status.limiter.ready && status.gpus.iter().any(|g| g.unpublished.is_empty());
            let owed = generation > object.as_ref().map_or(0, published);
            match rule.due(registered, missing_since, generation, owed, offers) {
                Some(due) if due <= now => {
                    generation += 1;
                    rule.raised(now);
                    tracing::info!(
                        generation,
                        "registered, but the node's slices are missing: asking for them"
                    );
                }
                Some(due) => wake = wake.min(due),
                None => {}
            }
            status.registration = Registration { generation: stored_generation };
            let same_as_stored = old == Some(&status);
            status.registration.generation = generation;
            if written.is_none() && same_as_stored {
                written = Some(status.clone());
            }
            differs_since = if same_as_stored { None } else { differs_since.or(Some(now)) };
            let changed = written.as_ref().is_none_or(|w| !same_words(w, &status));
            let drifted = differs_since.is_some_and(|since| now >= since + DRIFT);
            if changed || drifted || generation > stored_generation {
                let write = write(&from.client, &from.node, &node, &status);
                match within(write).await {
                    Ok(()) => {
                        written = Some(status);
                        differs_since = None;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot write the GpuNode of this node");
                        wake = wake.min(Instant::now() + RETRY);
                    }
                }
            } else if let Some(since) = differs_since {
                wake = wake.min(since + DRIFT);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(wake) => {}
            changed = stored.changed() => if changed.is_err() { return },
            changed = from.slices.changed() => if changed.is_err() { return },
            changed = from.discovery.changed() => if changed.is_err() { return },
            changed = from.registered.changed() => if changed.is_err() { return },
        }
    }
}

/// Equal but for the generation, which is nobody's words alone.
fn same_words(a: &GpuNodeStatus, b: &GpuNodeStatus) -> bool {
    GpuNodeStatus { registration: b.registration.clone(), ..a.clone() } == *b
}

/// The generation the controller published last.
fn published(object: &GpuNode) -> i64 {
    object.annotations().get(names::PUBLISHED_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What the Node object adds.
#[derive(Debug, Clone, Default)]
struct NodeView {
    owner: Option<OwnerReference>,
    /// Extended resource of a device plugin that hands out whole GPUs, with its amount.
    device_plugin: Option<String>,
    read: Option<Instant>,
}

impl NodeView {
    /// Reads the Node when it is time; says when it will be again.
    async fn refresh(&mut self, from: &Publisher) -> Instant {
        let now = Instant::now();
        if let Some(next) = self.read.map(|read| read + NODE_INTERVAL).filter(|next| *next > now) {
            return next;
        }
        match within(Api::<Node>::all(from.client.clone()).get(&from.node)).await {
            Ok(node) => {
                self.owner = node.uid().map(|uid| OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: from.node.clone(),
                    uid,
                    ..OwnerReference::default()
                });
                self.device_plugin = device_plugin(&node);
                self.read = Some(now);
                now + NODE_INTERVAL
            }
            Err(error) => {
                tracing::warn!(node = from.node, %error, "cannot read the Node");
                now + RETRY
            }
        }
    }
}

/// `nvidia.com/gpu: 4` and the like in the node's allocatable resources.
fn device_plugin(node: &Node) -> Option<String> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    allocatable
        .iter()
        .find(|(name, amount)| {
            (name.starts_with("nvidia.com/gpu") || name.starts_with("nvidia.com/mig-")) && amount.0 != "0"
        })
        .map(|(name, amount)| format!("{name}: {}", amount.0))
}

fn status(discovery: &Discovery, slices: &NodeSlices, node: &NodeView) -> GpuNodeStatus {
    let mut gpus = discovery.gpus.clone();
    for gpu in gpus.iter_mut().filter(|g| g.unpublished.is_empty()) {
        if let Some(by) = slices.others.get(&names::device(&gpu.uuid)) {
            gpu.unpublished =
                format!("{by} offers it too: remove that driver from this node, or exclude the GPU there");
        } else if let Some(resource) = &node.device_plugin {
            gpu.unpublished = format!(
                "the node's allocatable resources have {resource}: remove the device plugin that hands out its GPUs"
            );
        }
    }
    GpuNodeStatus {
        registration: Registration::default(),
        gpu_count: i64::try_from(gpus.len()).unwrap_or(i64::MAX),
        driver_version: discovery.driver_version.clone(),
        cuda_driver_version: discovery.cuda_driver_version.clone(),
        limiter: Limiter {
            ready: discovery.limiter_message.is_empty() && discovery.limiter.is_some(),
            version: discovery
                .limiter
                .as_ref()
                .map(|i| format!("{}+{}", env!("CARGO_PKG_VERSION"), i.hash))
                .unwrap_or_default(),
            message: discovery.limiter_message.clone(),
        },
        gpus,
        message: discovery.message.clone(),
    }
}

/// The answer, or an error when there is none in time.
async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(CALL, call).await.context("the API server does not answer")??)
}

async fn write(client: &Client, name: &str, node: &NodeView, status: &GpuNodeStatus) -> kube::Result<()> {
    let api: Api<GpuNode> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let head = json!({"apiVersion": names::API_VERSION, "kind": "GpuNode"});
    let mut object = head.clone();
    object["metadata"] = json!({"name": name, "ownerReferences": node.owner.as_slice()});
    object["spec"] = json!({});
    api.patch(name, &params, &Patch::Apply(&object)).await?;
    let mut object = head;
    object["metadata"] = json!({"name": name});
    object["status"] = json!(status);
    api.patch_status(name, &params, &Patch::Apply(&object)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use vgpu_api::Gpu;

    use super::*;
    use crate::limiter::Installed;

    fn discovery() -> Discovery {
        let gpu = |n: i64| Gpu { uuid: format!("GPU-{n}"), minor: n, ..Gpu::default() };
        let limiter = Some(Installed { hash: "ab".into(), folder: "/x".into() });
        Discovery { gpus: vec![gpu(0), gpu(1)], limiter, ..Discovery::default() }
    }

    #[test]
    fn a_gpu_another_driver_offers_is_not_published() {
        let others = [("gpu-1".to_owned(), "driver gpu.nvidia.com (ResourceSlice x)".to_owned())].into();
        let slices = NodeSlices { known: true, ours: true, others };
        let status = status(&discovery(), &slices, &NodeView::default());
        assert_eq!(status.gpus[0].unpublished, "");
        assert!(
            status.gpus[1].unpublished.starts_with("driver gpu.nvidia.com (ResourceSlice x) offers it too")
        );
        assert!(status.limiter.ready && status.limiter.version.ends_with("+ab"));
    }

    #[test]
    fn a_device_plugin_keeps_every_gpu_unpublished() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {}, "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": "4"}}}),
        )
        .unwrap();
        let view = NodeView { device_plugin: device_plugin(&node), ..NodeView::default() };
        let status = status(&discovery(), &NodeSlices::default(), &view);
        assert!(status.gpus.iter().all(|g| g.unpublished.contains("nvidia.com/gpu: 4")));
        let none: Node = serde_json::from_value(
            json!({"metadata": {}, "status": {"allocatable": {"nvidia.com/gpu": "0"}}}),
        )
        .unwrap();
        assert_eq!(device_plugin(&none), None);
    }

    #[test]
    fn without_a_limiter_it_is_not_ready() {
        let found = Discovery { limiter_message: "no room".into(), ..discovery() };
        let status = status(&found, &NodeSlices::default(), &NodeView::default());
        assert!(!status.limiter.ready);
        assert_eq!(status.limiter.message, "no room");
    }
}
