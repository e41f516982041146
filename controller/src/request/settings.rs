//! What a claim and its class say about a request beside its amounts.

use k8s_openapi::api::resource::v1::{
    DeviceAllocationConfiguration, DeviceClaimConfiguration, DeviceClass, DeviceClassConfiguration,
};
use vgpu_allocator::{Oversubscribed, Policy as EnginePolicy, Topology as EngineTopology};
use vgpu_api::names::DRIVER;
use vgpu_api::{Oversubscription, Policy, ShareConfig, Topology};

use super::{Invalid, invalid, names};

/// Binpack where nobody says.
pub(super) fn policy(policy: Option<Policy>) -> EnginePolicy {
    match policy.unwrap_or(Policy::Binpack) {
        Policy::Binpack => EnginePolicy::Binpack,
        Policy::Spread => EnginePolicy::Spread,
        Policy::LeastFragmentation => EnginePolicy::LeastFragmentation,
    }
}

pub(super) fn topology(topology: Option<Topology>) -> EngineTopology {
    match topology.unwrap_or_default() {
        Topology::Require => EngineTopology::Require,
        Topology::Prefer => EngineTopology::Prefer,
        Topology::Ignore => EngineTopology::Ignore,
    }
}

pub(super) fn oversubscribed(settings: &ShareConfig) -> Oversubscribed {
    let is_allowed = |word: Option<Oversubscription>| word == Some(Oversubscription::Allowed);
    Oversubscribed {
        memory: is_allowed(settings.memory.oversubscription),
        cores: is_allowed(settings.cores.oversubscription),
    }
}

/// Which amounts of a request may be promised to others too, by the configuration of its allocation.
pub fn oversubscribed_by(config: &[DeviceAllocationConfiguration], request: &str) -> Oversubscribed {
    let holds = config.iter().filter(|entry| names(entry.requests.as_deref(), request));
    let ours = holds.filter_map(|entry| entry.opaque.as_ref()).filter(|opaque| opaque.driver == DRIVER);
    // It was read strictly before the allocation was written.
    let words = ours.filter_map(|opaque| ShareConfig::decode(&opaque.parameters.0).ok());
    oversubscribed(&words.fold(ShareConfig::default(), ShareConfig::overlaid))
}

/// Class configuration, then the claim's, field by field; an entry without requests holds for all of them.
pub(super) fn read_settings(
    request: &str,
    class: &DeviceClass,
    own: &[DeviceClaimConfiguration],
) -> Result<ShareConfig, Invalid> {
    let class_name = class.metadata.name.as_deref().unwrap_or_default();
    let mut config = ShareConfig::default();
    let from_class =
        class.spec.config.iter().flatten().enumerate().map(|(i, c): (usize, &DeviceClassConfiguration)| {
            (format!("DeviceClass {class_name} spec.config[{i}].opaque"), c.opaque.as_ref())
        });
    let holds = |c: &DeviceClaimConfiguration| names(c.requests.as_deref(), request);
    let from_claim = own
        .iter()
        .enumerate()
        .filter(|(_, c)| holds(c))
        .map(|(i, c)| (format!("spec.devices.config[{i}].opaque"), c.opaque.as_ref()));
    for (field, opaque) in from_class.chain(from_claim) {
        let Some(opaque) = opaque.filter(|o| o.driver == DRIVER) else { continue };
        match ShareConfig::decode(&opaque.parameters.0) {
            Ok(later) => config = config.overlaid(later),
            Err(error) => return invalid("InvalidShareConfig", format!("{field}.{error}")),
        }
    }
    Ok(config)
}

/// One node policy for a pod: those its claims name must agree.
///
/// # Errors
/// [`Invalid`] with both.
pub fn node_policy(named: &[Policy], default: Option<Policy>) -> Result<EnginePolicy, Invalid> {
    let first = named.first().copied();
    match named.iter().find(|p| Some(**p) != first) {
        Some(other) => {
            let first = first.unwrap_or(*other);
            let note = format!(
                "placement.node: the pod's claims ask for both {first} and {other}; a pod goes to one node, use one policy"
            );
            invalid("ContradictingPlacement", note)
        }
        None => Ok(self::policy(first.or(default))),
    }
}
