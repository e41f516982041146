//! A ResourceClaim as this node has to make it so: read from the API, checked, reduced to shares.
//!
//! Nothing the kubelet sends but the claim's name is used; amounts come from the allocation in the API. Everything the
//! controller should have refused is refused again here, because the allocation may have been written by anybody.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::resource::v1::{
    DeviceAllocationConfiguration, DeviceRequestAllocationResult, ResourceClaim,
};
use vgpu_api::{Enforcement, Oversubscription, Priority, Quantity, ShareConfig, names};

use crate::checkpoint::PreparedClaim;
use crate::error::PrepareError;

/// Which claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl fmt::Display for ClaimRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ClaimRef {
    /// UIDs become file names, so they are held to what a UID is made of.
    pub fn check(&self) -> Result<(), PrepareError> {
        if is_id(&self.uid) { Ok(()) } else { Err(PrepareError::MalformedUid { value: self.uid.clone() }) }
    }
}

fn is_id(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// One allocation result of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedShare {
    /// Main request name.
    pub request: String,
    /// Device name.
    pub device: String,
    /// UUID of the share; empty if it takes nothing of the GPU (`adminAccess`).
    pub share_id: String,
    /// Bytes; 0 for `adminAccess` alone.
    pub memory: u64,
    /// Percent of GPU time, 0 to 100.
    pub cores: u32,
    /// What `cores` means.
    pub enforcement: Enforcement,
    /// Who goes first.
    pub priority: Priority,
    /// Whether all of its memory is on the GPU.
    pub oversubscription: Oversubscription,
    /// Whether its cores are booked for it alone.
    pub cores_oversubscription: Oversubscription,
}

impl WantedShare {
    /// Whether it only looks at the GPU, whoever is on it and however it is.
    pub fn looks_only(&self) -> bool {
        self.memory == 0
    }
}

/// What the claim gets on `node`, in the order of the allocation.
pub fn wanted(claim: &ResourceClaim, asked: &ClaimRef, node: &str) -> Result<Vec<WantedShare>, PrepareError> {
    let found = claim.metadata.uid.as_deref().unwrap_or_default();
    if found != asked.uid {
        return Err(PrepareError::Replaced { asked: asked.uid.clone(), found: found.to_owned() });
    }
    let allocation =
        claim.status.as_ref().and_then(|s| s.allocation.as_ref()).ok_or(PrepareError::NotAllocated)?;
    let devices = allocation.devices.as_ref();
    let ours: Vec<_> = devices
        .and_then(|d| d.results.as_deref())
        .unwrap_or_default()
        .iter()
        .filter(|r| r.driver == names::DRIVER)
        .collect();
    if ours.is_empty() {
        return Err(PrepareError::NothingOurs);
    }
    let configs = configs(devices.and_then(|d| d.config.as_deref()).unwrap_or_default())?;
    ours.into_iter().map(|result| share(result, node, &configs)).collect()
}

/// What our configuration in an allocation says, and for which requests.
struct Config<'a> {
    requests: &'a [String],
    config: ShareConfig,
}

impl Config<'_> {
    /// A request with alternatives is meant by its name alone, one of them by both names.
    fn is_for(&self, request: &str) -> bool {
        let main = request.split('/').next().unwrap_or_default();
        self.requests.is_empty() || self.requests.iter().any(|name| name == request || name == main)
    }
}

/// All of it, the classes' before the claim's.
fn configs(all: &[DeviceAllocationConfiguration]) -> Result<Vec<Config<'_>>, PrepareError> {
    let (mut of_classes, mut of_claim) = (Vec::new(), Vec::new());
    for (index, found) in all.iter().enumerate() {
        let Some(opaque) = found.opaque.as_ref().filter(|o| o.driver == names::DRIVER) else { continue };
        let (origin, into) = match found.source.as_str() {
            "FromClass" => ("DeviceClass", &mut of_classes),
            _ => ("claim", &mut of_claim),
        };
        let config = ShareConfig::decode(&opaque.parameters.0).map_err(|source| PrepareError::Config {
            index,
            origin,
            source,
        })?;
        into.push(Config { requests: found.requests.as_deref().unwrap_or_default(), config });
    }
    of_classes.append(&mut of_claim);
    Ok(of_classes)
}

