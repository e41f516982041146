//! `format()`: `%s %d %f %e %b %o %x %X %%`, the fractions and exponents as English writes them.

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::types::Type;
use super::super::value::{Cause, Value};
use super::operators::text;

/// Digits after the point where none are asked for.
const PRECISION: usize = 6;
/// More of them make no difference to a double.
const MOST_DIGITS: usize = 1000;

enum Part<'a> {
    Text(&'a str),
    Verb { verb: char, precision: Option<usize> },
}

fn parts(format: &str) -> Result<Vec<Part<'_>>, String> {
    let (mut parts, mut rest) = (Vec::new(), format);
    while let Some(at) = rest.find('%') {
        parts.push(Part::Text(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            parts.push(Part::Text("%"));
            rest = after;
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let digits = after[..end].parse::<usize>().ok().filter(|d| *d <= MOST_DIGITS);
            precision = Some(digits.ok_or_else(|| format!("no precision in {format:?}"))?);
            rest = &after[end..];
        }
        let verb = rest.chars().next().ok_or("unexpected end of format string")?;
        if !"sdfebxXo".contains(verb) {
            return Err(format!("unrecognized formatting clause \"{verb}\""));
        }
        parts.push(Part::Verb { verb, precision });
        rest = &rest[verb.len_utf8()..];
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// What goes into a format: its type, and what stands within it where it is a list or map that is written out.
#[derive(Debug, Clone)]
pub(in super::super) struct Argument {
    pub(in super::super) of: Type,
    pub(in super::super) within: Vec<Argument>,
}

impl Argument {
    fn is_text(&self) -> bool {
        let fits = !matches!(self.of, Type::Any | Type::Named(_) | Type::Optional(_));
        fits && self.within.iter().all(Self::is_text)
    }
}

/// Whether arguments fit a format.
pub(in super::super) fn check(format: &str, arguments: &[Argument]) -> Result<(), String> {
    let mut arguments = arguments.iter();
    for part in parts(format)? {
        let Part::Verb { verb, .. } = part else { continue };
        let found = arguments.next().ok_or_else(|| format!("{format:?} has more verbs than values"))?;
        let of = &found.of;
        let number = matches!(of, Type::Int | Type::Uint);
        let fits = match verb {
            's' => found.is_text(),
            _ if *of == Type::Dyn => true,
            'd' | 'o' => number,
            'b' => number || *of == Type::Bool,
            'x' | 'X' => number || matches!(of, Type::String | Type::Bytes),
            _ => matches!(of, Type::Double | Type::String),
        };
        if !fits {
            return Err(format!("%{verb} does not take {of}"));
        }
    }
    match arguments.len() {
        0 => Ok(()),
        _ => Err(format!("{format:?} has more values than verbs")),
    }
}

pub(super) fn format(format: &str, values: &[Value], meter: &mut Meter) -> Answer {
    let mut values = values.iter();
    let mut made = String::new();
    for part in parts(format).map_err(Cause::Other)? {
        let before = made.len();
        match part {
            Part::Text(text) => made.push_str(text),
            Part::Verb { verb, precision } => {
                let value = values.next().ok_or_else(|| Cause::other("index out of range in format()"))?;
                made.push_str(&one(verb, precision, value, meter)?);
            }
        }
        meter.bytes(made.len() - before)?;
    }
    Ok(made.into())
}

fn one(verb: char, precision: Option<usize>, value: &Value, meter: &mut Meter) -> Result<String, Cause> {
    let wrong = || Cause::other(format!("%{verb} does not take {}", value.kind()));
    let precision = precision.unwrap_or(PRECISION);
    Ok(match (verb, value) {
        ('s', value) => plain(value, false, meter)?,
        ('d', Value::Int(_) | Value::Uint(_)) => text(value),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('b', Value::Int(i)) => signed(*i, |u| format!("{u:b}")),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('o', Value::Int(i)) => signed(*i, |u| format!("{u:o}")),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('x', Value::Int(i)) => signed(*i, |u| format!("{u:x}")),
        ('x', Value::Uint(u)) => format!("{u:x}"),
        ('x', Value::String(s)) => hex(s.as_bytes()),
        ('x', Value::Bytes(b)) => hex(b),
        ('X', value) => one('x', None, value, meter)?.to_uppercase(),
        ('f' | 'e', value) => {
            let number = match value {
                Value::Double(d) => *d,
                Value::String(s) => match &**s {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => return Err(wrong()),
                },
                _ => return Err(wrong()),
            };
            let finite = |made: String| match number {
                d if d.is_nan() => "NaN".to_owned(),
                d if d.is_infinite() => if d > 0.0 { "∞" } else { "-∞" }.to_owned(),
                _ => made,
            };
            match verb {
                'f' => finite(grouped(&format!("{number:.precision$}"))),
                // Kubernetes takes the precision for a width here.
                _ => format!("{:>precision$}", finite(scientific(&format!("{number:.PRECISION$e}")))),
            }
        }
        _ => return Err(wrong()),
    })
}

fn signed(i: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, digits(i.unsigned_abs()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// With a comma for each thousand.
fn grouped(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |n| ("-", n));
    let (whole, fraction) = number.find('.').map_or((number, ""), |at| number.split_at(at));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// `1.5e3` as `1.5×10⁰³`.
fn scientific(number: &str) -> String {
    let (mantissa, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(("", exponent), |d| ("\u{207b}", d));
    let raised = |c: char| c.to_digit(10).and_then(|d| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(d as usize)).unwrap_or(c);
    let digits: String = format!("{digits:0>2}").chars().map(raised).collect();
    format!("{mantissa}×10{sign}{digits}")
}

/// As `%s` writes a value, and as it writes what is within lists and maps.
fn plain(value: &Value, within: bool, meter: &mut Meter) -> Result<String, Cause> {
    meter.spend(value.size())?;
    Ok(match value {
        Value::String(s) if within => format!("{:?}", &**s),
        Value::Bytes(b) => {
            let text = std::str::from_utf8(b).map_err(|_| Cause::other("invalid UTF-8 in bytes"))?;
            if within { format!("b{text:?}") } else { text.to_owned() }
        }
        Value::Double(d) if within && d.is_finite() => format!("{d:.PRECISION$}"),
        Value::Double(_) if within => format!("{:?}", text(value)),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::String(_) => text(value),
        Value::Duration(_) if within => format!("duration({:?})", text(value)),
        Value::Timestamp(_) if within => format!("timestamp({:?})", text(value)),
        Value::Type(_) | Value::Duration(_) | Value::Timestamp(_) => text(value),
        Value::List(list) => {
            let parts = list.iter().map(|v| plain(v, true, meter)).collect::<Result<Vec<_>, _>>()?;
            let made = format!("[{}]", parts.join(", "));
            meter.bytes(made.len())?;
            made
        }
        Value::Map(map) => {
            let mut parts = Vec::new();
            for (key, value) in map.iter() {
                if !matches!(key, Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_)) {
                    return Err(Cause::other(format!("no formatting of {} as a key", key.kind())));
                }
                parts.push(format!("{}:{}", plain(key, true, meter)?, plain(value, true, meter)?));
            }
            parts.sort();
            let made = format!("{{{}}}", parts.join(", "));
            meter.bytes(made.len())?;
            made
        }
        other => return Err(Cause::other(format!("%s does not take {}", other.kind()))),
    })
}
