//! Everything the controller decides on, as it was at one moment: to be asked without a watch, and to be kept in a file.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaimTemplate};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vgpu_api::names::DRIVER;
use vgpu_api::{Placement, Policy};

use crate::claim::Claim;
use crate::pod::Pod;
use crate::slice::Slice;
use crate::stores;

/// Objects of all namespaces.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Policies of the controller's flags, as far as they could be read.
    #[serde(default)]
    pub defaults: Defaults,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Claims.
    pub claims: Vec<Claim>,
    /// Claim templates.
    pub templates: Vec<ResourceClaimTemplate>,
    /// Classes.
    pub classes: Vec<DeviceClass>,
    /// Slices of this driver.
    pub slices: Vec<Slice>,
    /// Volumes.
    pub volumes: Vec<PersistentVolume>,
    /// Claims to volumes.
    pub volume_claims: Vec<PersistentVolumeClaim>,
    /// Quotas.
    pub quotas: Vec<ResourceQuota>,
    /// Disruption budgets.
    pub budgets: Vec<PodDisruptionBudget>,
    /// Taints of devices.
    pub taint_rules: Vec<DynamicObject>,
}

/// What the controller's flags say.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// `--node-policy`.
    pub node: Policy,
    /// `--gpu-policy`.
    pub gpu: Policy,
    /// `--hami-quotas`.
    pub hami_quotas: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { node: Policy::Binpack, gpu: Policy::Binpack, hami_quotas: false }
    }
}

impl Defaults {
    /// What is laid under class and claim configuration.
    pub fn placement(&self) -> Placement {
        Placement { node: Some(self.node), gpu: Some(self.gpu), ..Placement::default() }
    }

    /// Of a Deployment's first container's arguments; what is not said has the flag's own default.
    fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref().and_then(|d| d.template.spec.as_ref());
        let args =
            spec.and_then(|s| s.containers.first()).and_then(|c| c.args.as_deref()).unwrap_or_default();
        let value = |flag: &str| args.iter().find_map(|a| a.strip_prefix(flag)?.strip_prefix('='));
        let policy = |flag: &str| value(flag).and_then(|v| v.parse().ok()).unwrap_or(Policy::Binpack);
        Self {
            node: policy("--node-policy"),
            gpu: policy("--gpu-policy"),
            hami_quotas: value("--hami-quotas") == Some("true"),
        }
    }
}

/// A kind could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list {kind}")]
pub struct SnapshotError {
    kind: String,
    source: kube::Error,
}

async fn list<K>(client: &Client, params: &ListParams) -> Result<Vec<K>, SnapshotError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let listed = Api::<K>::all(client.clone()).list(params).await;
    let failed = |source| SnapshotError { kind: K::plural(&()).into_owned(), source };
    Ok(listed.map_err(failed)?.items)
}

impl Snapshot {
    /// Lists everything. `namespace`: where the controller's Deployment is looked for; a user who may not read it gets the
    /// flags' own defaults.
    ///
    /// # Errors
    /// [`SnapshotError`] names the first kind that could not be listed.
    pub async fn take(client: &Client, namespace: &str) -> Result<Self, SnapshotError> {
        let all = ListParams::default();
        let ours = ListParams::default().fields(&format!("spec.driver={DRIVER}"));
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let deployment = deployments.get_opt("vgpu-controller").await.ok().flatten();
        Ok(Self {
            defaults: deployment.as_ref().map(Defaults::of).unwrap_or_default(),
            nodes: list(client, &all).await?,
            pods: list(client, &all).await?,
            claims: list(client, &all).await?,
            templates: list(client, &all).await?,
            classes: list(client, &all).await?,
            slices: list(client, &ours).await?,
            volumes: list(client, &all).await?,
            volume_claims: list(client, &all).await?,
            quotas: list(client, &all).await?,
            budgets: list(client, &all).await?,
            taint_rules: match stores::taint_rules(client).await {
                None => Vec::new(),
                Some(kind) => {
                    let listed = Api::<DynamicObject>::all_with(client.clone(), &kind).list(&all).await;
                    listed.map_err(|source| SnapshotError { kind: kind.plural.clone(), source })?.items
                }
            },
        })
    }
}
