//! ShareConfig: the opaque configuration a claim or DeviceClass may carry for this driver.
//!
//! It decides *where* a share goes and what its `cores` mean beside other shares; how much it gets is said in the request's
//! capacities. Unknown fields and values
//! are refused with the field's path, because a misspelt policy that silently did nothing would be worse.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::API_VERSION;

/// How candidates (nodes, or GPUs of a node) are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Policy {
    /// Fullest first, the request included.
    Binpack,
    /// Emptiest first, the request included.
    Spread,
    /// Least loss for the mix of demands seen so far.
    LeastFragmentation,
}

impl Policy {
    /// Every policy, in the order of the documentation.
    pub const ALL: [Policy; 3] = [Policy::Binpack, Policy::Spread, Policy::LeastFragmentation];

    /// The name users write.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Binpack => "Binpack",
            Policy::Spread => "Spread",
            Policy::LeastFragmentation => "LeastFragmentation",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Policy::ALL
            .into_iter()
            .find(|p| p.name() == s)
            .ok_or_else(|| format!("unknown policy {s:?}: use Binpack, Spread or LeastFragmentation"))
    }
}

/// How much it matters that the GPUs of one request are close to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Topology {
    /// Any two of them reach each other over NVLink or below one PCIe root; without such GPUs the pod waits.
    Require,
    /// As close as the policy leaves a choice: over NVLink, then below one PCIe root, then on one NUMA node.
    #[default]
    Prefer,
    /// Not at all.
    Ignore,
}

/// Placement of a share. Unset fields are taken from the class, then from the controller's flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// Order of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Policy>,
    /// Order of GPUs inside the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Policy>,
    /// Of a request for several GPUs; `None`: `Prefer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
}

/// What `cores` means for a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    /// A cap: never more, even if the GPU is idle. As much is the share's while others want the GPU.
    #[default]
    Hard,
    /// A guarantee without a cap: as much while others want the GPU, and what they leave idle too.
    Elastic,
    /// Neither cap nor guarantee: what the others leave.
    None,
}

/// Who goes first while several shares want a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Priority {
    /// Stops the others' launches as soon as it wants the GPU.
    High,
    /// The usual.
    #[default]
    Normal,
    /// After all others.
    Low,
}

/// Whether a share's memory may be more than is on the GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Oversubscription {
    /// All of it is on the GPU.
    #[default]
    Forbidden,
    /// What has no place on the GPU may lie in the host's memory, where the admin lets GPUs be overcommitted.
    Allowed,
}

/// What a share's memory is. An unset field is taken from the class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// `None`: `Forbidden`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversubscription: Option<Oversubscription>,
}

/// What a share's `cores` mean. An unset field is taken from the class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cores {
    /// `None`: `Hard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// `Allowed`: where the admin lets GPUs be overcommitted, the guarantee shrinks while all who have one want it at once.
    /// `None`: `Forbidden`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversubscription: Option<Oversubscription>,
}

/// What a share may be told beside its amounts. Every field is optional.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShareConfig {
    /// Where the share goes.
    pub placement: Placement,
    /// What its `cores` mean.
    pub cores: Cores,
    /// What its memory is.
    pub memory: Memory,
    /// Who goes first; `None`: `Normal`.
    pub priority: Option<Priority>,
}

/// Why opaque parameters are not a ShareConfig. The caller adds the object they came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareConfigError {
    /// `apiVersion` or `kind` is not ours.
    #[error("parameters.{field}: {value:?} is not known, use {want:?}")]
    Type {
        /// `apiVersion` or `kind`.
        field: &'static str,
        /// What was found; empty when absent.
        value: String,
        /// What it has to be.
        want: &'static str,
    },
    /// A field is unknown or has a value it cannot have; the message names both and what is allowed.
    #[error("parameters.{path}: {message}")]
    Field {
        /// Dotted path inside the parameters.
        path: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    placement: Placement,
    #[serde(default)]
    cores: Cores,
    #[serde(default)]
    memory: Memory,
    #[serde(default)]
    priority: Option<Priority>,
}

impl ShareConfig {
    /// `kind` of the parameters.
    pub const KIND: &'static str = "ShareConfig";

