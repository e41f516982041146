//! The server: the store behind HTTP, and what tests do to it directly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Method, Response, StatusCode, Uri, header};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::call::{Call, Verb};
use crate::connection::{Connection, Fault};
use crate::kind::{self, kinds};
use crate::selector::Filter;
use crate::signal::Listener;
use crate::status::Refused;
use crate::store::{Author, Form, Key, Store};
use crate::watching::Watch;

/// An API server in memory. Cheap to clone: all clones are the same server.
///
/// Time is tokio's: under `start_paused` nothing takes time that does not wait for it.
#[derive(Clone)]
pub struct FakeApi(Arc<Mutex<Store>>);

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    /// With the namespace `default` and nothing else.
    pub fn new() -> Self {
        let api = Self(Arc::new(Mutex::new(Store::new())));
        api.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
        api
    }

    /// With these objects, their status included.
    pub fn with<T: Serialize>(objects: impl IntoIterator<Item = T>) -> Self {
        let api = Self::new();
        for object in objects {
            api.create(object);
        }
        api
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new client's way here.
    pub fn connect(&self) -> Connection {
        Connection::new(self.clone())
    }

    /// A client for which nothing goes wrong.
    pub fn client(&self) -> Client {
        self.connect().client()
    }

    /// Version of the last write.
    pub fn version(&self) -> u64 {
        self.store().version()
    }

    /// Told of every write.
    pub(crate) fn changes(&self) -> Listener {
        self.store().any.listen()
    }

    /// Told of every write but those of Leases and Events, which no actor looks at.
    pub(crate) fn work(&self) -> Listener {
        self.store().work.listen()
    }

    /// Version of the last write to an object of a kind; 0 before the first.
    pub fn version_of<K: Resource<DynamicType = ()>>(&self) -> u64 {
        self.store().last(kind::of_type::<K>())
    }

    /// Returns when nothing was written for `time`.
    pub async fn quiet(&self, time: Duration) {
        let mut changes = self.changes();
        while tokio::time::timeout(time, changes.raised()).await.is_ok() {}
    }

    /// Forgets the history: watches that are behind, and those that come back late, are told 410.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// The fields of this feature gate are dropped from now on.
    pub fn turn_off(&self, gate: &str) {
        self.store().gates_off.insert(gate.to_owned());
    }

    /// They are kept again.
    pub fn turn_on(&self, gate: &str) {
        self.store().gates_off.remove(gate);
    }

    /// Stores a new object as it is, its status included.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn try_create(&self, object: impl Serialize) -> Result<Value, Refused> {
        let object = serde_json::to_value(object).map_err(|e| Refused::bad_request(e.to_string()))?;
        let kind = kind::of_object(&object).ok_or_else(|| Refused::bad_request("no such kind"))?;
        let namespace = match (kinds()[kind].namespaced, object["metadata"]["namespace"].as_str()) {
            (false, _) => "",
            (true, namespace) => namespace.unwrap_or("default"),
        };
        let namespace = namespace.to_owned();
        self.store().create(kind, &namespace, object, "test", true).map(|o| (*o).clone())
    }

    /// As [`Self::try_create`].
    ///
    /// # Panics
    /// The server refuses it.
    pub fn create(&self, object: impl Serialize) -> Value {
        self.try_create(object).unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// An object.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let found = self.store().get(kind::of_type::<K>(), &(namespace.to_owned(), name.to_owned())).ok()?;
        serde_json::from_value((*found).clone()).ok()
    }

    /// Every object of a kind, by namespace and name.
    pub fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let store = self.store();
        let filter = Filter::default();
        let all = store.list(kind::of_type::<K>(), &filter, None);
        all.filter_map(|(_, object)| serde_json::from_value((**object).clone()).ok()).collect()
    }

    /// A merge patch; `status` says to which half.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn patch<K>(&self, namespace: &str, name: &str, status: bool, patch: &Value) -> Result<Value, Refused>
    where
        K: Resource<DynamicType = ()>,
    {
        let (kind, key): (usize, Key) = (kind::of_type::<K>(), (namespace.to_owned(), name.to_owned()));
        let author = Author { manager: "test", status };
        self.store().write(kind, &key, patch, Form::MergePatch, author).map(|o| (*o).clone())
    }

    /// Deletes an object, as `kubectl delete` does.
    ///
    /// # Errors
    /// There is none.
    pub fn delete<K>(&self, namespace: &str, name: &str) -> Result<(), Refused>
    where
        K: Resource<DynamicType = ()>,
    {
        let key = (namespace.to_owned(), name.to_owned());
        self.store().delete(kind::of_type::<K>(), &key, &Value::Null).map(drop)
    }

    /// Ends a pod that is being deleted, as its kubelet does.
    pub(crate) fn end_pod(&self, key: &Key) -> Result<(), Refused> {
        let pods = kind::by_plural("", "pods").unwrap_or_default();
        self.store().delete(pods, key, &json!({"gracePeriodSeconds": 0})).map(drop)
    }

    pub(crate) fn bind(&self, key: &Key, node: &str) -> Result<(), Refused> {
        self.store().bind(key, &json!({"target": {"name": node}})).map(drop)
    }
}

/// The connection as an HTTP service.
pub(crate) fn router(connection: Connection) -> Router {
    Router::new().fallback(serve).with_state(connection)
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

async fn serve(
    State(connection): State<Connection>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response<Body> {
    if connection.is_dead() {
        std::future::pending::<()>().await;
    }
    let has_rules = !connection.api.store().gates_off.contains("DRADeviceTaintRules");
    if let Some(list) = kind::resources(uri.path(), |kind| kind != "DeviceTaintRule" || has_rules) {
        return answer(200, &list);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let call = match Call::read(method.as_str(), uri.path(), query, content_type, &body) {
        Ok(call) => call,
        Err(refused) => return answer(refused.code, &refused.body()),
    };
    match connection.fault(&call) {
        None => {}
        Some(Fault::Refuse(code)) => return answer(code, &Refused::code(code, "injected").body()),
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::LoseAnswer) => {
            take(&connection, &call);
            std::future::pending::<()>().await;
        }
        Some(Fault::TakeLate(time)) => {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                take(&connection, &call);
            });
            return std::future::pending().await;
        }
    }
    if call.verb == Verb::Watch {
        let started = Watch::start(&connection, &connection.api.store(), &call);
        return match started {
            Ok(watch) => Response::new(Body::from_stream(watch.lines())),
            Err(refused) => answer(refused.code, &refused.body()),
        };
    }
    match take(&connection, &call) {
        Some((code, body)) => answer(code, &body),
        None => std::future::pending().await,
    }
}

/// Does a call; `None` if its answer does not go out any more.
fn take(connection: &Connection, call: &Call) -> Option<(u16, Value)> {
    if connection.is_dead() {
        return None;
    }
    let done = call.answer(&mut connection.api.store());
    match done {
        Ok(answer) if call.verb.writes() => connection.took(call).then_some(answer),
        Ok(answer) => Some(answer),
        Err(refused) => Some((refused.code, refused.body())),
    }
}