fn share(
    result: &DeviceRequestAllocationResult,
    node: &str,
    configs: &[Config<'_>],
) -> Result<WantedShare, PrepareError> {
    let request = result.request.split('/').next().unwrap_or_default().to_owned();
    if result.pool != names::pool(node) {
        return Err(PrepareError::OtherNode {
            request,
            pool: result.pool.clone(),
            allocated: names::pool_node(&result.pool).unwrap_or("of another driver").to_owned(),
            here: node.to_owned(),
        });
    }
    let problem = |field: &str, problem: String| PrepareError::Result {
        request: request.clone(),
        field: field.to_owned(),
        problem,
    };
    if result.admin_access == Some(true) {
        return Ok(WantedShare {
            device: result.device.clone(),
            request,
            share_id: String::new(),
            memory: 0,
            cores: 0,
            enforcement: Enforcement::default(),
            priority: Priority::default(),
            oversubscription: Oversubscription::default(),
            cores_oversubscription: Oversubscription::default(),
        });
    }
    let share_id = result.share_id.clone().filter(|id| is_id(id));
    let share_id = share_id
        .ok_or_else(|| problem("shareID", "is missing: it was not allocated by this driver".into()))?;
    let amount = |capacity: &'static str| -> Result<Option<i64>, PrepareError> {
        let consumed = result.consumed_capacity.as_ref();
        // Both spellings the API allows: with and without the driver's name.
        let qualified = format!("{}/{capacity}", names::DRIVER);
        let Some(text) = consumed.and_then(|c| c.get(capacity).or_else(|| c.get(&qualified))) else {
            return Ok(None);
        };
        let field = format!("consumedCapacity.{capacity}");
        let quantity =
            Quantity::from_str(&text.0).map_err(|e| problem(&field, format!("is no quantity: {e}")))?;
        Ok(Some(quantity.value()))
    };
    let memory = amount(names::MEMORY)?
        .and_then(|m| u64::try_from(m).ok())
        .filter(|m| *m > 0)
        .ok_or_else(|| problem("consumedCapacity.memory", "is missing or not above 0".into()))?;
    let cores = amount(names::CORES)?.unwrap_or(0);
    let cores = u32::try_from(cores)
        .ok()
        .filter(|c| *c <= 100)
        .ok_or_else(|| problem("consumedCapacity.cores", format!("is {cores}, not 0 to 100")))?;
    let config = configs
        .iter()
        .filter(|c| c.is_for(&result.request))
        .fold(ShareConfig::default(), |before, later| before.overlaid(later.config));
    Ok(WantedShare {
        device: result.device.clone(),
        request,
        share_id,
        memory,
        cores,
        enforcement: config.cores.enforcement.unwrap_or_default(),
        priority: config.priority.unwrap_or_default(),
        oversubscription: config.memory.oversubscription.unwrap_or_default(),
        cores_oversubscription: config.cores.oversubscription.unwrap_or_default(),
    })
}

