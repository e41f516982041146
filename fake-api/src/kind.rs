//! The kinds the server knows, and the typed form each object is held to.

use std::sync::OnceLock;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota, Secret,
    ServiceAccount,
};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::resource::v1beta2::DeviceTaintRule;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vgpu_api::{GpuNode, GpuPolicy};

/// A kind of object.
pub(crate) struct Kind {
    /// API group; empty for the core group.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// Name in URLs.
    pub(crate) plural: String,
    /// Name in objects.
    pub(crate) kind: String,
    /// Whether its objects lie in namespaces.
    pub(crate) namespaced: bool,
    /// Whether `status` is written through its own subresource only.
    pub(crate) status: bool,
    decode: fn(Value) -> Result<Value, String>,
}

fn typed<K: Serialize + DeserializeOwned>(value: Value) -> Result<Value, String> {
    let typed: K = serde_json::from_value(value).map_err(|e| e.to_string())?;
    serde_json::to_value(typed).map_err(|e| e.to_string())
}

impl Kind {
    fn of<K>(namespaced: bool, status: bool) -> Self
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        Self {
            group: K::group(&()).into_owned(),
            version: K::version(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespaced,
            status,
            decode: typed::<K>,
        }
    }

    /// The object without what its type does not know, as a server decodes it.
    ///
    /// # Errors
    /// What is wrong with a field that has the wrong type or is missing.
    pub(crate) fn decode(&self, value: Value) -> Result<Value, String> {
        (self.decode)(value)
    }

    /// `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Every kind, at its number.
pub(crate) fn kinds() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(|| {
        vec![
            Kind::of::<Pod>(true, true),
            Kind::of::<Node>(false, true),
            Kind::of::<Namespace>(false, true),
            Kind::of::<ConfigMap>(true, false),
            Kind::of::<Secret>(true, false),
            Kind::of::<ServiceAccount>(true, false),
            Kind::of::<PersistentVolume>(false, true),
            Kind::of::<PersistentVolumeClaim>(true, true),
            Kind::of::<ResourceQuota>(true, true),
            Kind::of::<ResourceClaim>(true, true),
            Kind::of::<ResourceClaimTemplate>(true, false),
            Kind::of::<ResourceSlice>(false, false),
            Kind::of::<DeviceClass>(false, false),
            Kind::of::<DeviceTaintRule>(false, true),
            Kind::of::<Lease>(true, false),
            Kind::of::<Event>(true, false),
            Kind::of::<PodDisruptionBudget>(true, true),
            Kind::of::<PriorityClass>(false, false),
            Kind::of::<GpuNode>(false, true),
            Kind::of::<GpuPolicy>(false, false),
        ]
    })
}

/// What is served of a group's version, given its path, `/apis/<group>/<version>`, of the kinds that are.
pub(crate) fn resources(path: &str, is_served: impl Fn(&str) -> bool) -> Option<Value> {
    let (group, version) = path.strip_prefix("/apis/")?.split_once('/')?;
    let of_version = kinds().iter().filter(|k| k.group == group && k.version == version);
    let served = of_version.filter(|k| is_served(&k.kind)).map(|k| {
        json!({"name": k.plural, "singularName": "", "namespaced": k.namespaced, "kind": k.kind, "verbs": ["list", "watch"]})
    });
    let served: Vec<Value> = served.collect();
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
        "resources": served});
    (!served.is_empty()).then_some(list)
}

/// Number of a kind by group and plural.
pub(crate) fn by_plural(group: &str, plural: &str) -> Option<usize> {
    kinds().iter().position(|k| k.group == group && k.plural == plural)
}

/// Number of the kind an object says it is.
pub(crate) fn of_object(object: &Value) -> Option<usize> {
    let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    kinds().iter().position(|k| k.kind == kind && k.api_version() == version)
}

/// Number of a Rust type's kind.
///
/// # Panics
/// The server does not know it.
pub(crate) fn of_type<K: Resource<DynamicType = ()>>() -> usize {
    let found = by_plural(&K::group(&()), &K::plural(&()));
    found.unwrap_or_else(|| panic!("the fake API server has no {}", K::kind(&())))
}
