//! A cluster in memory, controllers on it, and what is asked about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vgpu_api::Policy;
use vgpu_controller::args::{Allocator, Args};
use vgpu_controller::claim::{self, Claim};
use vgpu_controller::controller::{self, LeaseLost};
use vgpu_controller::metrics::Metrics;
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{Object, class, gpu_node, node, template};
use vgpu_fake_api::{ClaimController, Connection, FakeApi, Kubelets, Scheduler};

/// Longer than any pause between two writes that belong together, shorter than any timer.
const QUIET: Duration = Duration::from_millis(300);

/// What a cluster has beside the controller.
pub(crate) struct Cluster {
    pub(crate) api: FakeApi,
    pub(crate) scheduler: Scheduler,
    _claims: ClaimController,
    _kubelets: Kubelets,
}

impl Cluster {
    /// Two nodes with one T4 each, and a template `share` of half of one.
    pub(crate) fn of_two_nodes() -> Self {
        let cluster = Self::with(&[("node-a", 1), ("node-b", 1)]);
        cluster.api.create(template("share", "7500Mi"));
        cluster
    }

    /// Nodes of this name with this many T4 each, and the driver's class.
    pub(crate) fn with(nodes: &[(&str, u32)]) -> Self {
        // Shown with RUST_LOG; another test of this program may have set it up already.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let api = FakeApi::with([class()]);
        let cluster = Self {
            scheduler: Scheduler::start(&api),
            _claims: ClaimController::start(&api),
            _kubelets: Kubelets::start(&api),
            api,
        };
        for (name, gpus) in nodes {
            cluster.add_node(name, *gpus);
        }
        cluster
    }

    pub(crate) fn add_node(&self, name: &str, gpus: u32) {
        self.api.create(node(name));
        self.add_gpus(name, gpus);
    }

    /// The plugin of a node that is there reports so many GPUs.
    pub(crate) fn add_gpus(&self, name: &str, gpus: u32) {
        let made: Node = self.api.get("", name).expect("the node is there");
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": made.metadata.uid}]);
        self.api.create(gpu_node(name, gpus).set("/metadata/ownerReferences", owner));
    }

    /// Returns when nothing is written any more.
    pub(crate) async fn idle(&self) {
        self.api.quiet(QUIET).await;
    }

    /// An active controller, after its first look at everything.
    pub(crate) async fn controller(&self) -> Controller {
        let controller = Controller::start(&self.api, "one");
        self.idle().await;
        controller
    }

    pub(crate) fn pod(&self, name: &str) -> Option<Pod> {
        self.api.get("default", name)
    }

    /// Node a pod is bound to.
    pub(crate) fn bound(&self, name: &str) -> Option<String> {
        self.pod(name)?.spec?.node_name
    }

    /// Results in the first claim of a pod, as the API server has them.
    pub(crate) fn stored_results(&self, pod: &str) -> Vec<Value> {
        let name = self.claims(pod).first().map(ResourceExt::name_any).expect("it has a claim");
        let claim: ResourceClaim = self.api.get("default", &name).expect("it is there");
        let claim = serde_json::to_value(claim).expect("it can be written");
        let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
        results.expect("it is allocated").clone()
    }

    /// Claims of a pod, in the order it names them.
    pub(crate) fn claims(&self, pod: &str) -> Vec<Claim> {
        let Some(pod) = self.pod(pod) else { return Vec::new() };
        let named = vgpu_controller::pod::claims(&pod).into_iter().filter_map(|c| c.claim);
        named.filter_map(|name| self.api.get("default", &name)).collect()
    }

    /// Devices of all of a pod's claims, `node/device`, in the order of its claims.
    pub(crate) fn gpus(&self, pod: &str) -> Vec<String> {
        let devices = |claim: &Claim| -> Vec<String> {
            let name = |r: &&vgpu_controller::claim::AllocatedDevice| {
                format!("{}/{}", r.pool.trim_end_matches("/gpu"), r.device)
            };
            claim::own_results(claim).iter().map(name).collect()
        };
        self.claims(pod).iter().flat_map(devices).collect()
    }

    /// Node a pod's first claim is allocated on.
    pub(crate) fn allocated(&self, pod: &str) -> Option<String> {
        claim::node_of(self.claims(pod).first()?)
    }

    /// Notes of the events of this reason about an object.
    pub(crate) fn notes(&self, object: &str, reason: &str) -> Vec<String> {
        let about = |e: &Event| {
            e.reason.as_deref() == Some(reason)
                && e.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(object))
        };
        self.api.all::<Event>().into_iter().filter(about).filter_map(|e| e.note).collect()
    }

    /// Panics if more is allocated of a device than it has.
    #[track_caller]
    pub(crate) fn check_capacity(&self) {
        let mut used: BTreeMap<String, u64> = BTreeMap::new();
        for claim in self.api.all::<Claim>() {
            for share in claim::shares(&claim) {
                *used.entry(format!("{}/{}", share.node, share.gpu)).or_default() += share.memory;
            }
        }
        for (gpu, bytes) in used {
            assert!(bytes <= 15_104 << 20, "{gpu} is promised {} MiB", bytes >> 20);
        }
    }

    /// Deletes a pod as its user would.
    pub(crate) fn delete_pod(&self, name: &str) {
        self.api.delete::<Pod>("default", name).expect("the pod is there");
    }

    pub(crate) fn patch_pod(&self, name: &str, status: bool, patch: Value) {
        self.api.patch::<Pod>("default", name, status, &patch).expect("the patch is right");
    }
}

/// A controller's process.
pub(crate) struct Controller {
    pub(crate) connection: Connection,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), LeaseLost>>,
}

impl Controller {
    pub(crate) fn start(api: &FakeApi, identity: &str) -> Self {
        Self::start_on(api.connect(), identity)
    }

    pub(crate) fn start_on(connection: Connection, identity: &str) -> Self {
        Self::start_with(connection, identity, |_| {})
    }

    /// With flags of its own.
    pub(crate) fn start_with(connection: Connection, identity: &str, flags: impl FnOnce(&mut Args)) -> Self {
        let mut args = Args {
            allocator: Allocator::Controller,
            node_policy: Policy::Binpack,
            gpu_policy: Policy::Binpack,
            preemption: true,
            hami_quotas: false,
            metrics_address: ([127, 0, 0, 1], 0).into(),
            namespace: "default".into(),
            identity: identity.into(),
        };
        flags(&mut args);
        let (stop, stopped) = oneshot::channel::<()>();
        let client = connection.client();
        let task = tokio::spawn(async move {
            let stop = async move { drop(stopped.await) };
            controller::run(client, &args, Arc::new(Metrics::default()), stop).await
        });
        Self { connection, stop: Some(stop), task }
    }

    /// SIGTERM; returns when the process has ended.
    pub(crate) async fn stop(mut self) -> Result<(), LeaseLost> {
        drop(self.stop.take());
        (&mut self.task).await.expect("the controller did not panic")
    }

    /// Returns when the process has ended by itself.
    pub(crate) async fn ended(mut self) -> Result<(), LeaseLost> {
        (&mut self.task).await.expect("the controller did not panic")
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        // It was cancelled; there is nothing else to know.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A pod's number and name as tests make them.
pub(crate) fn names(pods: &[Object]) -> Vec<String> {
    pods.iter().map(|p| p.name().to_owned()).collect()
}

pub(crate) async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Whether an object still has our finalizer or an allocation.
pub(crate) fn is_clean(claim: &Claim) -> bool {
    !claim::is_allocated(claim) && claim.finalizers().is_empty()
}
