//! What follows from a damaged or lost checkpoint: an event on the Node, and a look into the API for claims that left no
//! spec on the node to be found by.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::ListParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use vgpu_api::names;

use crate::claim::{ClaimRef, WantedShare, wanted};
use crate::gpu_node::FIELD_MANAGER;
use crate::metrics::Metrics;
use crate::state::State;

const RETRY: Duration = Duration::from_secs(10);
/// Claims per answer of the API server.
const PAGE: u32 = 500;

/// Handles each message of `damage`, for ever.
pub async fn run(
    client: Client,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    mut damage: mpsc::UnboundedReceiver<String>,
) {
    while let Some(note) = damage.recv().await {
        metrics.rebuilds.inc();
        tell(&client, state.node(), note).await;
        while let Err(error) = adopt(&client, &state).await {
            tracing::warn!(error = format!("{error:#}"), "claims of whole GPUs cannot be looked up yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn tell(client: &Client, node: &str, note: String) {
    let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER));
    // The kubelet puts the name where the UID belongs, and `kubectl describe node` looks there.
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(node.to_owned()),
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "CheckpointDamaged".into(),
        note: Some(note),
        action: "Rebuild".into(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &about).await {
        tracing::warn!(%error, "an event cannot be written");
    }
}

async fn adopt(client: &Client, state: &Arc<State>) -> anyhow::Result<()> {
    let api: Api<ResourceClaim> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut reserved = Vec::new();
    loop {
        let page = api.list(&params).await?;
        reserved.extend(page.items.iter().filter_map(|claim| reserved_here(claim, state.node())));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    let state = state.clone();
    let adopted = tokio::task::spawn_blocking(move || state.adopt(&reserved)).await??;
    tracing::info!(adopted, "claims of whole GPUs were looked up in the API");
    Ok(())
}

/// A claim of this node's GPUs that a pod has reserved, with its shares.
fn reserved_here(claim: &ResourceClaim, node: &str) -> Option<(ClaimRef, Vec<WantedShare>)> {
    let status = claim.status.as_ref()?;
    status.reserved_for.as_ref().filter(|pods| !pods.is_empty())?;
    let results = status.allocation.as_ref()?.devices.as_ref()?.results.as_ref()?;
    let pool = names::pool(node);
    results.iter().find(|r| r.driver == names::DRIVER && r.pool == pool)?;
    let claim_ref = ClaimRef { namespace: claim.namespace()?, name: claim.name_any(), uid: claim.uid()? };
    let shares = wanted(claim, &claim_ref, node)
        .inspect_err(|error| tracing::warn!(claim = %claim_ref, %error, "a reserved claim is not understood"))
        .ok()?;
    Some((claim_ref, shares))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(pool: &str, reserved: bool) -> ResourceClaim {
        let pods =
            if reserved { json!([{"resource": "pods", "name": "p", "uid": "p-1"}]) } else { json!([]) };
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "c", "uid": "u-1"}, "spec": {},
            "status": {"reservedFor": pods, "allocation": {"devices": {"results": [{
                "request": "gpu", "driver": names::DRIVER, "pool": pool, "device": "gpu-1", "shareID": "s-1",
                "consumedCapacity": {"memory": "1Gi"}}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_a_pod_of_this_node_has_reserved_is_taken_over() {
        let found = reserved_here(&claim("node-a/gpu", true), "node-a").unwrap();
        assert_eq!((found.0.uid.as_str(), found.1[0].memory), ("u-1", 1 << 30));
        assert!(reserved_here(&claim("node-b/gpu", true), "node-a").is_none());
        assert!(reserved_here(&claim("node-a/gpu", false), "node-a").is_none());
        assert!(reserved_here(&ResourceClaim::default(), "node-a").is_none());
    }
}
