//! Pure: what is said about one pod to somebody who asks.

use serde::Serialize;

/// Where a pod is or would go, and what each node says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub pod: String,
    /// In one word.
    pub outcome: Outcome,
    /// In a sentence, as the controller's events have it.
    pub note: String,
    /// Node it has or would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Devices it has or would get.
    pub gpus: Vec<String>,
    /// Nodes with GPUs of this driver, those that fit first, the best first; empty for a pod that is not planned.
    pub nodes: Vec<NodeAnswer>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Its claims are allocated.
    Allocated,
    /// It would be placed now.
    Fits,
    /// It fits nowhere now.
    NotPlaced,
    /// Its namespace would hold too much.
    QuotaExceeded,
    /// A claim of it cannot be understood.
    Invalid,
    /// Something else holds it back: another gate, a claim that is not there yet.
    Waits,
    /// It names no claim of this driver.
    NotOurs,
}

/// What one node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAnswer {
    /// Node name.
    pub node: String,
    /// Whether the pod fits there.
    pub fits: bool,
    /// Under the pod's node policy, 0 to 1 with three digits; the highest wins. Absent where it does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Devices it would get there.
    pub gpus: Vec<String>,
    /// Why it does not fit there; empty where it does.
    pub note: String,
}
