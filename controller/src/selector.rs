//! CEL selectors of classes and requests, with the meaning Kubernetes gives them.
//!
//! `device.driver`, `device.attributes["<domain>"].<name>`, `device.capacity["<domain>"].<name>` and
//! `device.allowMultipleAllocations`; names without a domain belong to the driver's. A domain the device does not have is
//! an empty map, a name it does not have is an error (guard it with `has`). Quantities and semantic versions have
//! `compareTo`, `isGreaterThan`, `isLessThan`, `add`, `sub`, `asInteger`. Source: KEP-4381 and the API server's library.
//!
//! Expressions of stored objects passed the API server's cost limits; length and nesting are bounded here all the same.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::extractors::This;
use cel::objects::{Key, Opaque};
use cel::{Context, Env, ExecutionError, Program, Value};
use k8s_openapi::api::resource::v1::Device;
use vgpu_api::Quantity;

/// The API server takes no longer ones.
const LENGTH: usize = 10 * 1024;
/// Open brackets within each other.
const DEPTH: usize = 200;

/// A compiled expression.
#[derive(Debug)]
pub struct Selector {
    text: String,
    program: Program,
}

/// Why an expression says nothing about a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is no expression.
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
        cause: String,
    },
}

/// What an expression sees of a device.
#[derive(Debug, Clone)]
pub struct DeviceView {
    name: String,
    driver: String,
    attributes: HashMap<String, HashMap<String, Value>>,
    capacity: HashMap<String, HashMap<String, Value>>,
    shared: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Version(semver::Version);

impl Opaque for Version {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(true)));

impl DeviceView {
    /// Of a device of a driver.
    pub fn new(driver: &str, device: &Device) -> Self {
        let split = |name: &str| match name.split_once('/') {
            Some((domain, name)) => (domain.to_owned(), name.to_owned()),
            None => (driver.to_owned(), name.to_owned()),
        };
        let mut attributes: HashMap<String, HashMap<String, Value>> = HashMap::new();
        for (name, attribute) in device.attributes.iter().flatten() {
            let version =
                |v: &String| semver::Version::parse(v).ok().map(|v| Value::Opaque(Arc::new(Version(v))));
            let value = (attribute.string.as_ref().map(|s| Value::String(Arc::new(s.clone()))))
                .or_else(|| attribute.int.map(Value::Int))
                .or_else(|| attribute.bool.map(Value::Bool))
                .or_else(|| attribute.version.as_ref().and_then(version));
            if let Some(value) = value {
                let (domain, name) = split(name);
                attributes.entry(domain).or_default().insert(name, value);
            }
        }
        let mut capacity: HashMap<String, HashMap<String, Value>> = HashMap::new();
        for (name, amount) in device.capacity.iter().flatten() {
            if let Ok(quantity) = amount.value.0.parse() {
                let (domain, name) = split(name);
                capacity.entry(domain).or_default().insert(name, Value::Opaque(Arc::new(Amount(quantity))));
            }
        }
        let shared = device.allow_multiple_allocations == Some(true);
        Self { name: device.name.clone(), driver: driver.to_owned(), attributes, capacity, shared }
    }

    /// As the variable `device`. Domains the expression names and the device lacks become empty maps.
    fn value(&self, named: &[String]) -> Value {
        let domains = |map: &HashMap<String, HashMap<String, Value>>| {
            let mut all: HashMap<Key, Value> = HashMap::new();
            for name in named {
                all.insert(key(name), Value::from(HashMap::<Key, Value>::new()));
            }
            for (domain, values) in map {
                let values: HashMap<Key, Value> = values.iter().map(|(n, v)| (key(n), v.clone())).collect();
                all.insert(key(domain), Value::from(values));
            }
            Value::from(all)
        };
        let fields: HashMap<Key, Value> = HashMap::from([
            (key("driver"), Value::String(Arc::new(self.driver.clone()))),
            (key("attributes"), domains(&self.attributes)),
            (key("capacity"), domains(&self.capacity)),
            (key("allowMultipleAllocations"), Value::Bool(self.shared)),
        ]);
        Value::from(fields)
    }
}

fn key(name: &str) -> Key {
    Key::String(Arc::new(name.to_owned()))
}

impl Selector {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`SelectorError::Compile`].
    pub fn compile(text: &str) -> Result<Self, SelectorError> {
        let error = |cause: String| SelectorError::Compile { text: text.to_owned(), cause };
        if text.len() > LENGTH {
            return Err(error(format!("longer than {LENGTH} bytes")));
        }
        if depth(text) > DEPTH {
            return Err(error(format!("more than {DEPTH} brackets within each other")));
        }
        // The parser is a library's; what it makes of hostile text must not end the controller.
        match catch_unwind(AssertUnwindSafe(|| ENV.compile(text))) {
            Ok(Ok(program)) => Ok(Self { text: text.to_owned(), program }),
            Ok(Err(errors)) => Err(error(errors.to_string().replace('\n', " "))),
            Err(_) => Err(error("the CEL parser gave up".to_owned())),
        }
    }

    /// Whether it selects a device.
    ///
    /// # Errors
    /// [`SelectorError::Evaluate`]: it failed, or its result is not a bool.
    pub fn matches(&self, device: &DeviceView) -> Result<bool, SelectorError> {
        let error = |cause: String| SelectorError::Evaluate {
            text: self.text.clone(),
            device: device.name.clone(),
            cause,
        };
        let run = || {
            let mut context = Context::with_env(ENV.clone());
            add_functions(&mut context);
            context.add_variable_from_value("device", device.value(&literals(&self.text)));
            self.program.execute(&context)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(Value::Bool(selected))) => Ok(selected),
            Ok(Ok(other)) => Err(error(format!("the result is {:?}, not a bool", other.type_of()))),
            Ok(Err(cause)) => Err(error(cause.to_string())),
            Err(_) => Err(error("the CEL interpreter gave up".to_owned())),
        }
    }
}

