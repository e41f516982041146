//! Pure: a claim's requests as the engine takes them, or what is wrong with them.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    DeviceClaimConfiguration, DeviceClass, DeviceClassConfiguration, DeviceRequest, DeviceSelector,
    ResourceClaim,
};
use serde_json::Value;
use vgpu_allocator::{MemoryAsk, Policy as EnginePolicy, Request};
use vgpu_api::names::{CORES, DRIVER, MEMORY, MEMORY_PERCENT, SHARES};
use vgpu_api::{MIB, Placement, Policy, Quantity, ShareConfig};

use crate::class::{Selectors, Unmatched};
use crate::shapes::Shapes;

/// What is wrong with a claim. The text names field, value and cure; the object is added by who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Event reason.
    pub reason: &'static str,
    /// For people.
    pub note: String,
}

/// Why a claim has not been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// A selector of it came after the GPUs were read: it can be read when they are read again.
    New,
    /// It cannot be understood.
    Invalid(Invalid),
}

impl From<Invalid> for Unread {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

fn invalid<T, E: From<Invalid>>(reason: &'static str, note: String) -> Result<T, E> {
    Err(Invalid { reason, note }.into())
}

/// What is known when a claim is read.
pub struct Known<'a> {
    /// Classes by name.
    pub classes: &'a dyn Fn(&str) -> Option<std::sync::Arc<DeviceClass>>,
    /// Whether a class is this driver's.
    pub is_ours: &'a dyn Fn(&str) -> bool,
    /// Compiled expressions.
    pub selectors: &'a Selectors,
    /// GPUs by shape.
    pub shapes: &'a Shapes,
    /// Laid under everything.
    pub defaults: Placement,
}

/// A claim understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its requests, without the containers that use them.
    pub requests: Vec<Request>,
    /// Node policy of each request that has one of its own in class or claim.
    pub node_policies: Vec<Policy>,
    /// Configuration for the allocation: class first, claim after.
    pub config: Vec<Value>,
}

fn engine(policy: Policy) -> EnginePolicy {
    match policy {
        Policy::Binpack => EnginePolicy::Binpack,
        Policy::Spread => EnginePolicy::Spread,
        Policy::LeastFragmentation => EnginePolicy::LeastFragmentation,
    }
}

/// Reads a claim that is ours.
///
/// # Errors
/// [`Unread`].
pub fn read(claim: &ResourceClaim, known: &Known<'_>) -> Result<Asked, Unread> {
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    let devices = &claim.spec.devices;
    let own_config = devices.as_ref().and_then(|d| d.config.as_deref()).unwrap_or_default();
    if devices.as_ref().and_then(|d| d.constraints.as_deref()).is_some_and(|c| !c.is_empty()) {
        return invalid(
            "NotSupported",
            "spec.devices.constraints: constraints are not supported by this version; remove them".into(),
        );
    }
    let mut asked = Asked { requests: Vec::new(), node_policies: Vec::new(), config: Vec::new() };
    for request in devices.as_ref().and_then(|d| d.requests.as_deref()).unwrap_or_default() {
        read_request(&uid, request, own_config, known, &mut asked)?;
    }
    for entry in own_config {
        asked.config.push(config_entry(
            "FromClaim",
            entry.requests.as_deref(),
            serde_json::to_value(entry).unwrap_or_default(),
        ));
    }
    Ok(asked)
}

fn config_entry(source: &str, requests: Option<&[String]>, entry: Value) -> Value {
    let mut out = serde_json::json!({"source": source, "opaque": entry["opaque"]});
    if let Some(requests) = requests.filter(|r| !r.is_empty()) {
        out["requests"] = serde_json::json!(requests);
    }
    out
}

