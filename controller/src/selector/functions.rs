//! Functions and operators. Each library answers the calls it knows, by name and types of the values.

mod addresses;
pub(super) mod format;
pub(super) mod lists;
pub(super) mod named_formats;
mod operators;
mod pattern;
mod quantities;
mod strings;
pub(super) mod times;
mod versions;

pub(super) use addresses::{Cidr, Url};
pub(super) use operators::text;
pub(super) use quantities::Amount;

use super::eval::Answer;
use super::meter::Meter;
use super::syntax::{Call, Node};
use super::value::{Cause, Map, Value};

/// `None`: not a function of that library, or not with values of these types.
type Library = fn(&str, &[Value], &mut Meter) -> Option<Answer>;

const LIBRARIES: [Library; 8] = [
    operators::call,
    strings::call,
    lists::call,
    quantities::call,
    versions::call,
    times::call,
    addresses::call,
    named_formats::call,
];

/// Calls a function; the receiver of a member function comes first.
pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Answer {
    LIBRARIES.iter().find_map(|library| library(function, args, meter)).unwrap_or_else(|| {
        let types: Vec<String> = args.iter().map(|a| a.kind().to_string()).collect();
        Err(Cause::NoSuchOverload(format!("{function}({})", types.join(", "))))
    })
}

/// The conversions, which are evaluated in advance where they can be.
const CONVERSIONS: [&str; 9] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "uint"];

/// Checks what stands in the text itself: patterns, and constants that are converted.
pub(super) fn check_constants(call: &Call, meter: &mut Meter) -> Result<(), String> {
    let Call { function, member, args } = call;
    let pattern = |text: &Value, meter: &mut Meter| match text {
        Value::String(text) => strings::pattern(text, meter).map(drop),
        _ => Ok(()),
    };
    let mut constant = |node: &Node| constant(node, meter);
    let checked = match (function.as_str(), args.as_slice()) {
        ("matches" | "find" | "findAll", [text, found, ..]) => {
            // Kubernetes' validator takes the first argument for the pattern, in `matches(text, pattern)` too.
            let first = text.literal().filter(|_| !member && function == "matches");
            let patterns = [first, constant(found)];
            patterns.iter().flatten().try_for_each(|text| pattern(text, meter))
        }
        ("_[_]" | "_[?_]", [_, key]) => match constant(key) {
            None
            | Some(Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
                Ok(())
            }
            Some(key) => Err(Cause::other(format!("{} is no key", key.kind()))),
        },
        (name, [value]) if CONVERSIONS.contains(&name) => match constant(value) {
            Some(value) => self::call(name, &[value], meter).map(drop),
            None => Ok(()),
        },
        _ => Ok(()),
    };
    checked.map_err(|cause| cause.to_string())
}

/// The value of an expression that needs no evaluation.
fn constant(node: &Node, meter: &mut Meter) -> Option<Value> {
    match node {
        Node::Literal(value) => Some(value.clone()),
        Node::List(elements) => {
            let made = elements.iter().map(|(e, optional)| constant(e, meter).filter(|_| !optional));
            made.collect::<Option<Vec<_>>>().map(Value::from)
        }
        Node::Map(entries) => {
            let mut map = Map::default();
            for (key, value, optional) in entries {
                let value = constant(value, meter).filter(|_| !optional)?;
                map.insert(constant(key, meter)?, value);
            }
            Some(map.into())
        }
        Node::Call(Call { function, args, .. }) if CONVERSIONS.contains(&function.as_str()) => {
            match args.as_slice() {
                [value] => call(function, &[constant(value, meter)?], meter).ok(),
                _ => None,
            }
        }
        _ => None,
    }
}