    /// Decodes opaque parameters, strictly. Errors: [`ShareConfigError`] with the path inside the parameters.
    pub fn decode(parameters: &Value) -> Result<Self, ShareConfigError> {
        let text = |field: &str| match parameters.get(field) {
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        for (field, want) in [("apiVersion", API_VERSION), ("kind", Self::KIND)] {
            let value = text(field);
            if value != want {
                return Err(ShareConfigError::Type { field, value, want });
            }
        }
        let wire: Wire = serde_path_to_error::deserialize(parameters).map_err(|e| {
            ShareConfigError::Field { path: e.path().to_string(), message: e.inner().to_string() }
        })?;
        debug_assert!(wire.api_version == API_VERSION && wire.kind == Self::KIND);
        let Wire { placement, cores, memory, priority, .. } = wire;
        Ok(Self { placement, cores, memory, priority })
    }

    /// This configuration with `later` laid over it, field by field.
    pub fn overlaid(self, later: Self) -> Self {
        Self {
            placement: Placement {
                node: later.placement.node.or(self.placement.node),
                gpu: later.placement.gpu.or(self.placement.gpu),
                topology: later.placement.topology.or(self.placement.topology),
            },
            cores: Cores {
                enforcement: later.cores.enforcement.or(self.cores.enforcement),
                oversubscription: later.cores.oversubscription.or(self.cores.oversubscription),
            },
            memory: Memory {
                oversubscription: later.memory.oversubscription.or(self.memory.oversubscription),
            },
            priority: later.priority.or(self.priority),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(body: Value) -> Result<ShareConfig, String> {
        ShareConfig::decode(&body).map_err(|e| e.to_string())
    }

    #[test]
    fn placement_is_read() {
        let c = decode(
            json!({"apiVersion": API_VERSION, "kind": "ShareConfig", "placement": {"node": "Spread"}}),
        );
        assert_eq!(c.unwrap().placement, Placement { node: Some(Policy::Spread), ..Placement::default() });
    }

    #[test]
    fn enforcement_and_priority_are_read_and_later_ones_win() {
        let read = |cores: Value, priority: Value| {
            decode(
                json!({"apiVersion": API_VERSION, "kind": "ShareConfig", "cores": cores, "priority": priority}),
            )
        };
        let class = read(json!({"enforcement": "Elastic"}), json!("Low")).unwrap();
        assert_eq!(
            (class.cores.enforcement, class.priority),
            (Some(Enforcement::Elastic), Some(Priority::Low))
        );
        let claim = read(json!({}), json!("High")).unwrap();
        let both = class.overlaid(claim);
        assert_eq!(
            (both.cores.enforcement, both.priority),
            (Some(Enforcement::Elastic), Some(Priority::High))
        );
        for (cores, priority, want) in [
            (
                json!({"enforcement": "Soft"}),
                json!("High"),
                "parameters.cores.enforcement: unknown variant `Soft`, expected one of `Hard`, `Elastic`, `None`",
            ),
            (
                json!({}),
                json!("Urgent"),
                "parameters.priority: unknown variant `Urgent`, expected one of `High`, `Normal`, `Low`",
            ),
            (
                json!({"limit": 3}),
                json!("Low"),
                "parameters.cores.limit: unknown field `limit`, expected `enforcement` or `oversubscription`",
            ),
        ] {
            assert_eq!(read(cores, priority).unwrap_err(), want);
        }
    }

    #[test]
    fn oversubscription_is_read_and_the_later_word_on_it_wins() {
        let read = |memory: Value| {
            decode(json!({"apiVersion": API_VERSION, "kind": "ShareConfig", "memory": memory}))
        };
        let allowed = read(json!({"oversubscription": "Allowed"})).unwrap();
        assert_eq!(allowed.memory.oversubscription, Some(Oversubscription::Allowed));
        assert_eq!(allowed.overlaid(read(json!({})).unwrap()), allowed);
        let forbidden = read(json!({"oversubscription": "Forbidden"})).unwrap();
        assert_eq!(allowed.overlaid(forbidden), forbidden);
        assert_eq!(
            read(json!({"oversubscription": true})).unwrap_err(),
            "parameters.memory.oversubscription: invalid type: boolean `true`, expected string or map"
        );
        assert_eq!(
            read(json!({"oversubscription": "Yes"})).unwrap_err(),
            "parameters.memory.oversubscription: unknown variant `Yes`, expected `Forbidden` or `Allowed`"
        );
    }

    #[test]
    fn topology_and_cores_are_overlaid_like_the_rest() {
        let read = |body: Value| {
            let mut all = json!({"apiVersion": API_VERSION, "kind": "ShareConfig"});
            all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            decode(all).unwrap()
        };
        let class =
            read(json!({"placement": {"topology": "Require"}, "cores": {"oversubscription": "Allowed"}}));
        let claim = read(json!({"placement": {"gpu": "Spread"}, "cores": {"enforcement": "Elastic"}}));
        let both = class.overlaid(claim);
        assert_eq!(
            (both.placement.topology, both.placement.gpu),
            (Some(Topology::Require), Some(Policy::Spread))
        );
        assert_eq!(both.cores.oversubscription, Some(Oversubscription::Allowed));
        let other = read(json!({"placement": {"topology": "Ignore"}}));
        assert_eq!(both.overlaid(other).placement.topology, Some(Topology::Ignore));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path() {
        let e =
            decode(json!({"apiVersion": API_VERSION, "kind": "ShareConfig", "placement": {"nod": "Spread"}}));
        assert_eq!(
            e.unwrap_err(),
            "parameters.placement.nod: unknown field `nod`, expected one of `node`, `gpu`, `topology`"
        );
    }

    #[test]
    fn an_unknown_policy_is_refused_with_the_known_ones() {
        let e =
            decode(json!({"apiVersion": API_VERSION, "kind": "ShareConfig", "placement": {"gpu": "Pack"}}));
        assert_eq!(
            e.unwrap_err(),
            "parameters.placement.gpu: unknown variant `Pack`, expected one of `Binpack`, `Spread`, `LeastFragmentation`"
        );
    }

    #[test]
    fn a_foreign_kind_is_refused() {
        let e = decode(json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}));
        assert_eq!(
            e.unwrap_err(),
            "parameters.apiVersion: \"resource.nvidia.com/v1beta1\" is not known, use \"vgpu-dra.io/v1alpha1\""
        );
    }

    #[test]
    fn the_later_configuration_wins_field_by_field() {
        let place = |node, gpu| ShareConfig {
            placement: Placement { node, gpu, topology: Some(Topology::Require) },
            ..ShareConfig::default()
        };
        let class = place(Some(Policy::Binpack), Some(Policy::Binpack));
        let claim = place(None, Some(Policy::Spread));
        assert_eq!(class.overlaid(claim), place(Some(Policy::Binpack), Some(Policy::Spread)));
    }
}
