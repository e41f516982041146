//! Pure: a claim's requests as the engine takes them, or what is wrong with them.

mod amounts;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{
    DeviceClaimConfiguration, DeviceClass, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceSubRequest,
    DeviceToleration, ExactDeviceRequest,
};
use serde_json::Value;
use vgpu_allocator::{Constraint, MemoryAsk, Oversubscribed, Request, Rule};
use vgpu_api::{Placement, Policy};

use crate::claim::Claim;
use crate::class::{Selectors, Unmatched};
use crate::shapes::Shapes;

pub use settings::{node_policy, oversubscribed_by};
use settings::{oversubscribed, read_settings};

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
    pub classes: &'a dyn Fn(&str) -> Option<Arc<DeviceClass>>,
    /// Whether a class is this driver's.
    pub is_ours: &'a dyn Fn(&str) -> bool,
    /// Compiled expressions.
    pub selectors: &'a Selectors,
    /// GPUs by shape.
    pub shapes: &'a Shapes,
    /// What each GPU (by device name) has of an attribute with this full name, as numbers that are equal where the values
    /// are.
    pub attribute: &'a dyn Fn(&str) -> Arc<BTreeMap<String, u32>>,
    /// Whether a request fits somewhere by itself. Only asked where there are more ways than are tried, to leave out those
    /// that lead nowhere.
    pub fits: &'a dyn Fn(&Request) -> bool,
    /// Laid under everything.
    pub defaults: Placement,
}

/// A claim understood: one way to satisfy it. A claim whose requests name alternatives has several.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Its requests, without the containers that use them. One that was chosen of a list is named `<request>/<subrequest>`.
    pub requests: Vec<Request>,
    /// What its GPUs have to do with each other; requests are counted within this claim.
    pub constraints: Vec<Constraint>,
    /// Node policy of each request that has one of its own in class or claim.
    pub node_policies: Vec<Policy>,
    /// Configuration for the allocation: class first, claim after.
    pub config: Vec<Value>,
    /// What each request tolerates, if anything.
    pub tolerations: Vec<(String, Vec<DeviceToleration>)>,
}

/// One way to satisfy one request.
struct Choice {
    request: Request,
    node_policy: Option<Policy>,
    config: Vec<Value>,
    tolerations: Vec<DeviceToleration>,
}

impl Choice {
    fn tolerations(&self) -> Option<(String, Vec<DeviceToleration>)> {
        (!self.tolerations.is_empty()).then(|| (self.request.name.clone(), self.tolerations.clone()))
    }
}

/// The request's own name of `<request>/<subrequest>`, as containers and allocation-wide settings name it.
pub fn main_name(name: &str) -> &str {
    name.split_once('/').map_or(name, |(main, _)| main)
}

/// Whether a list of request names in a claim means this request; an empty list means all.
fn names(list: Option<&[String]>, request: &str) -> bool {
    list.is_none_or(|l| l.is_empty() || l.iter().any(|name| name == request || name == main_name(request)))
}

