//! Pure: the objects of a manifest put into a snapshot as an API server and its controllers would.

use std::collections::HashSet;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::PodResourceClaimStatus;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use serde_json::Value;
use vgpu_controller::claim::Claim;
use vgpu_controller::pod::Pod;
use vgpu_controller::snapshot::Snapshot;

/// Adds Pods, ResourceClaims and ResourceClaimTemplates, makes the claims of templates, and gives the UIDs of the pods.
///
/// # Errors
/// A document that is none of these, a name that is there already, or a template or claim that is nowhere.
pub(crate) fn add(snapshot: &mut Snapshot, text: &str, namespace: &str) -> anyhow::Result<HashSet<String>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("it is no YAML")?;
    let mut pods: Vec<Pod> = Vec::new();
    for (number, document) in documents.into_iter().enumerate() {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        let place = || format!("document {}: {kind} {}", number + 1, document["metadata"]["name"]);
        match kind.as_str() {
            "Pod" => pods.push(of(&document, namespace).with_context(place)?),
            "ResourceClaim" => snapshot.claims.push(of(&document, namespace).with_context(place)?),
            "ResourceClaimTemplate" => snapshot.templates.push(of(&document, namespace).with_context(place)?),
            _ => bail!(
                "document {}: kind: {kind:?} cannot be simulated; write Pod, ResourceClaimTemplate and ResourceClaim",
                number + 1
            ),
        }
    }
    if pods.is_empty() {
        bail!("it has no Pod");
    }
    let mut added = HashSet::new();
    for (number, mut pod) in pods.into_iter().enumerate() {
        let uid = format!("simulated-{number}");
        pod.metadata.uid = Some(uid.clone());
        // Younger than all that is there, in the manifest's order.
        let now =
            k8s_openapi::jiff::Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(number as i64);
        pod.metadata.creation_timestamp = Some(Time(now));
        let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        if snapshot.pods.iter().any(|p| p.name_any() == name && p.namespace().as_deref() == Some(&namespace))
        {
            bail!("Pod {name}: namespace {namespace} has a pod of that name already; give it another");
        }
        claims(snapshot, &mut pod, &namespace)?;
        snapshot.pods.push(pod);
        added.insert(uid);
    }
    Ok(added)
}

fn of<K>(document: &Value, namespace: &str) -> anyhow::Result<K>
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta> + serde::de::DeserializeOwned,
{
    let mut object: K = serde_json::from_value(document.clone())?;
    let metadata = object.metadata_mut();
    if metadata.name.as_deref().unwrap_or_default().is_empty() {
        bail!("metadata.name is missing");
    }
    metadata.namespace.get_or_insert_with(|| namespace.to_owned());
    metadata.uid = Some(format!("simulated-{}-{}", K::KIND, metadata.name.clone().unwrap_or_default()));
    Ok(object)
}

/// Makes the claims of the pod's templates, and checks that the others are there.
fn claims(snapshot: &mut Snapshot, pod: &mut Pod, namespace: &str) -> anyhow::Result<()> {
    let pod_name = pod.name_any();
    let named = pod.spec.as_ref().and_then(|s| s.resource_claims.clone()).unwrap_or_default();
    let mut made = Vec::new();
    for entry in named {
        let here = |of: Option<String>| of.as_deref() == Some(namespace);
        if let Some(claim) = &entry.resource_claim_name {
            let is_there = snapshot.claims.iter().any(|c| c.name_any() == *claim && here(c.namespace()));
            anyhow::ensure!(
                is_there,
                "Pod {pod_name}: spec.resourceClaims[{}].resourceClaimName: namespace {namespace} has no ResourceClaim \
                 {claim:?}; add it to the manifest",
                entry.name
            );
        }
        let Some(template) = &entry.resource_claim_template_name else { continue };
        let found: Option<&ResourceClaimTemplate> =
            snapshot.templates.iter().find(|t| t.name_any() == *template && here(t.namespace()));
        let found = found.with_context(|| {
            format!(
                "Pod {pod_name}: spec.resourceClaims[{}].resourceClaimTemplateName: namespace {namespace} has no \
                 ResourceClaimTemplate {template:?}; add it to the manifest",
                entry.name
            )
        })?;
        let name = format!("{pod_name}-{}-simulated", entry.name);
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(format!("simulated-{name}")),
            ..ObjectMeta::default()
        };
        let claim = Claim { metadata, spec: found.spec.spec.clone().into(), status: None };
        snapshot.claims.push(claim);
        made.push(PodResourceClaimStatus { name: entry.name, resource_claim_name: Some(name) });
    }
    pod.status.get_or_insert_default().resource_claim_statuses = Some(made);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: &str = "apiVersion: resource.k8s.io/v1\nkind: ResourceClaimTemplate\nmetadata: {name: share}\nspec: {spec: \
                         {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.vgpu-dra.io}}]}}}\n";
    const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: train}\nspec: {containers: [{name: c}], \
                       resourceClaims: [{name: gpu, resourceClaimTemplateName: share}]}\n";

    #[test]
    fn a_pod_gets_the_claims_of_its_templates() {
        let mut snapshot = Snapshot::default();
        let added = add(&mut snapshot, &format!("{SHARE}{POD}"), "team").unwrap();
        assert_eq!(added.len(), 1);
        let claims = vgpu_controller::pod::claims(&snapshot.pods[0]);
        assert_eq!(claims[0].claim.as_deref(), Some("train-gpu-simulated"));
        assert_eq!(snapshot.claims[0].namespace().as_deref(), Some("team"));
    }

    #[test]
    fn what_cannot_be_simulated_is_named() {
        for (text, words) in [
            (POD.to_owned(), "spec.resourceClaims[gpu].resourceClaimTemplateName: namespace team has no"),
            ("kind: Deployment\n".to_owned(), "document 1: kind: \"Deployment\" cannot be simulated"),
            (SHARE.to_owned(), "it has no Pod"),
            (format!("{SHARE}{POD}{POD}"), "Pod train: namespace team has a pod of that name already"),
        ] {
            let error = format!("{:#}", add(&mut Snapshot::default(), &text, "team").unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }
}
