//! CEL selectors of classes and requests, with exactly the meaning Kubernetes gives them.
//!
//! Variables: `device.driver`, `device.attributes["<domain>"].<name>`, `device.capacity["<domain>"].<name>` and
//! `device.allowMultipleAllocations`; names without a domain belong to the driver's. A domain the device does not have
//! is an empty map when it is selected, and not there when `in` asks; a name it does not have is an error, which `has`,
//! `in` and `.?` avoid. The result is a bool, or an attribute that is one.
//!
//! The `cel` crate only parses ([`syntax`]). Types are checked as the API server does ([`check`], [`signatures`]), so
//! that what it refuses is refused here; evaluation ([`eval`]) ends at its cost limit of a million. The answers of
//! Kubernetes' own library to hundreds of expressions stand in `e2e/cel/answers.tsv`, and a test compares each.
//!
//! Not here: durations, timestamps, `format.*` and message literals, each a compile error that says so. Cost is counted
//! at evaluation alone; the estimate the API server makes when an object is written is its own.
//!
//! Sources: KEP-4381, `k8s.io/dynamic-resource-allocation/cel`, `k8s.io/apiserver/pkg/cel`, cel-go.

#[cfg(test)]
mod bounds;
mod check;
mod device;
mod eval;
mod functions;
mod signatures;
mod stack;
mod syntax;
#[cfg(test)]
mod table;
mod types;
mod value;

pub use device::DeviceView;
pub use value::Cause;

use syntax::Node;
use value::Value;

/// Trees up to this depth are evaluated on the caller's stack.
const SHALLOW: usize = 24;

/// A compiled expression.
#[derive(Debug)]
pub struct Selector {
    text: String,
    tree: Node,
    deep: bool,
}

/// Why an expression says nothing about a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The API server would refuse it.
    #[error("selector {text:?} does not compile: {cause}")]
    Compile {
        /// The expression.
        text: String,
        /// What is wrong.
        cause: String,
    },
    /// It failed on a device.
    #[error("selector {text:?} fails on {device}: {cause}; guard names a device may not have with has()")]
    Evaluate {
        /// The expression.
        text: String,
        /// The device.
        device: String,
        /// What is wrong.
        cause: Cause,
    },
}

impl Selector {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`SelectorError::Compile`].
    pub fn compile(text: &str) -> Result<Self, SelectorError> {
        let compiled = stack::deep(|| {
            let mut tree = syntax::parse(text)?;
            check::check(&mut tree)?;
            let deep = tree.depth() > SHALLOW;
            Ok(Self { text: text.to_owned(), tree, deep })
        });
        let compiled = compiled.unwrap_or_else(|| Err("the CEL parser gave up".to_owned()));
        compiled.map_err(|cause| SelectorError::Compile { text: text.to_owned(), cause })
    }

    /// Whether it selects a device.
    ///
    /// # Errors
    /// [`SelectorError::Evaluate`]: it failed, or its result is not a bool.
    pub fn matches(&self, device: &DeviceView) -> Result<bool, SelectorError> {
        let work = || device.value.clone().and_then(|device| eval::evaluate(&self.tree, device));
        let answer = match self.deep {
            false => work(),
            true => stack::deep(work).unwrap_or_else(|| Err(Cause::other("the CEL interpreter gave up"))),
        };
        let selected = answer.and_then(|value| match value {
            Value::Bool(selected) => Ok(selected),
            other => Err(Cause::other(format!("the result is {}, not a bool", other.kind()))),
        });
        selected.map_err(|cause| SelectorError::Evaluate {
            text: self.text.clone(),
            device: device.name.clone(),
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn t4() -> DeviceView {
        let device = json!({
            "name": "gpu-ab",
            "allowMultipleAllocations": true,
            "attributes": {
                "productName": {"string": "Tesla T4"},
                "minor": {"int": 2},
                "healthy": {"bool": true},
                "cudaComputeCapability": {"version": "7.5.0"},
                "resource.kubernetes.io/numaNode": {"int": 1},
            },
            "capacity": {"memory": {"value": "15104Mi"}, "cores": {"value": "100"}},
        });
        DeviceView::new("gpu.vgpu-dra.io", &serde_json::from_value(device).unwrap())
    }

    fn check(text: &str) -> Result<bool, String> {
        Selector::compile(text).and_then(|s| s.matches(&t4())).map_err(|e| e.to_string())
    }

    #[test]
    fn expressions_mean_what_kubernetes_says() {
        let d = r#"device.attributes["gpu.vgpu-dra.io"]"#;
        let c = r#"device.capacity["gpu.vgpu-dra.io"]"#;
        let table = [
            (r#"device.driver == "gpu.vgpu-dra.io""#.to_owned(), true),
            (format!(r#"{d}.productName == "Tesla T4""#), true),
            (format!(r#"{d}.productName.startsWith("NVIDIA")"#), false),
            (format!(r#"{d}.productName.contains("T4") && {d}.minor == 2"#), true),
            (format!(r#"{d}.productName.matches("^Tesla (T4|V100.*)$")"#), true),
            (format!(r#"{d}.productName in ["Tesla T4", "NVIDIA L4"]"#), true),
            (format!("{d}.minor >= 3 || {d}.minor < 1"), false),
            (format!("has({d}.productName)"), true),
            (format!("has({d}.nothing)"), false),
            (r#"has(device.attributes["other.example.com"].model)"#.to_owned(), false),
            (r#"device.attributes["resource.kubernetes.io"].numaNode == 1"#.to_owned(), true),
            (format!(r#"{c}.memory.compareTo(quantity("15104Mi")) == 0"#), true),
            (format!(r#"{c}.memory.isGreaterThan(quantity("16Gi"))"#), false),
            (format!(r#"{c}.memory.isLessThan(quantity("16G"))"#), true),
            (format!(r#"{c}.cores.asInteger() == 100"#), true),
            (format!(r#"{c}.memory.add(quantity("1Gi")).compareTo(quantity("16128Mi")) == 0"#), true),
            (format!(r#"{d}.cudaComputeCapability.compareTo(semver("7.0.0")) > 0"#), true),
            (format!(r#"{d}.cudaComputeCapability.major() == 7"#), true),
            (r#"isQuantity("1Gi") && !isQuantity("one")"#.to_owned(), true),
            ("device.allowMultipleAllocations".to_owned(), true),
        ];
        for (text, want) in table {
            assert_eq!(check(&text), Ok(want), "{text}");
        }
    }

    #[test]
    fn a_name_the_device_lacks_is_an_error_that_says_how_to_guard_it() {
        let error = check(r#"device.attributes["gpu.vgpu-dra.io"].nothing == 1"#).unwrap_err();
        assert!(error.contains("fails on gpu-ab") && error.contains("has()"), "{error}");
    }

    #[test]
    fn what_is_no_expression_or_no_bool_is_refused() {
        assert!(check("device.driver ==").unwrap_err().contains("does not compile"));
        assert!(check("device.driver").unwrap_err().contains("not a bool"));
        assert!(check("").is_err());
        assert!(check(&"(".repeat(5000)).is_err());
    }
}
