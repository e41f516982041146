//! The ResourceSlice as the controller knows it: what this driver writes into slices, under the names of the API.
//!
//! The API's own type takes four kilobytes for a device. What devices have alike is there once ([`Shared`]).

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{DeviceCapacity, DeviceTaint, ResourcePool};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kind::kind;
use crate::shared::{Copies, Shared};

/// `resource.k8s.io/v1` ResourceSlice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Slice {
    /// Its name, version and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it has.
    pub spec: SliceSpec,
}

/// What it has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceSpec {
    /// Devices of it.
    pub devices: Option<Vec<Device>>,
    /// Whose devices these are.
    pub driver: String,
    /// Where they are.
    pub node_name: Option<String>,
    /// `<node>/gpu` of ours.
    pub pool: ResourcePool,
}

/// A device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Whether several claims may have it.
    pub allow_multiple_allocations: Option<bool>,
    /// By name; one without a domain is of the driver's.
    pub attributes: Option<BTreeMap<String, Attribute>>,
    /// By name, as above.
    pub capacity: Option<Shared<BTreeMap<String, DeviceCapacity>>>,
    /// Name in its pool.
    pub name: String,
    /// What keeps claims away.
    pub taints: Option<Vec<DeviceTaint>>,
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribute {
    /// True or false.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A text.
    String(String),
    /// A semantic version.
    Version(String),
    /// What this driver knows nothing of.
    #[serde(untagged)]
    Other(Value),
}

kind!(
    Slice,
    "resource.k8s.io/v1",
    "resource.k8s.io",
    "ResourceSlice",
    "resourceslices",
    ClusterResourceScope
);

impl Slice {
    /// Shares with other slices what their devices have alike.
    pub fn reduce(&mut self, alike: &mut Copies<BTreeMap<String, DeviceCapacity>>) {
        let devices = self.spec.devices.iter_mut().flatten();
        devices.filter_map(|d| d.capacity.as_mut()).for_each(|capacity| alike.share(capacity));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attributes_of_every_kind_are_read_and_written_as_they_are() {
        for given in [
            json!({"bool": true}),
            json!({"int": 4}),
            json!({"string": "4"}),
            json!({"version": "4.0.0"}),
            json!({"strings": ["a", "b"]}),
            json!({}),
        ] {
            let read: Attribute = serde_json::from_value(given.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), given);
            assert_eq!(
                matches!(read, Attribute::Other(_)),
                !given.as_object().is_some_and(|g| {
                    ["bool", "int", "string", "version"].iter().any(|kind| g.contains_key(*kind))
                })
            );
        }
    }
}
