//! Operators, conversions, optionals: CEL's own library.

use super::super::eval::{Answer, select};
use super::super::meter::Meter;
use super::super::value::{Cause, Value};
use super::times;

use Value::{Bool, Bytes, Double, Int, List, Map, Optional, Uint};

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    Some(match (function, args) {
        ("!_", [Bool(b)]) => Ok(Bool(!b)),
        ("_==_", [a, b]) => meter.equal(a, b).map(Bool),
        // Kubernetes takes "cannot be compared" for "differs" here.
        ("_!=_", [a, b]) => match meter.equal(a, b) {
            Err(Cause::NoSuchOverload(_)) => Ok(Bool(true)),
            equal => equal.map(|e| Bool(!e)),
        },
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => {
            let cost = a.size().min(b.size());
            meter.spend(cost).and_then(|()| a.order(b)).map(|order| {
                Bool(match function {
                    "_<_" => order.is_lt(),
                    "_<=_" => order.is_le(),
                    "_>_" => order.is_gt(),
                    _ => order.is_ge(),
                })
            })
        }
        ("-_", [Int(a)]) => a.checked_neg().map(Int).ok_or_else(overflow),
        ("-_", [Double(a)]) => Ok(Double(-a)),
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [Int(a), Int(b)]) => ints(function, *a, *b),
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [Uint(a), Uint(b)]) => uints(function, *a, *b),
        ("_+_", [Double(a), Double(b)]) => Ok(Double(a + b)),
        ("_-_", [Double(a), Double(b)]) => Ok(Double(a - b)),
        ("_*_", [Double(a), Double(b)]) => Ok(Double(a * b)),
        ("_/_", [Double(a), Double(b)]) => Ok(Double(a / b)),
        ("_+_", [Value::String(a), Value::String(b)]) => {
            meter.bytes(a.len() + b.len()).map(|()| [&**a, &**b].concat().into())
        }
        ("_+_", [Bytes(a), Bytes(b)]) => {
            meter.bytes(a.len() + b.len()).map(|()| Bytes([&**a, &**b].concat().into()))
        }
        ("_+_", [List(a), List(b)]) => {
            let elements = a.len() + b.len();
            meter
                .spend(elements as u64)
                .map(|()| a.iter().chain(b.iter()).cloned().collect::<Vec<_>>().into())
        }
        ("_[_]", [of, key]) => select(of, key, false),
        ("_[?_]", [of, key]) => select(of, key, true),
        ("@in", [wanted, List(list)]) => meter.contains(list, wanted).map(Bool),
        ("@in", [wanted, Map(_)]) if !wanted.is_hashable() => Err(Cause::no_key(wanted)),
        ("@in", [wanted, Map(map)]) => Ok(Bool(map.get(wanted).is_some())),
        ("size", [Value::String(s)]) => meter.bytes(s.len()).map(|()| Int(s.chars().count() as i64)),
        ("size", [Bytes(b)]) => Ok(Int(b.len() as i64)),
        ("size", [List(l)]) => Ok(Int(l.len() as i64)),
        ("size", [Map(m)]) => Ok(Int(m.len() as i64)),
        ("type", [value]) => Ok(Value::Type(value.kind())),
        ("dyn", [value]) => Ok(value.clone()),
        ("bool" | "bytes" | "double" | "int" | "uint" | "string", [value]) => {
            return convert(function, value, meter);
        }
        ("includes", [List(list), _]) if list.len() > 16 => {
            Err(Cause::other("'includes' function cannot be applied to lists longer than 16 values"))
        }
        ("includes", [List(list), wanted]) => meter.contains(list, wanted).map(Bool),
        ("includes", [value, wanted]) => meter.contains(std::slice::from_ref(wanted), value).map(Bool),
        ("optional.of", [value]) => Ok(Value::from(Some(value.clone()))),
        ("optional.ofNonZeroValue", [value]) => Ok(Value::from((!zero(value)).then(|| value.clone()))),
        ("optional.none", []) => Ok(Optional(None)),
        ("optional.unwrap" | "unwrapOpt", [List(list)]) => meter.spend(list.len() as u64).and_then(|()| {
            let mut unwrapped = Vec::new();
            for value in list.iter() {
                match value {
                    Optional(value) => unwrapped.extend(value.iter().map(|v| Value::clone(v))),
                    other => return Err(Cause::NoSuchOverload(format!("{function} of {}", other.kind()))),
                }
            }
            Ok(unwrapped.into())
        }),
        ("value", [Optional(Some(value))]) => Ok(Value::clone(value)),
        ("value", [Optional(None)]) => Err(Cause::other("optional.none() dereference")),
        ("hasValue", [Optional(value)]) => Ok(Bool(value.is_some())),
        _ => return None,
    })
}

fn overflow() -> Cause {
    Cause::other("integer overflow")
}

/// An operator on whole numbers of one kind; their methods have the same names and no trait.
macro_rules! whole {
    ($function:expr, $a:expr, $b:expr) => {
        match $function {
            "_+_" => Ok($a.checked_add($b)),
            "_-_" => Ok($a.checked_sub($b)),
            "_*_" => Ok($a.checked_mul($b)),
            _ if $b == 0 => Err(Cause::other("division by zero")),
            "_/_" => Ok($a.checked_div($b)),
            _ => Ok($a.checked_rem($b)),
        }
    };
}

fn ints(function: &str, a: i64, b: i64) -> Answer {
    whole!(function, a, b)?.map(Int).ok_or_else(overflow)
}

fn uints(function: &str, a: u64, b: u64) -> Answer {
    whole!(function, a, b)?.map(Uint).ok_or_else(overflow)
}

