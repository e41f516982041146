//! The ResourceClaim as the controller knows it: what is read of claims and nothing else, under the names of the API.
//!
//! There are as many as pods, most of them made of few templates; what they have of these is there once ([`Shared`]).

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{DeviceAllocationConfiguration, ResourceClaimSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::kind::kind;
use crate::shared::{Copies, Shared};

/// `resource.k8s.io/v1` ResourceClaim.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claim {
    /// Its name, finalizers and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked.
    pub spec: Shared<ResourceClaimSpec>,
    /// What became of it.
    #[serde(default)]
    pub status: Option<ClaimStatus>,
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus {
    /// What it was given.
    pub allocation: Option<Allocation>,
    /// Who uses it.
    pub reserved_for: Option<Vec<Consumer>>,
}

/// What it was given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocation {
    /// Devices.
    pub devices: Option<AllocatedDevices>,
}

/// Devices with what drivers are told of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AllocatedDevices {
    /// For drivers, class first.
    pub config: Option<Shared<Vec<DeviceAllocationConfiguration>>>,
    /// One per device.
    pub results: Option<Vec<AllocatedDevice>>,
}

/// A device for a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocatedDevice {
    /// Whether it is only looked at.
    pub admin_access: Option<bool>,
    /// What it takes of the device.
    pub consumed_capacity: Option<Shared<BTreeMap<String, Quantity>>>,
    /// Name in its pool.
    pub device: String,
    /// Whose device it is.
    pub driver: String,
    /// `<node>/gpu` of ours.
    pub pool: String,
    /// The request, `<request>/<subrequest>` if it was one of several to choose from.
    pub request: String,
}

/// Who uses a claim.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Consumer {
    /// Of the pod.
    pub uid: String,
}

kind!(
    Claim,
    "resource.k8s.io/v1",
    "resource.k8s.io",
    "ResourceClaim",
    "resourceclaims",
    NamespaceResourceScope
);

/// What claims have alike.
#[derive(Debug, Default)]
pub struct Alike {
    specs: Copies<ResourceClaimSpec>,
    configs: Copies<Vec<DeviceAllocationConfiguration>>,
    consumed: Copies<BTreeMap<String, Quantity>>,
}

impl Claim {
    /// Leaves away what need not be remembered, and shares with other claims what they have alike.
    pub fn reduce(&mut self, alike: &mut Alike) {
        let metadata = &mut self.metadata;
        (metadata.annotations, metadata.labels, metadata.generate_name) = (None, None, None);
        alike.specs.share(&mut self.spec);
        let allocation = self.status.as_mut().and_then(|s| s.allocation.as_mut());
        let Some(devices) = allocation.and_then(|a| a.devices.as_mut()) else { return };
        devices.config.iter_mut().for_each(|config| alike.configs.share(config));
        let results = devices.results.iter_mut().flatten();
        results.filter_map(|r| r.consumed_capacity.as_mut()).for_each(|c| alike.consumed.share(c));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_read_of_claims_stays_and_the_rest_goes() {
        let given = json!({
            "metadata": {"name": "c", "finalizers": ["f"], "labels": {"l": "1"}, "annotations": {"a": "1"},
                         "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "k"}}]}},
            "status": {
                "allocation": {
                    "allocationTimestamp": "2026-01-02T03:04:05Z", "nodeSelector": {"nodeSelectorTerms": []},
                    "devices": {
                        "config": [{"source": "FromClass", "opaque": {"driver": "d", "parameters": {"x": 1}}}],
                        "results": [{"request": "r", "driver": "d", "pool": "n/gpu", "device": "g", "shareID": "s",
                                     "consumedCapacity": {"memory": "1Gi"}}],
                    },
                },
                "devices": [{"driver": "d", "pool": "n/gpu", "device": "g"}],
                "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
            },
        });
        let mut claim: Claim = serde_json::from_value(given.clone()).unwrap();
        claim.reduce(&mut Alike::default());
        let left = serde_json::to_value(&claim).unwrap();
        for stays in [
            "/metadata/finalizers",
            "/metadata/ownerReferences/0/uid",
            "/spec/devices/requests/0/exactly/deviceClassName",
            "/status/allocation/devices/config",
            "/status/allocation/devices/results/0/consumedCapacity",
            "/status/allocation/devices/results/0/pool",
            "/status/reservedFor/0/uid",
        ] {
            assert!(given.pointer(stays).is_some_and(|v| left.pointer(stays) == Some(v)), "{stays}: {left}");
        }
        for goes in [
            "/metadata/labels",
            "/metadata/annotations",
            "/status/devices",
            "/status/allocation/nodeSelector",
        ] {
            assert!(left.pointer(goes).is_none_or(Value::is_null), "{goes}: {left}");
        }
    }
}
