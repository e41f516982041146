//! What the API server's watches have brought, and a signal that something changed.

mod store;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaimTemplate};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use vgpu_api::names::{CLAIMS_CONFIG_MAP, DRIVER};
use vgpu_api::{GpuNode, GpuPolicy};

use crate::WRITE_DEADLINE;
use crate::claim::{self, Claim};
use crate::pod::{self, Pod};
use crate::shared::Copies;
use crate::slice::Slice;
use crate::snapshot::Snapshot;

pub use store::Store;
use store::Writer;

/// How often an API server without DeviceTaintRules is asked for them.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// When the API server was asked for DeviceTaintRules, or that it is being asked.
enum Asking {
    Since(Instant),
    Now(oneshot::Receiver<Option<ApiResource>>),
}

/// Slices asked for at a time: each has all devices of a node, and what is asked for at a time is here as text and parsed at
/// once.
const SLICES: u32 = 50;

/// Plural of DeviceTaintRule.
const TAINT_RULES: &str = "devicetaintrules";

/// A store per kind. The watches end with it.
pub struct Stores {
    /// Nodes.
    pub nodes: Store<Node>,
    /// Pods of all namespaces.
    pub pods: Store<Pod>,
    /// Claims.
    pub claims: Store<Claim>,
    /// Claim templates.
    pub templates: Store<ResourceClaimTemplate>,
    /// Classes.
    pub classes: Store<DeviceClass>,
    /// Slices of this driver.
    pub slices: Store<Slice>,
    /// What plugins report.
    pub gpu_nodes: Store<GpuNode>,
    /// What admins allow.
    pub policies: Store<GpuPolicy>,
    /// Volumes, for where they tie a pod to.
    pub volumes: Store<PersistentVolume>,
    /// Claims to volumes.
    pub volume_claims: Store<PersistentVolumeClaim>,
    /// What namespaces may hold.
    pub quotas: Store<ResourceQuota>,
    /// How many pods may go at a time.
    pub budgets: Store<PodDisruptionBudget>,
    /// What the gate's admission policy reads, one per namespace.
    pub gate_maps: Store<ConfigMap>,
    /// Taints of devices; `None` before [`Self::ready`], and if the API server has no such rules.
    pub taint_rules: Option<Store<DynamicObject>>,
    /// Something changed.
    pub changed: Arc<Notify>,
    /// Whether the API server has such rules by now, while it had none.
    asking: Asking,
    client: Client,
    watches: JoinSet<()>,
}

impl Stores {
    /// Starts all watches.
    pub fn start(client: &Client) -> Self {
        let (changed, mut watches) = (Arc::new(Notify::new()), JoinSet::new());
        let tasks = &mut watches;
        let all = watcher::Config::default();
        let ours = watcher::Config::default().fields(&format!("spec.driver={DRIVER}")).page_size(SLICES);
        let gate_maps = watcher::Config::default().fields(&format!("metadata.name={CLAIMS_CONFIG_MAP}"));
        Self {
            nodes: watch(tasks, client, all.clone(), &changed),
            pods: watch_with(tasks, Api::all(client.clone()), all.clone(), &changed, {
                let mut alike = pod::Alike::default();
                move |pod: &mut Pod| pod.reduce(&pod::ANNOTATIONS, &mut alike)
            }),
            claims: watch_with(tasks, Api::all(client.clone()), all.clone(), &changed, {
                let mut alike = claim::Alike::default();
                move |claim: &mut Claim| claim.reduce(&mut alike)
            }),
            templates: watch(tasks, client, all.clone(), &changed),
            classes: watch(tasks, client, all.clone(), &changed),
            slices: watch_with(tasks, Api::all(client.clone()), ours, &changed, {
                let mut alike = Copies::default();
                move |slice: &mut Slice| slice.reduce(&mut alike)
            }),
            gpu_nodes: watch(tasks, client, all.clone(), &changed),
            policies: watch(tasks, client, all.clone(), &changed),
            volumes: watch(tasks, client, all.clone(), &changed),
            volume_claims: watch(tasks, client, all.clone(), &changed),
            quotas: watch(tasks, client, all.clone(), &changed),
            budgets: watch(tasks, client, all, &changed),
            gate_maps: watch(tasks, client, gate_maps, &changed),
            taint_rules: None,
            changed,
            asking: Asking::Since(Instant::now()),
            client: client.clone(),
            watches,
        }
    }

