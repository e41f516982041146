//! Refusals, as the API server words them.

use serde_json::{Value, json};

/// Why a call was refused: a `metav1.Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub code: u16,
    /// CamelCase word for programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Refused {
    /// 404.
    pub fn not_found(plural: &str, name: &str) -> Self {
        Self { code: 404, reason: "NotFound", message: format!("{plural} {name:?} not found") }
    }

    /// 409 on creation.
    pub fn exists(plural: &str, name: &str) -> Self {
        Self { code: 409, reason: "AlreadyExists", message: format!("{plural} {name:?} already exists") }
    }

    /// 409.
    pub fn conflict(plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {plural} {name:?}: {why}");
        Self { code: 409, reason: "Conflict", message }
    }

    /// 422.
    pub fn invalid(field: &str, why: &str) -> Self {
        Self { code: 422, reason: "Invalid", message: format!("{field}: {why}") }
    }

    /// 400.
    pub fn bad_request(why: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: why.into() }
    }

    /// 410: what was asked for is no longer remembered.
    pub fn gone(why: impl Into<String>) -> Self {
        Self { code: 410, reason: "Expired", message: why.into() }
    }

    /// One of a plain code, for injected faults and budgets.
    pub fn code(code: u16, why: impl Into<String>) -> Self {
        let reason = match code {
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: why.into() }
    }

    /// As it goes over the wire.
    pub fn body(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
