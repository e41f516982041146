//! The DRA service: maps requests to calls and results to replies, and reads claims from the API server.
//!
//! A claim's failure goes into that claim's entry. The call itself never fails, because the kubelet then ignores every
//! answer in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use tonic::{Request, Response, Status};
use vgpu_api::names;

use crate::checkpoint::PreparedShare;
use crate::claim::{ClaimRef, WantedShare, wanted};
use crate::error::{ClaimError, PrepareError};
use crate::metrics::Metrics;
use crate::proto::dra::dra_plugin_server::DraPlugin;
use crate::proto::dra::{
    Claim, Device, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use crate::state::State;

/// For one read of a claim; the kubelet gives a whole call 45 s.
const API_DEADLINE: Duration = Duration::from_secs(10);

/// Answers the kubelet.
#[derive(Clone)]
pub struct DraService {
    client: Client,
    state: Arc<State>,
    metrics: Arc<Metrics>,
}

impl From<Claim> for ClaimRef {
    fn from(claim: Claim) -> Self {
        Self { namespace: claim.namespace, name: claim.name, uid: claim.uid }
    }
}

impl DraService {
    /// Serves `state`.
    pub fn new(client: Client, state: Arc<State>, metrics: Arc<Metrics>) -> Self {
        Self { client, state, metrics }
    }

    async fn read(&self, claim: &ClaimRef) -> Result<Option<ResourceClaim>, PrepareError> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let started = Instant::now();
        let read = tokio::time::timeout(API_DEADLINE, api.get_opt(&claim.name)).await;
        self.metrics.claim_read.observe(started.elapsed().as_secs_f64());
        match read {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(PrepareError::Api { why: e.to_string() }),
            Err(_) => Err(PrepareError::Api { why: format!("no answer in {} s", API_DEADLINE.as_secs()) }),
        }
    }

    async fn prepare(&self, claim: &ClaimRef) -> Result<Vec<PreparedShare>, PrepareError> {
        claim.check()?;
        let object = self.read(claim).await?.ok_or(PrepareError::Gone)?;
        let shares = wanted(&object, claim, self.state.node())?;
        let started = Instant::now();
        let run = |shares: Vec<WantedShare>| {
            let claim = claim.clone();
            self.blocking(move |state| state.prepare(&claim, &shares))
        };
        let mut result = run(shares.clone()).await;
        if let Err(PrepareError::Overcommitted { device, .. }) = &result
            && self.drop_stale(device).await
        {
            result = run(shares).await;
        }
        self.metrics.prepare.observe(started.elapsed().as_secs_f64());
        result
    }

    async fn unprepare(&self, claim: &ClaimRef) -> Result<(), PrepareError> {
        let started = Instant::now();
        let own = claim.clone();
        let result = self.blocking(move |state| state.unprepare(&own)).await;
        self.metrics.unprepare.observe(started.elapsed().as_secs_f64());
        result
    }

    /// Unprepares claims on a GPU that the kubelet forgot to (its own state was wiped): the API server no longer has them
    /// or has them unallocated, and no process uses them. Returns whether there was one.
    async fn drop_stale(&self, device: &str) -> bool {
        let mut dropped = false;
        let prepared = self.state.prepared();
        for (uid, entry) in &prepared.claims {
            if entry.shares.iter().all(|s| s.device != device) {
                continue;
            }
            let claim =
                ClaimRef { namespace: entry.namespace.clone(), name: entry.name.clone(), uid: uid.clone() };
            let Ok(found) = self.read(&claim).await else { continue };
            let used = found.is_some_and(|object| {
                object.metadata.uid.as_deref() == Some(uid)
                    && object.status.is_some_and(|s| s.allocation.is_some())
            });
            if used {
                continue;
            }
            let gone = uid.clone();
            match self.blocking(move |state| state.unprepare_if_idle(&gone)).await {
                Ok(true) => {
                    tracing::warn!(%claim, uid, "unprepared a claim that is gone from the API");
                    dropped = true;
                }
                Ok(false) => {
                    tracing::warn!(%claim, uid, "a claim is gone from the API, but a process still uses it")
                }
                Err(error) => {
                    tracing::warn!(%claim, uid, %error, "a claim that is gone cannot be unprepared")
                }
            }
        }
        dropped
    }

    /// Runs something that waits for locks and disks, on a thread of its own: it goes on even if the kubelet gives up.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&State) -> Result<T, PrepareError> + Send + 'static,
    ) -> Result<T, PrepareError> {
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || call(&state))
            .await
            .unwrap_or_else(|e| Err(PrepareError::Internal { why: e.to_string() }))
    }
}

#[tonic::async_trait]
impl DraPlugin for DraService {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims.into_iter().map(ClaimRef::from);
        let answers = join_all(claims.map(|claim| async {
            let answer = match self.prepare(&claim).await {
                Ok(shares) => {
                    tracing::info!(%claim, uid = claim.uid, shares = shares.len(), "prepared");
                    let devices = shares.into_iter().map(|s| device(s, self.state.node())).collect();
                    NodePrepareResourceResponse { devices, error: String::new() }
                }
                Err(cause) => {
                    self.metrics.prepare_failed(&cause);
                    let error = ClaimError { claim: claim.clone(), cause };
                    tracing::warn!(uid = claim.uid, %error, "not prepared");
                    NodePrepareResourceResponse { devices: Vec::new(), error: error.to_string() }
                }
            };
            (claim.uid, answer)
        }));
        let claims: BTreeMap<_, _> = answers.await.into_iter().collect();
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims.into_iter().map(ClaimRef::from);
        let answers = join_all(claims.map(|claim| async {
            let error = match self.unprepare(&claim).await {
                Ok(()) => {
                    tracing::info!(%claim, uid = claim.uid, "unprepared");
                    String::new()
                }
                Err(cause) => {
                    self.metrics.unprepare_failed(&cause);
                    let error = ClaimError { claim: claim.clone(), cause };
                    tracing::warn!(uid = claim.uid, %error, "not unprepared");
                    error.to_string()
                }
            };
            (claim.uid, NodeUnprepareResourceResponse { error })
        }));
        let claims: BTreeMap<_, _> = answers.await.into_iter().collect();
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

fn device(share: PreparedShare, node: &str) -> Device {
    Device {
        request_names: vec![share.request],
        pool_name: names::pool(node),
        device_name: share.device,
        cdi_device_ids: share.cdi_ids,
        share_id: Some(share.share_id).filter(|id| !id.is_empty()),
    }
}