    /// What a snapshot holds, once and for all.
    pub fn of(snapshot: Snapshot, client: Client) -> Self {
        Self {
            nodes: Store::of(snapshot.nodes),
            pods: Store::of(snapshot.pods),
            claims: Store::of(snapshot.claims),
            templates: Store::of(snapshot.templates),
            classes: Store::of(snapshot.classes),
            slices: Store::of(snapshot.slices),
            gpu_nodes: Store::of(Vec::new()),
            policies: Store::of(Vec::new()),
            volumes: Store::of(snapshot.volumes),
            volume_claims: Store::of(snapshot.volume_claims),
            quotas: Store::of(snapshot.quotas),
            budgets: Store::of(snapshot.budgets),
            gate_maps: Store::of(Vec::new()),
            taint_rules: Some(Store::of(snapshot.taint_rules)),
            changed: Arc::default(),
            asking: Asking::Since(Instant::now()),
            client,
            watches: JoinSet::new(),
        }
    }

    fn watch_rules(&mut self, rules: ApiResource) -> Store<DynamicObject> {
        let api = Api::all_with(self.client.clone(), &rules);
        watch_with(&mut self.watches, api, watcher::Config::default(), &self.changed, |_| ())
    }

    /// While the API server has no DeviceTaintRules, asks for them now and then: they may be turned on at any time.
    pub fn look_for_rules(&mut self) {
        if self.taint_rules.is_some() {
            return;
        }
        let answer = match &mut self.asking {
            Asking::Since(last) if last.elapsed() < ASK_AGAIN => return,
            Asking::Since(_) => {
                let (sender, answer) = oneshot::channel();
                let client = self.client.clone();
                self.watches.spawn(async move { drop(sender.send(taint_rules(&client).await)) });
                self.asking = Asking::Now(answer);
                return;
            }
            Asking::Now(answer) => match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                answer => answer.ok().flatten(),
            },
        };
        self.asking = Asking::Since(Instant::now());
        if let Some(rules) = answer {
            tracing::info!("the API server has DeviceTaintRules now");
            self.taint_rules = Some(self.watch_rules(rules));
        }
    }

    /// Waits until every store has seen what there was.
    pub async fn ready(&mut self) {
        if let Some(rules) = taint_rules(&self.client).await {
            let store = self.watch_rules(rules);
            store.wait_until_ready().await;
            self.taint_rules = Some(store);
        }
        self.asking = Asking::Since(Instant::now());
        tokio::join!(
            self.nodes.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.claims.wait_until_ready(),
            self.templates.wait_until_ready(),
            self.classes.wait_until_ready(),
            self.slices.wait_until_ready(),
            self.gpu_nodes.wait_until_ready(),
            self.policies.wait_until_ready(),
            self.volumes.wait_until_ready(),
            self.volume_claims.wait_until_ready(),
            self.budgets.wait_until_ready(),
            self.quotas.wait_until_ready(),
            self.gate_maps.wait_until_ready(),
        );
    }
}

/// DeviceTaintRules as the API server serves them. Versions before v1beta2 select by more than their fields here say.
pub(crate) async fn taint_rules(client: &Client) -> Option<ApiResource> {
    for version in ["v1", "v1beta2"] {
        let group_version = format!("resource.k8s.io/{version}");
        loop {
            let asked = client.list_api_group_resources(&group_version);
            match tokio::time::timeout(WRITE_DEADLINE, asked).await {
                Ok(Ok(list)) if list.resources.iter().any(|r| r.name == TAINT_RULES) => {
                    let kind = GroupVersionKind::gvk("resource.k8s.io", version, "DeviceTaintRule");
                    return Some(ApiResource::from_gvk_with_plural(&kind, TAINT_RULES));
                }
                Ok(Ok(_)) => break,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => break,
                Ok(Err(error)) => tracing::warn!(group_version, %error, "its kinds are asked for again"),
                Err(_) => tracing::warn!(group_version, "its kinds are asked for again: no answer"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    None
}

/// Half a second, doubling up to half a minute. One controller watches, so nothing is gained by chance in it.
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(30));
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = Duration::from_millis(500);
    }
}

fn watch<K>(
    tasks: &mut JoinSet<()>,
    client: &Client,
    config: watcher::Config,
    changed: &Arc<Notify>,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    watch_with(tasks, Api::all(client.clone()), config, changed, |_| ())
}

/// Watches a kind. `reduce` leaves away what is not read of an object.
fn watch_with<K>(
    tasks: &mut JoinSet<()>,
    api: Api<K>,
    config: watcher::Config,
    changed: &Arc<Notify>,
    mut reduce: impl FnMut(&mut K) + Send + 'static,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let mut writer = Writer::default();
    let store = writer.store();
    let changed = changed.clone();
    let stream = watcher(api, config).backoff(Pauses(Duration::from_millis(500))).modify(move |object| {
        // Who wrote which field is half of most objects, and nothing here looks at it.
        object.meta_mut().managed_fields = None;
        reduce(object);
    });
    tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    writer.take(event);
                    changed.notify_one();
                }
                Err(error) => {
                    tracing::warn!(kind = std::any::type_name::<K>(), %error, "a watch was interrupted")
                }
            }
        }
    });
    store
}
