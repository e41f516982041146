//! The GpuNode of this node: written when something changed, and when slices are missing while the kubelet has this
//! plugin registered.
//!
//! The kubelet deletes all slices of its node when it starts, some time around the registration, and a driver's slices
//! when its plugin has been gone for 30 s. Only this side knows that the plugin lives, so it raises
//! `status.registration.generation`, once the controller has published for the generation before.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node as KubeNode;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use vgpu_api::names::{API_VERSION, DRIVER, PUBLISHED_ANNOTATION};
use vgpu_api::{GpuNode, GpuNodeStatus, Limiter, Registration};

use crate::MANAGER;
use crate::driver_spec;
use crate::gpus::Gpus;
use crate::metrics::Metrics;
use crate::prepare::{Hardware, Node};

/// GPUs are looked at this often.
const LOOK: Duration = Duration::from_secs(2);
/// Slices must be missing this long: the kubelet deletes them one after another.
const MISSING: Duration = Duration::from_secs(1);
/// A call to the API server takes no longer.
const CALL: Duration = Duration::from_secs(5);

/// How the driver spec is found.
#[derive(Debug, Clone)]
pub struct DriverPaths {
    /// A spec that was named.
    pub spec: Option<std::path::PathBuf>,
    /// Driver root here.
    pub root: std::path::PathBuf,
    /// Driver root on the host.
    pub root_on_host: std::path::PathBuf,
}

/// What is reported on.
pub struct Source {
    /// The GPUs.
    pub gpus: Arc<dyn Gpus>,
    /// Where the driver is.
    pub paths: DriverPaths,
    /// What was installed.
    pub limiter: Limiter,
}

/// Keeps the GpuNode.
pub struct Reporter {
    client: Client,
    name: String,
    gpus: Arc<dyn Gpus>,
    paths: DriverPaths,
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    registered: watch::Receiver<bool>,
    limiter: Limiter,
    written: Option<GpuNodeStatus>,
    generation: i64,
    missing_since: Option<Instant>,
}

impl Reporter {
    /// A reporter that has written nothing yet.
    pub fn new(
        client: Client,
        name: &str,
        source: Source,
        node: Arc<Node>,
        metrics: Arc<Metrics>,
        registered: watch::Receiver<bool>,
    ) -> Self {
        let Source { gpus, paths, limiter } = source;
        Self {
            client,
            name: name.to_owned(),
            gpus,
            paths,
            node,
            metrics,
            registered,
            limiter,
            written: None,
            generation: 0,
            missing_since: None,
        }
    }

    /// Reports for ever.
    pub async fn run(mut self) {
        let slices = watch_slices(&self.client, &self.name);
        let mut next_look = Instant::now();
        let mut found = GpuNodeStatus::default();
        loop {
            if Instant::now() >= next_look {
                found = self.look();
                next_look = Instant::now() + LOOK;
            }
            if let Err(error) = self.report(&found, &slices).await {
                tracing::warn!(error = format!("{error:#}"), "the GpuNode was not written");
                self.written = None;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
                changed = self.registered.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What there is. Also hands it to Prepare.
    fn look(&self) -> GpuNodeStatus {
        let mut status = GpuNodeStatus { limiter: self.limiter.clone(), ..GpuNodeStatus::default() };
        match self.gpus.list() {
            Ok(inventory) => {
                status.gpu_count = i64::try_from(inventory.gpus.len()).unwrap_or(i64::MAX);
                status.driver_version = inventory.driver_version;
                status.cuda_driver_version = inventory.cuda_driver_version;
                let paths = &self.paths;
                let driver = driver_spec::load(
                    paths.spec.as_deref(),
                    &paths.root,
                    &paths.root_on_host,
                    &inventory.gpus,
                );
                if let Err(error) = &driver {
                    status.limiter.ready = false;
                    status.limiter.message = error.to_string();
                }
                let hardware = Hardware { gpus: inventory.gpus.clone(), driver: driver.ok() };
                if let Err(error) = tokio::task::block_in_place(|| self.node.set_hardware(hardware)) {
                    status.limiter.ready = false;
                    status.limiter.message = error.to_string();
                }
                status.gpus = inventory.gpus;
            }
            Err(error) => status.message = error.to_string(),
        }
        self.metrics.gpus.set(status.gpu_count);
        status
    }

    async fn report(&mut self, found: &GpuNodeStatus, slices: &Store<ResourceSlice>) -> anyhow::Result<()> {
        let api: Api<GpuNode> = Api::all(self.client.clone());
        if self.written.is_none() {
            self.create(&api).await?;
        }
        if *self.registered.borrow() && slices.state().is_empty() {
            let since = *self.missing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= MISSING {
                self.raise(&api).await?;
            }
        } else {
            self.missing_since = None;
        }
        let status =
            GpuNodeStatus { registration: Registration { generation: self.generation }, ..found.clone() };
        if self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        let patch = json!({"apiVersion": API_VERSION, "kind": "GpuNode", "metadata": {"name": self.name}, "status": status});
        let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(patch));
        tokio::time::timeout(CALL, api.patch_status(&self.name, &parameters, &patch)).await??;
        tracing::info!(
            gpus = status.gpu_count,
            generation = self.generation,
            message = status.message,
            "reported"
        );
        self.written = Some(status);
        Ok(())
    }

    /// Makes the object, owned by the Node so that it goes with it, and goes on from the generation it has.
    async fn create(&mut self, api: &Api<GpuNode>) -> anyhow::Result<()> {
        let nodes: Api<KubeNode> = Api::all(self.client.clone());
        let node = tokio::time::timeout(CALL, nodes.get(&self.name)).await??;
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": "GpuNode",
            "metadata": {"name": self.name, "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": self.name, "uid": node.uid().unwrap_or_default()}]},
            "spec": {},
        });
        let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(object));
        let stored = tokio::time::timeout(CALL, api.patch(&self.name, &parameters, &patch)).await??;
        self.generation = self.generation.max(stored.status.map_or(0, |s| s.registration.generation));
        Ok(())
    }

    /// One more, if the controller has published for the last one.
    async fn raise(&mut self, api: &Api<GpuNode>) -> anyhow::Result<()> {
        let stored = tokio::time::timeout(CALL, api.get(&self.name)).await??;
        let published =
            stored.annotations().get(PUBLISHED_ANNOTATION).and_then(|v| v.parse::<i64>().ok()).unwrap_or(0);
        if self.generation <= published {
            self.generation = published + 1;
            tracing::info!(generation = self.generation, "this node's slices are missing");
        }
        self.missing_since = None;
        Ok(())
    }
}

fn watch_slices(client: &Client, node: &str) -> Store<ResourceSlice> {
    let (store, writer) = reflector::store();
    let fields = format!("spec.driver={DRIVER},spec.nodeName={node}");
    let api: Api<ResourceSlice> = Api::all(client.clone());
    let stream = watcher(api, watcher::Config::default().fields(&fields)).default_backoff();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(reflector(writer, stream));
        while let Some(event) = stream.next().await {
            if let Err(error) = event {
                tracing::warn!(%error, "the watch of slices was interrupted");
            }
        }
    });
    store
}
