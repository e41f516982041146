//! Pure: what an allocated claim has.

mod object;

use vgpu_allocator::Share;
use vgpu_api::Quantity;
use vgpu_api::names::{CORES, DRIVER, MEMORY, pool_node};

use crate::request::oversubscribed_by;

pub use object::{Alike, AllocatedDevice, AllocatedDevices, Allocation, Claim, ClaimStatus, Consumer};

/// Results of this driver in an allocated claim.
pub fn own_results(claim: &Claim) -> Vec<&AllocatedDevice> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results =
        allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.results.as_deref()).unwrap_or_default();
    results.iter().filter(|r| r.driver == DRIVER).collect()
}

/// Whether a claim is allocated, by whomever.
pub fn is_allocated(claim: &Claim) -> bool {
    claim.status.as_ref().is_some_and(|s| s.allocation.is_some())
}

/// Whether some pod has reserved it.
pub fn is_reserved(claim: &Claim) -> bool {
    claim.status.as_ref().and_then(|s| s.reserved_for.as_ref()).is_some_and(|r| !r.is_empty())
}

/// Node of an allocated claim.
pub fn node_of(claim: &Claim) -> Option<String> {
    own_results(claim).iter().find_map(|r| pool_node(&r.pool).map(str::to_owned))
}

/// What an allocated claim holds.
pub fn shares(claim: &Claim) -> Vec<Share> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let config = allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.config.as_deref());
    let share = |result: &&AllocatedDevice| {
        let consumed = |name: &str| -> u64 {
            let quantity = result.consumed_capacity.as_ref().and_then(|c| c.get(name));
            let value = quantity.and_then(|q| q.0.parse::<Quantity>().ok()).map_or(0, Quantity::value);
            u64::try_from(value).unwrap_or(0)
        };
        Some(Share {
            node: pool_node(&result.pool)?.to_owned(),
            gpu: result.device.clone(),
            memory: consumed(MEMORY),
            cores: u32::try_from(consumed(CORES)).unwrap_or(0),
            oversubscribed: config.map(|c| oversubscribed_by(c, &result.request)).unwrap_or_default(),
        })
    };
    own_results(claim).iter().filter(|r| r.admin_access != Some(true)).filter_map(share).collect()
}