/// Reads a claim that is ours: every way to satisfy it, the one it likes best first, at most [`WAYS`].
///
/// # Errors
/// [`Unread`].
pub fn read(claim: &Claim, known: &Known<'_>) -> Result<Vec<Asked>, Unread> {
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    let devices = &claim.spec.devices;
    let own_config = devices.as_ref().and_then(|d| d.config.as_deref()).unwrap_or_default();
    let requests = devices.as_ref().and_then(|d| d.requests.as_deref()).unwrap_or_default();
    let mut choices: Vec<Vec<Choice>> = Vec::new();
    for request in requests {
        choices.push(read_request(&uid, request, own_config, known)?);
    }
    keep_possible(&mut choices, |choice| (known.fits)(&choice.request));
    let constraints = devices.as_ref().and_then(|d| d.constraints.as_deref()).unwrap_or_default();
    let rules = constraints.iter().enumerate().map(|(at, c)| read_constraint(at, c, known));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    let way = |chosen: Vec<&Choice>| {
        // What is said of alternatives that are not chosen is not part of the allocation.
        let own = own_config.iter().filter(|entry| {
            let list = entry.requests.as_deref();
            chosen.iter().any(|c| names(list, &c.request.name))
        });
        let own = own.map(|entry| {
            let value = serde_json::to_value(entry).unwrap_or_default();
            config_entry("FromClaim", entry.requests.as_deref(), value)
        });
        let constraints = constraints.iter().zip(&rules).map(|(constraint, (rule, values))| {
            let about = |r: &Choice| names(constraint.requests.as_deref(), &r.request.name);
            let requests = (0..).zip(&chosen).filter(|(_, c)| about(c)).map(|(at, _)| at).collect();
            Constraint { requests, rule: *rule, values: values.clone() }
        });
        Asked {
            constraints: constraints.collect(),
            requests: chosen.iter().map(|c| c.request.clone()).collect(),
            node_policies: chosen.iter().filter_map(|c| c.node_policy).collect(),
            config: chosen.iter().flat_map(|c| c.config.clone()).chain(own).collect(),
            tolerations: chosen.iter().filter_map(|c| c.tolerations()).collect(),
        }
    };
    let mut found: Vec<Asked> = ways(&choices).into_iter().map(way).collect();
    let gpus = |asked: &Asked| asked.requests.iter().map(|r| u64::from(r.count)).sum::<u64>();
    let fewest = found.iter().map(gpus).min().unwrap_or(0);
    found.retain(|asked| gpus(asked) <= RESULTS.into());
    if found.is_empty() && fewest > 0 {
        let note = format!(
            "spec.devices.requests: they ask for {fewest} GPUs, and an allocation holds {RESULTS} at most; make several claims \
             of it"
        );
        return invalid("TooManyDevices", note);
    }
    Ok(found)
}

/// GPUs that the allocation of a claim can hold. Source: resource.k8s.io/v1, AllocationResultsMaxSize.
pub const RESULTS: u32 = 32;

/// Ways that are tried for one claim, and for one pod.
pub const WAYS: usize = 64;

/// One of each list, in the order in which the first list changes last; at most [`WAYS`].
pub fn ways<T>(lists: &[Vec<T>]) -> Vec<Vec<&T>> {
    let mut found: Vec<Vec<&T>> = vec![Vec::new()];
    for list in lists {
        let longer =
            found.iter().flat_map(|way| list.iter().map(move |one| [way.as_slice(), &[one]].concat()));
        found = longer.take(WAYS).collect();
    }
    found
}

/// Where there are more ways than are tried, leaves out of each list what `fits` denies, unless nothing were left of it.
pub fn keep_possible<T>(lists: &mut [Vec<T>], fits: impl Fn(&T) -> bool) {
    if lists.iter().fold(1usize, |ways, list| ways.saturating_mul(list.len())) <= WAYS {
        return;
    }
    for list in lists.iter_mut().filter(|list| list.len() > 1) {
        let fit: Vec<bool> = list.iter().map(&fits).collect();
        if fit.contains(&true) {
            let mut fit = fit.into_iter();
            list.retain(|_| fit.next().unwrap_or(true));
        }
    }
}

/// What a constraint demands, and what each GPU has of it.
fn read_constraint(
    at: usize,
    constraint: &DeviceConstraint,
    known: &Known<'_>,
) -> Result<(Rule, Arc<BTreeMap<String, u32>>), Unread> {
    let (rule, name) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), None) => (Rule::Match, name),
        (None, Some(name)) => (Rule::Distinct, name),
        _ => {
            let note = format!(
                "spec.devices.constraints[{at}]: only matchAttribute and distinctAttribute are known; give one of them"
            );
            return invalid("NotSupported", note);
        }
    };
    Ok((rule, (known.attribute)(name)))
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
) -> Result<Vec<Choice>, Unread> {
    let field = format!("spec.devices.requests[{}]", request.name);
    if let Some(exactly) = &request.exactly {
        let choice =
            read_choice(uid, &request.name, &format!("{field}.exactly"), exactly, own_config, known)?;
        return Ok(vec![choice]);
    }
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    if alternatives.is_empty() {
        let note = format!("{field}: neither exactly nor firstAvailable is given; give one of them");
        return invalid("NotSupported", note);
    }
    let choice = |sub: &DeviceSubRequest| {
        let exactly = ExactDeviceRequest {
            device_class_name: sub.device_class_name.clone(),
            selectors: sub.selectors.clone(),
            allocation_mode: sub.allocation_mode.clone(),
            count: sub.count,
            tolerations: sub.tolerations.clone(),
            capacity: sub.capacity.clone(),
            ..ExactDeviceRequest::default()
        };
        let name = format!("{}/{}", request.name, sub.name);
        read_choice(uid, &name, &format!("{field}.firstAvailable[{}]", sub.name), &exactly, own_config, known)
    };
    alternatives.iter().map(choice).collect()
}

