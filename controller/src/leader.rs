//! One active controller, by Lease.
//!
//! Whether a Lease has run out is judged by this machine's own clock: a holder is gone when its Lease was seen unchanged
//! for the whole of its duration, whatever times stand in it. In the same way the holder gives up by its own clock: when it
//! could not renew for one duration, even if it never hears that another took over.
//!
//! A holder that vanished may have a write on its way. After it one more duration is waited; a Lease that was never held,
//! or was given back, needs no wait.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Name of the Lease.
pub const LEASE: &str = "vgpu-controller";
/// A Lease is free when it was not renewed for so long.
pub const DURATION: Duration = Duration::from_secs(5);
/// It is renewed this often.
const RENEWAL: Duration = Duration::from_millis(1500);
/// It is looked at this often while another holds it, and again so soon when a call failed.
const RETRY: Duration = Duration::from_millis(500);
/// Longest a call may take.
const CALL: Duration = Duration::from_secs(1);

/// A call to the Lease that failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("another was first")]
    Conflict,
    #[error("no answer in {CALL:?}")]
    Timeout,
    #[error(transparent)]
    Api(Box<kube::Error>),
}

/// The Lease and who wants it.
#[derive(Clone)]
struct Candidate {
    api: Api<Lease>,
    identity: String,
}

/// The Lease, held and renewed until this is dropped or the Lease is lost.
pub struct Held {
    candidate: Candidate,
    lost: watch::Receiver<bool>,
    renewal: JoinSet<()>,
}

async fn call<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaseError> {
    match timeout(CALL, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(LeaseError::Conflict),
        Ok(Err(error)) => Err(LeaseError::Api(Box::new(error))),
        Err(_) => Err(LeaseError::Timeout),
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default()
}

fn version(lease: &Lease) -> String {
    lease.resource_version().unwrap_or_default()
}

/// For people and other tools; nothing here is decided by it.
fn now() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}

impl Candidate {
    fn spec(&self, transitions: i32) -> Value {
        json!({
            "holderIdentity": self.identity, "leaseDurationSeconds": DURATION.as_secs(), "leaseTransitions": transitions,
            "acquireTime": now(), "renewTime": now(),
        })
    }

    async fn create(&self) -> Result<Lease, LeaseError> {
        let lease: Lease = serde_json::from_value(json!({"metadata": {"name": LEASE}, "spec": self.spec(0)}))
            .map_err(|e| LeaseError::Api(Box::new(kube::Error::SerdeError(e))))?;
        call(self.api.create(&PostParams::default(), &lease)).await
    }

    async fn write(&self, version: &str, spec: Value) -> Result<Lease, LeaseError> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": spec}));
        call(self.api.patch(LEASE, &PatchParams::default(), &patch)).await
    }

    /// One look, and the Lease if it is free: with it, whether somebody held it before.
    async fn attempt(
        &self,
        watched: &mut Option<(String, Instant)>,
    ) -> Result<Option<(Lease, bool)>, LeaseError> {
        let Some(found) = call(self.api.get_opt(LEASE)).await? else {
            return Ok(Some((self.create().await?, false)));
        };
        let seen = version(&found);
        let was_held = !holder(&found).is_empty();
        if was_held && holder(&found) != self.identity {
            let since = watched.take().filter(|(v, _)| *v == seen).map_or_else(Instant::now, |w| w.1);
            let seconds = found.spec.as_ref().and_then(|s| s.lease_duration_seconds);
            let duration = seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
            if since.elapsed() < duration {
                *watched = Some((seen, since));
                return Ok(None);
            }
        }
        let transitions = found.spec.as_ref().and_then(|s| s.lease_transitions).unwrap_or(0);
        let taken = self.write(&seen, self.spec(transitions.saturating_add(1))).await?;
        Ok(Some((taken, was_held)))
    }

    /// Renews until the Lease is lost.
    async fn renew(self, mut version_held: String, mut renewed: Instant) {
        loop {
            sleep(RENEWAL).await;
            loop {
                let began = Instant::now();
                if renewed.elapsed() >= DURATION {
                    return;
                }
                match self.write(&version_held, json!({"renewTime": now()})).await {
                    Ok(lease) => {
                        (version_held, renewed) = (version(&lease), began);
                        break;
                    }
                    Err(LeaseError::Conflict) => {
                        // Perhaps an earlier renewal took and its answer was lost.
                        match call(self.api.get_opt(LEASE)).await {
                            Ok(Some(lease)) if holder(&lease) == self.identity => {
                                version_held = version(&lease)
                            }
                            Ok(_) => return,
                            Err(_) => sleep(RETRY).await,
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the Lease was not renewed");
                        sleep(RETRY).await;
                    }
                }
            }
        }
    }
}

/// Waits until this controller is the active one. A failing call is tried again for ever.
pub async fn acquire(client: &Client, namespace: &str, identity: &str) -> Held {
    let candidate =
        Candidate { api: Api::namespaced(client.clone(), namespace), identity: identity.to_owned() };
    let mut watched = None;
    loop {
        let began = Instant::now();
        match candidate.attempt(&mut watched).await {
            Ok(Some((lease, was_held))) => {
                let (tell, lost) = watch::channel(false);
                let (ends, mut renewal) = (candidate.clone().renew(version(&lease), began), JoinSet::new());
                renewal.spawn(async move {
                    ends.await;
                    // Nobody may be left to be told.
                    let _ = tell.send(true);
                });
                let mut held = Held { candidate: candidate.clone(), lost, renewal };
                if !was_held || timeout(DURATION, held.lost()).await.is_err() {
                    return held;
                }
                tracing::warn!("the Lease was lost again before it was used");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the Lease was not acquired"),
        }
        sleep(RETRY).await;
    }
}

impl Held {
    /// Returns when the Lease is lost.
    pub async fn lost(&mut self) {
        // An error means that the renewal ended without a word, which is no better.
        let _ = self.lost.wait_for(|lost| *lost).await;
    }

    /// Gives the Lease back, so that a successor need not wait. If that fails it runs out.
    pub async fn release(mut self) {
        self.renewal.shutdown().await;
        let found = call(self.candidate.api.get_opt(LEASE)).await;
        let released = match found {
            Ok(Some(lease)) if holder(&lease) == self.candidate.identity => {
                self.candidate.write(&version(&lease), json!({"holderIdentity": null})).await.map(drop)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::warn!(%error, "the Lease was not given back; it runs out in {DURATION:?}");
        }
    }
}
