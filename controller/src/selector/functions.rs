//! Functions and operators. Each library answers the calls it knows, by name and types of the values.

mod addresses;
pub(super) mod format;
pub(super) mod lists;
mod operators;
mod quantities;
mod strings;
mod versions;

pub(super) use addresses::{Cidr, Url};
pub(super) use operators::text;
pub(super) use quantities::Amount;

use super::eval::{Answer, Meter};
use super::syntax::Node;
use super::value::{Cause, Value};

/// `None`: not a function of that library, or not with values of these types.
type Library = fn(&str, &[Value], &mut Meter) -> Option<Answer>;

const LIBRARIES: [Library; 6] =
    [operators::call, strings::call, lists::call, quantities::call, versions::call, addresses::call];

/// Calls a function; the receiver of a member function comes first.
pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Answer {
    LIBRARIES.iter().find_map(|library| library(function, args, meter)).unwrap_or_else(|| {
        let types: Vec<String> = args.iter().map(|a| a.kind().to_string()).collect();
        Err(Cause::NoSuchOverload(format!("{function}({})", types.join(", "))))
    })
}

/// Checks what stands in the text itself: patterns, and constants that are converted.
pub(super) fn check_literals(function: &str, args: &[Node]) -> Result<(), String> {
    match (function, args) {
        ("matches" | "find" | "findAll", [_, Node::Literal(Value::String(pattern)), ..]) => {
            strings::regex(pattern).map(drop).map_err(|e| e.to_string())
        }
        ("int" | "uint" | "double" | "bool" | "bytes" | "string", [Node::Literal(value)]) => {
            call(function, std::slice::from_ref(value), &mut Meter::new())
                .map(drop)
                .map_err(|e| e.to_string())
        }
        _ => Ok(()),
    }
}