/// Whether a prepared claim is what is wanted now. A claim that was deallocated and allocated anew without an Unprepare in
/// between (its node was away) has other shares under the same UID.
pub fn is_same(prepared: &PreparedClaim, wanted: &[WantedShare]) -> bool {
    prepared.shares.len() == wanted.len()
        && prepared.shares.iter().zip(wanted).all(|(p, w)| {
            (&p.device, &p.share_id, p.memory, p.cores) == (&w.device, &w.share_id, w.memory, w.cores)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(status: Value) -> Result<Vec<WantedShare>, String> {
        let claim = json!({"metadata": {"namespace": "ns", "name": "c", "uid": "u-1"},
            "spec": {}, "status": status});
        let claim: ResourceClaim = serde_json::from_value(claim).unwrap();
        let asked = ClaimRef { namespace: "ns".into(), name: "c".into(), uid: "u-1".into() };
        wanted(&claim, &asked, "node-a").map_err(|e| e.to_string())
    }

    fn result(change: Value) -> Value {
        let mut result = json!({"request": "gpu", "driver": names::DRIVER, "pool": "node-a/gpu", "device": "gpu-1",
            "shareID": "7d0c6f0e-3f0b-4a56-9c0d-0f4d2b0f8f11",
            "consumedCapacity": {"memory": "3000Mi", "memoryPercent": "0", "cores": "30", "shares": "1"}});
        for (key, value) in change.as_object().unwrap() {
            result[key] = value.clone();
        }
        json!({"allocation": {"devices": {"results": [result]}}})
    }

    #[test]
    fn amounts_and_the_main_request_are_read() {
        let shares = read(result(json!({"request": "gpu/small"}))).unwrap();
        assert_eq!(shares[0].request, "gpu");
        assert_eq!((shares[0].memory, shares[0].cores), (3000 << 20, 30));
    }

    #[test]
    fn an_admins_share_takes_nothing() {
        let shares =
            read(result(json!({"adminAccess": true, "shareID": null, "consumedCapacity": null}))).unwrap();
        assert!(shares[0].looks_only() && shares[0].cores == 0);
    }

    #[test]
    fn a_claim_on_another_node_names_both() {
        let message = read(result(json!({"pool": "node-b/gpu"}))).unwrap_err();
        assert!(
            message.contains("node node-b (pool node-b/gpu)") && message.contains("node node-a"),
            "{message}"
        );
    }

    #[test]
    fn what_an_allocation_lacks_is_named() {
        for (change, want) in [
            (json!({"shareID": null}), "shareID is missing"),
            (json!({"shareID": "../../etc"}), "shareID is missing"),
            (json!({"consumedCapacity": {}}), "consumedCapacity.memory is missing"),
            (
                json!({"consumedCapacity": {"memory": "0"}}),
                "consumedCapacity.memory is missing or not above 0",
            ),
            (
                json!({"consumedCapacity": {"memory": "1Mi", "cores": "130"}}),
                "consumedCapacity.cores is 130, not 0 to 100",
            ),
            (json!({"consumedCapacity": {"memory": "lots"}}), "consumedCapacity.memory is no quantity"),
        ] {
            let message = read(result(change.clone())).unwrap_err();
            assert!(message.contains(want) && message.contains("request gpu"), "{change}: {message}");
        }
    }

    #[test]
    fn no_allocation_and_a_foreign_one_are_told_apart() {
        assert!(read(json!({})).unwrap_err().starts_with("it is not allocated"));
        assert!(
            read(result(json!({"driver": "gpu.example.com"}))).unwrap_err().contains("no device of driver")
        );
    }

    #[test]
    fn a_misspelt_field_of_the_configuration_is_named_with_its_place() {
        let mut status = result(json!({}));
        let parameters = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig", "placment": {}});
        status["allocation"]["devices"]["config"] = json!([
            {"source": "FromClass", "opaque": {"driver": "other.example.com", "parameters": {"x": 1}}},
            {"source": "FromClaim", "opaque": {"driver": names::DRIVER, "parameters": parameters}}]);
        let message = read(status).unwrap_err();
        assert!(message.contains("config[1].opaque.parameters.placment"), "{message}");
        assert!(message.ends_with("correct the claim and delete the pod"), "{message}");
    }

    #[test]
    fn enforcement_and_priority_are_the_claims_over_the_classs_for_the_requests_they_name() {
        let config = |source: &str, requests: Value, fields: Value| {
            let mut parameters = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig"});
            for (key, value) in fields.as_object().unwrap() {
                parameters[key] = value.clone();
            }
            json!({"source": source, "requests": requests,
                "opaque": {"driver": names::DRIVER, "parameters": parameters}})
        };
        let elastic = json!({"cores": {"enforcement": "Elastic"}, "priority": "Low"});
        let high = json!({"priority": "High"});
        let none = json!({"cores": {"enforcement": "None"}});
        for (configs, want) in [
            (json!([]), (Enforcement::Hard, Priority::Normal)),
            // The order in the list says nothing.
            (
                json!([
                    config("FromClaim", json!([]), high.clone()),
                    config("FromClass", json!(["gpu"]), elastic.clone())
                ]),
                (Enforcement::Elastic, Priority::High),
            ),
            (
                json!([config("FromClaim", json!(["other"]), none.clone())]),
                (Enforcement::Hard, Priority::Normal),
            ),
            (
                json!([config("FromClaim", json!(["gpu/small"]), none.clone())]),
                (Enforcement::None, Priority::Normal),
            ),
            (
                json!([config("FromClaim", json!(["gpu/large"]), none.clone())]),
                (Enforcement::Hard, Priority::Normal),
            ),
            (json!([config("FromClaim", json!(["gpu"]), none)]), (Enforcement::None, Priority::Normal)),
        ] {
            let mut status = result(json!({"request": "gpu/small"}));
            status["allocation"]["devices"]["config"] = configs.clone();
            let share = &read(status).unwrap()[0];
            assert_eq!((share.enforcement, share.priority), want, "{configs}");
        }
    }

    #[test]
    fn what_a_claim_says_of_oversubscription_is_read() {
        for (memory, want) in [
            (json!({}), Oversubscription::Forbidden),
            (json!({"oversubscription": "Allowed"}), Oversubscription::Allowed),
        ] {
            let mut status = result(json!({}));
            let parameters =
                json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig", "memory": memory});
            status["allocation"]["devices"]["config"] = json!([{"source": "FromClaim", "requests": [],
                "opaque": {"driver": names::DRIVER, "parameters": parameters}}]);
            assert_eq!(read(status).unwrap()[0].oversubscription, want);
        }
    }

    #[test]
    fn a_claim_made_anew_names_both_uids() {
        let claim: ResourceClaim =
            serde_json::from_value(json!({"metadata": {"uid": "u-2"}, "spec": {}})).unwrap();
        let asked = ClaimRef { namespace: "ns".into(), name: "c".into(), uid: "u-1".into() };
        let message = wanted(&claim, &asked, "node-a").unwrap_err().to_string();
        assert!(message.contains("UID u-2, the pod's had u-1"), "{message}");
    }

    #[test]
    fn uids_that_would_leave_their_folder_are_refused() {
        for uid in ["", "..", "a/b", "a.b", &"x".repeat(64)] {
            let claim = ClaimRef { namespace: "ns".into(), name: "c".into(), uid: uid.into() };
            assert!(claim.check().is_err(), "{uid:?}");
        }
    }
}
