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
//! Expressions of stored objects passed the API server, but nothing here relies on that: length, nesting, the sizes of
//! types and patterns, and the cost of an evaluation are bounded, and each bound ends with an error.
//!
//! Not here: message literals such as `google.protobuf.Int32Value{}` and the names of time zones, each an error that
//! says so. Cost is counted at evaluation alone; the estimate the API server makes when an object is written is its own.
//!
//! Sources: KEP-4381, `k8s.io/dynamic-resource-allocation/cel`, `k8s.io/apiserver/pkg/cel`, cel-go.

mod check;
mod device;
mod eval;
mod functions;
mod meter;
mod signatures;
mod stack;
mod syntax;
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
    #[error("selector {shown} does not compile: {cause}", shown = shown(.text))]
    Compile {
        /// The expression.
        text: String,
        /// What is wrong.
        cause: String,
    },
    /// It failed on a device.
    #[error("selector {shown} fails on {device}: {cause}{cure}", shown = shown(.text), cure = .cause.cure())]
    Evaluate {
        /// The expression.
        text: String,
        /// The device.
        device: String,
        /// What is wrong.
        cause: Cause,
    },
}

/// Text in quotes, as much of it as leaves room for the cause.
fn shown(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
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
        self.evaluate(device).map_err(|cause| self.failed(device, cause))
    }

    /// Whether it selects a device, or why it says nothing about it.
    ///
    /// # Errors
    /// [`Cause`]: as [`matches`](Self::matches), for callers that keep answers for devices of other names.
    pub fn evaluate(&self, device: &DeviceView) -> Result<bool, Cause> {
        let work = || device.value.clone().and_then(|device| eval::evaluate(&self.tree, device));
        let answer = match self.deep {
            false => work(),
            true => stack::deep(work).unwrap_or_else(|| Err(Cause::other("the CEL interpreter gave up"))),
        };
        match answer? {
            Value::Bool(selected) => Ok(selected),
            other => Err(Cause::other(format!("the result is {}, not a bool", other.kind()))),
        }
    }

    /// The error of an evaluation.
    pub fn failed(&self, device: &DeviceView, cause: Cause) -> SelectorError {
        SelectorError::Evaluate { text: self.text.clone(), device: device.name.clone(), cause }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        let device = json!({"name": "gpu-ab", "attributes": {"productName": {"string": "Tesla T4"}}});
        let device = DeviceView::new("gpu.vgpu-dra.io", &serde_json::from_value(device).unwrap());
        let answer = Selector::compile(text).and_then(|s| s.matches(&device));
        answer.expect_err("it fails").to_string()
    }

    #[test]
    fn errors_name_expression_cause_and_cure() {
        let attributes = r#"device.attributes["gpu.vgpu-dra.io"]"#;
        let table = [
            (
                format!("{attributes}.nothing == 1"),
                "fails on gpu-ab: no such key: nothing; guard names a device may not have with has() or .?",
            ),
            (
                format!("{attributes}.productName > 1"),
                "fails on gpu-ab: no such overload: string < int; use values of the types it takes, type() tells them",
            ),
            (
                "lists.range(2000000).size() > 0".to_owned(),
                "fails on gpu-ab: cost limit exceeded; go through fewer elements or shorter text",
            ),
            (format!("{attributes}.productName"), "fails on gpu-ab: the result is string, not a bool"),
            (
                "device.driver".to_owned(),
                "does not compile: must evaluate to bool or the unknown type, not string",
            ),
            ("device.driver == 1".to_owned(), "does not compile: _==_ does not take (string, int)"),
            ("device.name == ''".to_owned(), "does not compile: a device has no name"),
            (
                "[1, ''] == []".to_owned(),
                "does not compile: a literal of both int and string; wrap them in dyn()",
            ),
            ("nothing == 1".to_owned(), "does not compile: undeclared name nothing"),
        ];
        for (text, want) in table {
            assert_eq!(error(&text), format!("selector {text:?} {want}"));
        }
        let syntax = error("device.driver ==");
        assert!(syntax.contains("does not compile: 1:17: Syntax error"), "{syntax}");
    }

    #[test]
    fn a_long_expression_leaves_room_for_the_cause() {
        let error = error(&format!("true{}", " && true".repeat(2000)));
        assert!(
            error.len() < 400 && error.ends_with("... does not compile: longer than 10240 bytes"),
            "{error}"
        );
    }
}
