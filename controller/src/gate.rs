//! The ConfigMaps that tell the gate's admission policy which templates and claims are ours, one per namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::resource::v1::{DeviceClaim, ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use vgpu_api::names::CLAIMS_CONFIG_MAP;

use crate::stores::Stores;
use crate::{MANAGER, WRITE_DEADLINE};

/// Data of each namespace's ConfigMap.
type Wanted = BTreeMap<String, BTreeMap<String, String>>;

/// Keeps the ConfigMaps.
pub struct Gate {
    client: Client,
    stored: Option<Wanted>,
}

/// Classes a claim's requests name.
pub fn classes(devices: Option<&DeviceClaim>) -> Vec<&str> {
    let mut names = Vec::new();
    for request in devices.and_then(|d| d.requests.as_deref()).unwrap_or_default() {
        names.extend(request.exactly.as_ref().map(|e| e.device_class_name.as_str()));
        names.extend(request.first_available.iter().flatten().map(|s| s.device_class_name.as_str()));
    }
    names
}

fn wanted(stores: &Stores, is_ours: &(dyn Fn(&str) -> bool + Sync)) -> Wanted {
    let mut wanted = Wanted::new();
    let mut list = |namespace: Option<String>, key: String| {
        wanted.entry(namespace.unwrap_or_default()).or_default().insert(key, String::new());
    };
    for template in stores.templates.state() {
        let template: &ResourceClaimTemplate = &template;
        if classes(template.spec.spec.devices.as_ref()).into_iter().any(is_ours) {
            list(template.namespace(), format!("template.{}", template.name_any()));
        }
    }
    for claim in stores.claims.state() {
        let claim: &ResourceClaim = &claim;
        // A template's claim is named by no pod.
        let made = claim.owner_references().iter().any(|o| o.kind == "Pod");
        if !made && classes(claim.spec.devices.as_ref()).into_iter().any(is_ours) {
            list(claim.namespace(), format!("claim.{}", claim.name_any()));
        }
    }
    wanted
}

impl Gate {
    /// Nothing is known of what is stored until the first [`Self::sync`].
    pub fn new(client: Client) -> Self {
        Self { client, stored: None }
    }

    /// Writes what changed.
    pub async fn sync(&mut self, stores: &Stores, is_ours: &(dyn Fn(&str) -> bool + Sync)) {
        if let Err(error) = self.write(&wanted(stores, is_ours)).await {
            tracing::warn!(error = format!("{error:#}"), "the gate's ConfigMaps were not written");
            // What took and what did not is not known any more.
            self.stored = None;
        }
    }

    async fn write(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        if self.stored.is_none() {
            let api: Api<ConfigMap> = Api::all(self.client.clone());
            let ours = ListParams::default().fields(&format!("metadata.name={CLAIMS_CONFIG_MAP}"));
            let list = tokio::time::timeout(WRITE_DEADLINE, api.list(&ours)).await??;
            let data = |m: ConfigMap| (m.namespace().unwrap_or_default(), m.data.unwrap_or_default());
            self.stored = Some(list.items.into_iter().map(data).collect());
        }
        let stored = self.stored.get_or_insert_default();
        let gone: Vec<String> = stored.keys().filter(|n| !wanted.contains_key(*n)).cloned().collect();
        for namespace in gone {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
            let deleted =
                tokio::time::timeout(WRITE_DEADLINE, api.delete(CLAIMS_CONFIG_MAP, &DeleteParams::default()))
                    .await?;
            match deleted {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
            stored.remove(&namespace);
        }
        for (namespace, data) in wanted {
            if stored.get(namespace) == Some(data) {
                continue;
            }
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": CLAIMS_CONFIG_MAP, "namespace": namespace},
                "data": data,
            });
            let parameters = PatchParams::apply(MANAGER).force();
            let map = Patch::Apply(&map);
            let call = api.patch(CLAIMS_CONFIG_MAP, &parameters, &map);
            match tokio::time::timeout(WRITE_DEADLINE, call).await? {
                // A namespace that is going takes no new objects, and its pods need no gate.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {}
                other => drop(other?),
            }
            stored.insert(namespace.clone(), data.clone());
        }
        Ok(())
    }
}
