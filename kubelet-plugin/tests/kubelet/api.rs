//! The API server as far as this plugin uses it: reads, watches, server-side apply of its GpuNode, events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) const NODES: &str = "nodes";
pub(crate) const CLAIMS: &str = "resourceclaims";
pub(crate) const SLICES: &str = "resourceslices";
pub(crate) const GPU_NODES: &str = "gpunodes";

#[derive(Default)]
struct Stored {
    version: u64,
    /// By resource and name; claims by `namespace/name`.
    objects: BTreeMap<(&'static str, String), Value>,
    /// Watch events with their resource, in order.
    log: Vec<(&'static str, u64, Value)>,
    status_writes: usize,
    events: Vec<Value>,
}

/// The server, and what is in it.
#[derive(Clone)]
pub(crate) struct Api {
    stored: Arc<Mutex<Stored>>,
    changed: watch::Sender<u64>,
}

impl Api {
    /// Serves on loopback.
    pub(crate) async fn serve() -> anyhow::Result<(Self, SocketAddr)> {
        let api = Self { stored: Arc::default(), changed: watch::channel(0).0 };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let resource = "/apis/resource.k8s.io/v1";
        let gpu_nodes = "/apis/vgpu-dra.io/v1alpha1/gpunodes";
        let router = Router::new()
            .route("/api/v1/nodes/{name}", get(|s, Path(name): Path<String>| one(s, NODES, name)))
            .route(
                &format!("{resource}/namespaces/{{ns}}/resourceclaims/{{name}}"),
                get(|s, Path((ns, name)): Path<(String, String)>| one(s, CLAIMS, format!("{ns}/{name}"))),
            )
            .route(&format!("{resource}/resourceclaims"), get(|s, q| list_or_watch(s, q, CLAIMS)))
            .route(&format!("{resource}/resourceslices"), get(|s, q| list_or_watch(s, q, SLICES)))
            .route(gpu_nodes, get(|s, q| list_or_watch(s, q, GPU_NODES)))
            .route(&format!("{gpu_nodes}/{{name}}"), patch(apply))
            .route(&format!("{gpu_nodes}/{{name}}/status"), patch(apply_status))
            .route("/apis/events.k8s.io/v1/namespaces/{ns}/events", post(event))
            .with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((api, address))
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, resource: &'static str, mut object: Value) {
        let mut stored = self.stored.lock().unwrap();
        stored.version += 1;
        let version = stored.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name,
        };
        let old = stored.objects.insert((resource, key), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        stored.log.push((resource, version, json!({"type": kind, "object": object})));
        self.changed.send_replace(version);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, resource: &'static str, name: &str) {
        let mut stored = self.stored.lock().unwrap();
        let object = stored.objects.remove(&(resource, name.to_owned())).expect("it was there");
        stored.version += 1;
        let version = stored.version;
        stored.log.push((resource, version, json!({"type": "DELETED", "object": object})));
        self.changed.send_replace(version);
    }

    /// An object, or null.
    pub(crate) fn get(&self, resource: &'static str, name: &str) -> Value {
        self.stored.lock().unwrap().objects.get(&(resource, name.to_owned())).cloned().unwrap_or_default()
    }

    /// Writes of the GpuNode's status so far.
    pub(crate) fn status_writes(&self) -> usize {
        self.stored.lock().unwrap().status_writes
    }

    /// Notes of events with this reason.
    pub(crate) fn notes(&self, reason: &str) -> Vec<String> {
        let stored = self.stored.lock().unwrap();
        let events = stored.events.iter().filter(|e| e["reason"] == reason);
        events.map(|e| e["note"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn not_found(name: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": format!("{name:?} not found")});
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}

async fn one(State(api): State<Api>, resource: &'static str, name: String) -> Response {
    match api.get(resource, &name) {
        Value::Null => not_found(&name),
        object => Json(object).into_response(),
    }
}

async fn list_or_watch(
    State(api): State<Api>,
    Query(query): Query<BTreeMap<String, String>>,
    resource: &'static str,
) -> Response {
    if query.get("watch").is_none_or(|w| w != "true") {
        let stored = api.stored.lock().unwrap();
        let items: Vec<_> =
            stored.objects.iter().filter(|((r, _), _)| *r == resource).map(|(_, o)| o.clone()).collect();
        let version = stored.version.to_string();
        return Json(json!({"metadata": {"resourceVersion": version}, "items": items})).into_response();
    }
    let since = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    let watching = (api.stored.clone(), api.changed.subscribe(), since);
    let events =
        futures::stream::unfold(watching, move |(stored, mut changed, since): (_, _, u64)| async move {
            loop {
                let (text, last) = news(&stored, resource, since);
                if !text.is_empty() {
                    return Some((Ok::<_, std::io::Error>(Bytes::from(text)), (stored, changed, last)));
                }
                changed.changed().await.ok()?;
            }
        });
    Body::from_stream(events).into_response()
}

/// Events after a version as lines, and the last one's version.
fn news(stored: &Mutex<Stored>, resource: &str, since: u64) -> (String, u64) {
    let stored = stored.lock().unwrap();
    let new = stored.log.iter().filter(|(r, version, _)| *r == resource && *version > since);
    new.fold((String::new(), since), |(text, _), (_, version, event)| (format!("{text}{event}\n"), *version))
}

async fn apply(State(api): State<Api>, Path(name): Path<String>, body: Bytes) -> Response {
    let sent: Value = serde_json::from_slice(&body).unwrap();
    let mut object = api.get(GPU_NODES, &name);
    if object.is_null() {
        object = sent;
    } else {
        object["metadata"]["ownerReferences"] = sent["metadata"]["ownerReferences"].clone();
    }
    api.put(GPU_NODES, object.clone());
    Json(object).into_response()
}

async fn apply_status(State(api): State<Api>, Path(name): Path<String>, body: Bytes) -> Response {
    let sent: Value = serde_json::from_slice(&body).unwrap();
    let mut object = api.get(GPU_NODES, &name);
    if object.is_null() {
        return not_found(&name);
    }
    object["status"] = sent["status"].clone();
    api.stored.lock().unwrap().status_writes += 1;
    api.put(GPU_NODES, object.clone());
    Json(object).into_response()
}

async fn event(State(api): State<Api>, Json(event): Json<Value>) -> Response {
    api.stored.lock().unwrap().events.push(event.clone());
    (StatusCode::CREATED, Json(event)).into_response()
}