fn zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Bool(b) => !b,
        Int(i) => *i == 0,
        Uint(u) => *u == 0,
        Double(d) => *d == 0.0,
        Value::String(s) => s.is_empty(),
        Bytes(b) => b.is_empty(),
        List(l) => l.is_empty(),
        Map(m) => m.len() == 0,
        Value::Duration(d) => *d == 0,
        Value::Timestamp(t) => t.is_zero(),
        _ => false,
    }
}

fn convert(to: &str, value: &Value, meter: &mut Meter) -> Option<Answer> {
    let bad = || Cause::other(format!("type conversion error from {} to {to}", value.kind()));
    if let Err(cause) = meter.spend(value.size()) {
        return Some(Err(cause));
    }
    // 2^63 and 2^64 as doubles: the first values that do not fit.
    let (int_end, uint_end) = (9_223_372_036_854_775_808.0, 18_446_744_073_709_551_616.0);
    Some(match (to, value) {
        ("bool", Bool(_))
        | ("bytes", Bytes(_))
        | ("double", Double(_))
        | ("int", Int(_))
        | ("uint", Uint(_))
        | ("string", Value::String(_)) => Ok(value.clone()),
        ("bool", Value::String(s)) => match &**s {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Bool(false)),
            _ => Err(bad()),
        },
        ("bytes", Value::String(s)) => Ok(Bytes(s.as_bytes().into())),
        ("double", Int(i)) => Ok(Double(*i as f64)),
        ("double", Uint(u)) => Ok(Double(*u as f64)),
        ("double", Value::String(s)) => float(s).map(Double).ok_or_else(bad),
        ("int", Uint(u)) => i64::try_from(*u).map(Int).map_err(|_| overflow()),
        ("int", Double(d)) if *d > -int_end && *d < int_end => Ok(Int(*d as i64)),
        ("int", Value::String(s)) => s.parse().map(Int).map_err(|_| bad()),
        ("uint", Int(i)) => u64::try_from(*i).map(Uint).map_err(|_| overflow()),
        ("uint", Double(d)) if *d >= 0.0 && *d < uint_end => Ok(Uint(*d as u64)),
        ("uint", Value::String(s)) => s.parse().map(Uint).map_err(|_| bad()),
        ("int" | "uint", Double(_)) => Err(overflow()),
        ("string", Bytes(b)) => std::str::from_utf8(b).map(Value::from).map_err(|_| bad()),
        ("string", Bool(_) | Int(_) | Uint(_) | Double(_) | Value::Ip(_) | Value::Cidr(_)) => {
            Ok(text(value).into())
        }
        _ => return None,
    })
}

/// As `strconv.ParseFloat`, which takes underscores between digits and hexadecimal, and no number that is too large.
fn float(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let (negative, unsigned) = (text.starts_with('-'), text.strip_prefix(['-', '+']).unwrap_or(text));
    let hexadecimal = unsigned.starts_with("0x") || unsigned.starts_with("0X");
    let digit = |b: Option<&u8>| {
        b.is_some_and(|b| b.is_ascii_digit() || hexadecimal && (b.is_ascii_hexdigit() || b"xX".contains(b)))
    };
    let between = |i: usize| digit(i.checked_sub(1).and_then(|i| bytes.get(i))) && digit(bytes.get(i + 1));
    if bytes.iter().enumerate().any(|(i, b)| *b == b'_' && !between(i)) {
        return None;
    }
    let plain = unsigned.replace('_', "");
    let number = match hexadecimal {
        true => hexadecimal_float(&plain[2..])?,
        false if plain.starts_with(['-', '+']) => return None,
        false => plain.parse::<f64>().ok()?,
    };
    let named = plain.starts_with(|c: char| c.is_ascii_alphabetic());
    (named || number.is_finite()).then_some(if negative { -number } else { number })
}

/// `1.8p3` behind `0x`.
fn hexadecimal_float(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut power: i32 = exponent.parse::<i32>().ok()?.clamp(-100_000, 100_000);
    let mut mantissa: u64 = 0;
    for (digit, fractional) in
        whole.chars().map(|c| (c.to_digit(16), false)).chain(fraction.chars().map(|c| (c.to_digit(16), true)))
    {
        match mantissa.leading_zeros() >= 4 {
            true => {
                mantissa = mantissa << 4 | u64::from(digit?);
                power -= if fractional { 4 } else { 0 };
            }
            // Lost digits only break ties.
            false => {
                mantissa |= u64::from(digit? != 0);
                power += if fractional { 0 } else { 4 };
            }
        }
    }
    // In two steps, as 2^power alone may be beyond what a double holds.
    let half = power.clamp(-4000, 4000) / 2;
    let number = mantissa as f64 * 2f64.powi(half) * 2f64.powi(power.clamp(-4000, 4000) - half);
    (!(whole.is_empty() && fraction.is_empty())).then_some(number)
}

/// As `string()` and messages write a value.
pub(in super::super) fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string(),
        Bool(b) => b.to_string(),
        Int(i) => i.to_string(),
        Uint(u) => u.to_string(),
        Double(d) => double(*d),
        Value::Type(t) => t.name().to_owned(),
        Value::Duration(d) => times::seconds(*d),
        Value::Timestamp(t) => t.text(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        Value::Null => "null".to_owned(),
        other => other.kind().to_string(),
    }
}

/// As Go's `%g`.
fn double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{d:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(e) if d != 0.0 && !(-4..6).contains(&e) => {
            format!("{mantissa}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
        }
        _ => d.to_string(),
    }
}