fn read_request(
    uid: &str,
    request: &DeviceRequest,
    own_config: &[DeviceClaimConfiguration],
    known: &Known<'_>,
    asked: &mut Asked,
) -> Result<(), Unread> {
    let field = format!("spec.devices.requests[{}]", request.name);
    let Some(exactly) = &request.exactly else {
        let note =
            format!("{field}.firstAvailable: alternatives are not supported by this version; use exactly");
        return invalid("NotSupported", note);
    };
    let class_name = exactly.device_class_name.as_str();
    if !(known.is_ours)(class_name) {
        let note = format!(
            "{field}.exactly.deviceClassName: {class_name:?} is another driver's; a claim cannot mix drivers, put it \
             into a claim of its own"
        );
        return invalid("MixedDrivers", note);
    }
    let Some(class) = (known.classes)(class_name) else {
        let note = format!(
            "{field}.exactly.deviceClassName: there is no DeviceClass {class_name:?}; create it or name one that \
             `kubectl get deviceclasses` lists"
        );
        return invalid("UnknownClass", note);
    };
    if exactly.allocation_mode.as_deref().is_some_and(|mode| mode != "ExactCount") {
        let mode = exactly.allocation_mode.as_deref().unwrap_or_default();
        let note = format!(
            "{field}.exactly.allocationMode: {mode:?} is not supported by this version; use ExactCount"
        );
        return invalid("NotSupported", note);
    }
    if exactly.admin_access == Some(true) {
        return invalid(
            "NotSupported",
            format!("{field}.exactly.adminAccess: not supported by this version; remove it"),
        );
    }
    let selectors: Vec<&DeviceSelector> =
        class.spec.selectors.iter().flatten().chain(exactly.selectors.iter().flatten()).collect();
    let shapes = known.selectors.matching(&selectors, known.shapes);
    let of_class = class.spec.selectors.as_ref().map_or(0, Vec::len);
    let shapes = shapes.map_err(|unmatched| match unmatched {
        Unmatched::New => Unread::New,
        Unmatched::Failed { at, error } => {
            let place = match at.checked_sub(of_class) {
                None => format!("{field}: DeviceClass {class_name} spec.selectors[{at}]"),
                Some(own) => format!("{field}.exactly.selectors[{own}]"),
            };
            Invalid { reason: "SelectorFailed", note: format!("{place}.cel.expression: {error}") }.into()
        }
    })?;
    let amounts = exactly.capacity.as_ref().and_then(|c| c.requests.as_ref());
    let amounts: BTreeMap<&str, &str> =
        amounts.into_iter().flatten().map(|(name, q)| (name.as_str(), q.0.as_str())).collect();
    let (memory, cores) = read_amounts(&format!("{field}.exactly.capacity.requests"), &amounts)?;

    let placement = read_placement(&request.name, &class, own_config)?;
    asked.node_policies.extend(placement.node);
    for entry in class.spec.config.iter().flatten() {
        let value = serde_json::to_value(entry).unwrap_or_default();
        asked.config.push(config_entry("FromClass", Some(std::slice::from_ref(&request.name)), value));
    }
    asked.requests.push(Request {
        claim: uid.to_owned(),
        name: request.name.clone(),
        count: exactly.count.map_or(1, |n| u32::try_from(n).unwrap_or(1)),
        memory,
        cores,
        shapes,
        gpu_policy: engine(placement.gpu.or(known.defaults.gpu).unwrap_or(Policy::Binpack)),
        containers: Default::default(),
    });
    Ok(())
}

/// Memory and cores. Amounts are rounded up to the capacity's step, as Kubernetes' own allocator does.
fn read_amounts(field: &str, amounts: &BTreeMap<&str, &str>) -> Result<(MemoryAsk, u32), Invalid> {
    let quantity = |name: &str| -> Result<Option<Quantity>, Invalid> {
        let Some(text) = amounts.get(name) else { return Ok(None) };
        match text.parse::<Quantity>() {
            Ok(quantity) => Ok(Some(quantity)),
            Err(error) => invalid("InvalidAmount", format!("{field}.{name}: {error}")),
        }
    };
    let percent = |name: &'static str| -> Result<Option<u32>, Invalid> {
        let Some(quantity) = quantity(name)? else { return Ok(None) };
        match u32::try_from(quantity.value()).ok().filter(|p| *p <= 100) {
            Some(percent) => Ok(Some(percent)),
            None => {
                let note = format!("{field}.{name}: {quantity} is not a percentage; write 0 to 100");
                invalid("InvalidAmount", note)
            }
        }
    };
    let known = [MEMORY, MEMORY_PERCENT, CORES, SHARES];
    if let Some(name) = amounts.keys().find(|name| !known.contains(name)) {
        let note = format!("{field}: GPUs have no capacity {name:?}; there are {}", known.join(", "));
        return invalid("InvalidAmount", note);
    }
    if quantity(SHARES)?.is_some_and(|q| q.value() != 1) {
        return invalid(
            "InvalidAmount",
            format!("{field}.{SHARES}: a request takes 1 share; use count for several GPUs"),
        );
    }
    let memory = match (quantity(MEMORY)?, percent(MEMORY_PERCENT)?.filter(|p| *p > 0)) {
        (Some(bytes), Some(percent)) => {
            let note = format!(
                "{field}: memory ({bytes}) and memoryPercent ({percent}) exclude each other; keep one"
            );
            return invalid("InvalidAmount", note);
        }
        (None, Some(percent)) => MemoryAsk::Percent(percent),
        (None, None) => MemoryAsk::All,
        (Some(bytes), None) => {
            let bytes = u64::try_from(bytes.value()).unwrap_or(0);
            MemoryAsk::Bytes(bytes.div_ceil(MIB).max(1).saturating_mul(MIB))
        }
    };
    Ok((memory, percent(CORES)?.unwrap_or(0)))
}

/// Class configuration, then the claim's, field by field; an entry without requests holds for all of them.
fn read_placement(
    request: &str,
    class: &DeviceClass,
    own: &[DeviceClaimConfiguration],
) -> Result<Placement, Invalid> {
    let class_name = class.metadata.name.as_deref().unwrap_or_default();
    let mut config = ShareConfig::default();
    let from_class =
        class.spec.config.iter().flatten().enumerate().map(|(i, c): (usize, &DeviceClassConfiguration)| {
            (format!("DeviceClass {class_name} spec.config[{i}].opaque"), c.opaque.as_ref())
        });
    let holds = |c: &DeviceClaimConfiguration| {
        c.requests.as_deref().is_none_or(|r| r.is_empty() || r.iter().any(|name| name == request))
    };
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
    Ok(config.placement)
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
        None => Ok(engine(first.or(default).unwrap_or(Policy::Binpack))),
    }
}

#[cfg(test)]
mod tests;
