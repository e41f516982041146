//! The ConfigMaps that tell the gate's admission policy which templates and claims are ours, one per namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::resource::v1::{DeviceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use vgpu_api::names::CLAIMS_CONFIG_MAP;

use crate::claim::Claim;
use crate::stores::Stores;
use crate::{MANAGER, WRITE_DEADLINE};

/// Data of each namespace's ConfigMap.
type Wanted = BTreeMap<String, BTreeMap<String, String>>;

/// Keeps the ConfigMaps, also against those who change or delete them.
pub struct Gate {
    client: Client,
    /// What each namespace's ConfigMap holds, as far as is known: what was written, until a watch shows something newer.
    stored: Wanted,
    /// Version the watch showed last.
    seen: BTreeMap<String, Option<String>>,
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
        let claim: &Claim = &claim;
        // A template's claim is named by no pod. Most claims are such.
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
        Self { client, stored: Wanted::new(), seen: BTreeMap::new() }
    }

    /// Writes what is not stored as it should be.
    pub async fn sync(&mut self, stores: &Stores, is_ours: &(dyn Fn(&str) -> bool + Sync)) {
        self.look(stores);
        if let Err(error) = self.write(&wanted(stores, is_ours)).await {
            tracing::warn!(error = format!("{error:#}"), "the gate's ConfigMaps were not written");
        }
    }

    /// Takes in what the watch has brought. It may lag behind our own writes; then one is sent again and changes nothing.
    fn look(&mut self, stores: &Stores) {
        let shown = stores.gate_maps.state();
        let shown: BTreeMap<String, &ConfigMap> =
            shown.iter().map(|m| (m.namespace().unwrap_or_default(), &**m)).collect();
        for namespace in self.seen.keys().filter(|n| !shown.contains_key(*n)) {
            self.stored.remove(namespace);
        }
        self.seen.retain(|namespace, _| shown.contains_key(namespace));
        for (namespace, map) in shown {
            let version = map.resource_version();
            if self.seen.get(&namespace) != Some(&version) {
                self.stored.insert(namespace.clone(), map.data.clone().unwrap_or_default());
                self.seen.insert(namespace, version);
            }
        }
    }

    async fn write(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let gone: Vec<String> = self.stored.keys().filter(|n| !wanted.contains_key(*n)).cloned().collect();
        for namespace in gone {
            self.delete(&namespace).await?;
        }
        for (namespace, data) in wanted {
            if self.stored.get(namespace) == Some(data) {
                continue;
            }
            // Applying leaves what others put beside it, and a pod of theirs would get our gate by it.
            if self.apply(namespace, data).await?.is_some_and(|left| left != *data) {
                self.delete(namespace).await?;
                self.apply(namespace, data).await?;
            }
            self.stored.insert(namespace.clone(), data.clone());
        }
        Ok(())
    }

    /// What the ConfigMap holds then; `None` if its namespace is going, which takes no new objects and whose pods need no
    /// gate.
    async fn apply(
        &self,
        namespace: &str,
        data: &BTreeMap<String, String>,
    ) -> anyhow::Result<Option<BTreeMap<String, String>>> {
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
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
            other => Ok(Some(other?.data.unwrap_or_default())),
        }
    }

    async fn delete(&mut self, namespace: &str) -> anyhow::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let parameters = DeleteParams::default();
        let call = api.delete(CLAIMS_CONFIG_MAP, &parameters);
        match tokio::time::timeout(WRITE_DEADLINE, call).await? {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
        self.stored.remove(namespace);
        Ok(())
    }
}