/// String literals of an expression.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['"', '\'']) {
        let quote = if rest[open..].starts_with('"') { '"' } else { '\'' };
        let Some(close) = rest[open + 1..].find(quote) else { break };
        found.push(rest[open + 1..open + 1 + close].to_owned());
        rest = &rest[open + close + 2..];
    }
    found
}

fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => now += 1,
            ')' | ']' | '}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

type Answer = Result<Value, ExecutionError>;

fn wrong(function: &str, cause: &str) -> ExecutionError {
    ExecutionError::function_error(function, cause)
}

fn downcast<T: Clone + 'static>(value: &Value) -> Option<T> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<T>().cloned(),
        _ => None,
    }
}

/// -1, 0 or 1 for two quantities or two versions.
fn compare(function: &str, a: &Value, b: &Value) -> Result<i64, ExecutionError> {
    let amounts = downcast::<Amount>(a).zip(downcast::<Amount>(b)).map(|(a, b)| a.0.cmp(&b.0));
    let versions = || Some(downcast::<Version>(a)?.0.cmp_precedence(&downcast::<Version>(b)?.0));
    let order = amounts.or_else(versions);
    order.map(|o| o as i64).ok_or_else(|| wrong(function, "it takes two quantities or two versions"))
}

fn amount(function: &str, value: &Value) -> Result<Quantity, ExecutionError> {
    downcast::<Amount>(value).map(|a| a.0).ok_or_else(|| wrong(function, "it takes quantities"))
}

fn parse_quantity(text: &str) -> Result<Quantity, ExecutionError> {
    text.parse().map_err(|e: vgpu_api::QuantityError| wrong("quantity", &e.to_string()))
}

fn sum(function: &'static str, a: &Value, b: &Value, sign: i128) -> Answer {
    let b = match b {
        Value::Int(n) => Quantity::from_nano(i128::from(*n) * 1_000_000_000, vgpu_api::Format::DecimalSi),
        other => amount(function, other)?,
    };
    let a = amount(function, a)?;
    Ok(Value::Opaque(Arc::new(Amount(Quantity::from_nano(a.nano() + sign * b.nano(), a.format())))))
}

fn add_functions(context: &mut Context<'_, '_>) {
    let is = |function: &'static str, want: i64| {
        move |This(a): This<Value>, b: Value| -> Answer {
            Ok(Value::Bool(compare(function, &a, &b)? == want))
        }
    };
    let version = |text: &str| semver::Version::parse(text).map_err(|e| wrong("semver", &e.to_string()));
    // Each name is added once to a context that has none of them: adding cannot fail.
    let _ = context.add_function("quantity", |text: Arc<String>| -> Answer {
        Ok(Value::Opaque(Arc::new(Amount(parse_quantity(&text)?))))
    });
    let _ = context.add_function("isQuantity", |text: Arc<String>| parse_quantity(&text).is_ok());
    let _ = context.add_function("semver", move |text: Arc<String>| -> Answer {
        Ok(Value::Opaque(Arc::new(Version(version(&text)?))))
    });
    let _ = context.add_function("isSemver", move |text: Arc<String>| version(&text).is_ok());
    let _ = context.add_function("compareTo", |This(a): This<Value>, b: Value| -> Answer {
        compare("compareTo", &a, &b).map(Value::Int)
    });
    let _ = context.add_function("isGreaterThan", is("isGreaterThan", 1));
    let _ = context.add_function("isLessThan", is("isLessThan", -1));
    let _ = context.add_function("add", |This(a): This<Value>, b: Value| sum("add", &a, &b, 1));
    let _ = context.add_function("sub", |This(a): This<Value>, b: Value| sum("sub", &a, &b, -1));
    let _ = context.add_function("asInteger", |This(a): This<Value>| -> Answer {
        let nano = amount("asInteger", &a)?.nano();
        match nano % 1_000_000_000 {
            0 => Ok(Value::Int(i64::try_from(nano / 1_000_000_000).unwrap_or(i64::MAX))),
            _ => Err(wrong("asInteger", "the quantity is not a whole number")),
        }
    });
    let part = |name: &'static str, part: fn(&semver::Version) -> u64| {
        move |This(a): This<Value>| -> Answer {
            let version = downcast::<Version>(&a).ok_or_else(|| wrong(name, "it takes a version"))?;
            Ok(Value::Int(i64::try_from(part(&version.0)).unwrap_or(i64::MAX)))
        }
    };
    let _ = context.add_function("major", part("major", |v| v.major));
    let _ = context.add_function("minor", part("minor", |v| v.minor));
    let _ = context.add_function("patch", part("patch", |v| v.patch));
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