fn read_choice(
    uid: &str,
    name: &str,
    field: &str,
    exactly: &ExactDeviceRequest,
    own_config: &[DeviceClaimConfiguration],
    known: &Known<'_>,
) -> Result<Choice, Unread> {
    let class_name = exactly.device_class_name.as_str();
    if !(known.is_ours)(class_name) {
        let note = format!(
            "{field}.deviceClassName: {class_name:?} is another driver's; a claim cannot mix drivers, put it into a claim of \
             its own"
        );
        return invalid("MixedDrivers", note);
    }
    let Some(class) = (known.classes)(class_name) else {
        let note = format!(
            "{field}.deviceClassName: there is no DeviceClass {class_name:?}; create it or name one that `kubectl get \
             deviceclasses` lists"
        );
        return invalid("UnknownClass", note);
    };
    let all = match exactly.allocation_mode.as_deref() {
        None | Some("ExactCount") => false,
        Some("All") => true,
        Some(mode) => {
            let note = format!("{field}.allocationMode: {mode:?} is not known; write ExactCount or All");
            return invalid("NotSupported", note);
        }
    };
    let selectors: Vec<&DeviceSelector> =
        class.spec.selectors.iter().flatten().chain(exactly.selectors.iter().flatten()).collect();
    let shapes = known.selectors.matching(&selectors, known.shapes);
    let of_class = class.spec.selectors.as_ref().map_or(0, Vec::len);
    let shapes = shapes.map_err(|unmatched| match unmatched {
        Unmatched::New => Unread::New,
        Unmatched::Failed { at, error } => {
            let place = match at.checked_sub(of_class) {
                None => format!("{field}: DeviceClass {class_name} spec.selectors[{at}]"),
                Some(own) => format!("{field}.selectors[{own}]"),
            };
            Invalid { reason: "SelectorFailed", note: format!("{place}.cel.expression: {error}") }.into()
        }
    })?;
    let amounts = exactly.capacity.as_ref().and_then(|c| c.requests.as_ref());
    let amounts: BTreeMap<&str, &str> =
        amounts.into_iter().flatten().map(|(name, q)| (name.as_str(), q.0.as_str())).collect();
    let (memory, cores) = if exactly.admin_access == Some(true) {
        if let Some(amount) = amounts.keys().next() {
            let note = format!(
                "{field}.capacity.requests.{amount}: with adminAccess nothing is taken of a GPU; remove one of the two"
            );
            return invalid("InvalidAmount", note);
        }
        (MemoryAsk::Nothing, 0)
    } else {
        amounts::read(&format!("{field}.capacity.requests"), &amounts)?
    };
    let settings = read_settings(name, &class, own_config)?;
    let placement = settings.placement;
    let config = class.spec.config.iter().flatten().map(|entry| {
        let value = serde_json::to_value(entry).unwrap_or_default();
        config_entry("FromClass", Some(std::slice::from_ref(&name.to_owned())), value)
    });
    let tolerations = exactly.tolerations.clone().unwrap_or_default();
    Ok(Choice {
        node_policy: placement.node,
        config: config.collect(),
        request: Request {
            claim: uid.to_owned(),
            name: name.to_owned(),
            count: exactly.count.filter(|_| !all).map_or(1, |n| u32::try_from(n).unwrap_or(1)),
            all,
            memory,
            cores,
            oversubscribed: match memory {
                MemoryAsk::Nothing => Oversubscribed::default(),
                _ => oversubscribed(&settings),
            },
            shapes,
            barred: known.shapes.barred(&tolerations),
            gpu_policy: settings::policy(placement.gpu.or(known.defaults.gpu)),
            topology: settings::topology(placement.topology.or(known.defaults.topology)),
            containers: Default::default(),
        },
        tolerations,
    })
}

#[cfg(test)]
mod tests;
