//! Pure: an allocated claim as the shares of this node.

use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use vgpu_api::names::{CORES, DRIVER, MEMORY, device, pool, pool_node};
use vgpu_api::{Gpu, MIB, Quantity};

use crate::error::PrepareError;

/// One allocation result of this driver and node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Main request name.
    pub request: String,
    /// Device name.
    pub device: String,
    /// NVML UUID.
    pub uuid: String,
    /// The share's own id.
    pub share_id: String,
    /// Bytes.
    pub memory: u64,
    /// Percent of GPU time; 0: no cap.
    pub cores: u32,
    /// Whether the limiter stands before the GPU; not for one who has it all.
    pub limited: bool,
}

/// The shares of a claim.
///
/// # Errors
/// [`PrepareError`] naming the claim and what is wrong.
pub fn shares(claim: &ResourceClaim, node: &str, gpus: &[Gpu]) -> Result<Vec<Share>, PrepareError> {
    let name = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results =
        allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.results.as_deref()).unwrap_or_default();
    let own: Vec<&DeviceRequestAllocationResult> = results.iter().filter(|r| r.driver == DRIVER).collect();
    if own.is_empty() {
        return Err(PrepareError::NotAllocated { claim: name, driver: DRIVER });
    }
    own.into_iter().map(|result| share(&name, result, node, gpus)).collect()
}

fn share(
    claim: &str,
    result: &DeviceRequestAllocationResult,
    node: &str,
    gpus: &[Gpu],
) -> Result<Share, PrepareError> {
    if result.pool != pool(node) {
        let allocated = pool_node(&result.pool).unwrap_or(&result.pool).to_owned();
        return Err(PrepareError::OtherNode { claim: claim.to_owned(), allocated, own: node.to_owned() });
    }
    let gpu = gpus.iter().find(|g| device(&g.uuid) == result.device);
    let unknown = || PrepareError::UnknownGpu { claim: claim.to_owned(), device: result.device.clone() };
    let gpu = gpu.ok_or_else(unknown)?;
    let bad = |message: String| PrepareError::BadAllocation { claim: claim.to_owned(), message };
    let amount = |capacity: &str| -> Result<u64, PrepareError> {
        let text = result.consumed_capacity.as_ref().and_then(|c| c.get(capacity)).map(|q| q.0.as_str());
        let text = text.ok_or_else(|| bad(format!("{} consumes no {capacity}", result.device)))?;
        let value =
            text.parse::<Quantity>().map_err(|e| bad(format!("{}.{capacity}: {e}", result.device)))?.value();
        u64::try_from(value).map_err(|_| bad(format!("{}.{capacity}: {text} is negative", result.device)))
    };
    let share_id = result.share_id.clone().ok_or_else(|| bad(format!("{} has no shareID", result.device)))?;
    let (memory, cores) = (amount(MEMORY)?, u32::try_from(amount(CORES)?).unwrap_or(u32::MAX).min(100));
    let whole = u64::try_from(gpu.memory_mib).unwrap_or(0) * MIB;
    Ok(Share {
        request: result.request.split('/').next().unwrap_or_default().to_owned(),
        device: result.device.clone(),
        uuid: gpu.uuid.clone(),
        share_id,
        memory,
        cores: cores % 100,
        limited: memory < whole || cores % 100 != 0,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn gpus() -> Vec<Gpu> {
        let gpu = |uuid: &str, minor| Gpu { uuid: uuid.into(), minor, memory_mib: 15_104, ..Gpu::default() };
        vec![gpu("GPU-AA", 0), gpu("GPU-BB", 1)]
    }

    pub(crate) fn claim(uid: &str, node: &str, results: &[(&str, &str, &str)]) -> ResourceClaim {
        let result = |(device, memory, cores): &(&str, &str, &str)| {
            json!({
                "request": "gpu/sub", "driver": DRIVER, "pool": format!("{node}/gpu"), "device": device,
                "shareID": format!("{uid}-{device}"), "consumedCapacity": {"memory": memory, "cores": cores},
            })
        };
        let results: Vec<_> = results.iter().map(result).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": uid, "uid": uid},
            "spec": {},
            "status": {"allocation": {"devices": {"results": results}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_part_of_a_gpu_is_limited_and_a_whole_one_is_not() {
        let shares =
            |memory, cores| shares(&claim("u", "node-a", &[("gpu-aa", memory, cores)]), "node-a", &gpus());
        let part = &shares("7500Mi", "30").unwrap()[0];
        assert_eq!(
            (part.uuid.as_str(), part.memory, part.cores, part.limited),
            ("GPU-AA", 7500 * MIB, 30, true)
        );
        assert_eq!(part.request, "gpu");
        assert!(!shares("15104Mi", "0").unwrap()[0].limited);
        assert!(!shares("15104Mi", "100").unwrap()[0].limited);
        assert!(shares("15104Mi", "50").unwrap()[0].limited);
    }

    #[test]
    fn another_nodes_allocation_names_both_nodes() {
        let error = shares(&claim("u", "node-b", &[("gpu-aa", "1Gi", "0")]), "node-a", &gpus()).unwrap_err();
        assert!(
            error.to_string().starts_with("claim ns/u: its shares are on node node-b, the pod is on node-a")
        );
    }

    #[test]
    fn what_is_not_there_or_not_allocated_is_named() {
        let error = shares(&claim("u", "node-a", &[("gpu-zz", "1Gi", "0")]), "node-a", &gpus()).unwrap_err();
        assert!(matches!(error, PrepareError::UnknownGpu { device, .. } if device == "gpu-zz"));
        let error = shares(&claim("u", "node-a", &[]), "node-a", &gpus()).unwrap_err();
        assert_eq!(error.reason(), "NotAllocated");
    }
}
