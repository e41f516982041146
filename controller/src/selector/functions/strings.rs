//! Strings and regular expressions. Positions count characters.
//!
//! A search costs what the API server takes for it, the text by the pattern, but repetitions in the pattern count for
//! what they compile to; the first use of a pattern costs its compilation.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Value};
use super::format;
use super::pattern::{self, Pattern};

/// Compiled patterns kept; an expression of the longest length holds fewer.
const PATTERNS: usize = 1024;
/// What a pattern costs at its first use, beside its states.
const PATTERN_COST: u64 = 100;
/// What a compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;

static COMPILED: LazyLock<Mutex<HashMap<String, (Regex, u64)>>> = LazyLock::new(Mutex::default);

/// A compiled pattern, and about how many states it has.
fn compiled(pattern: &str) -> Result<(Regex, u64), Cause> {
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = compiled.get(pattern) {
        return Ok(found.clone());
    }
    let bad = |why: String| Cause::other(format!("error parsing regexp: {}", why.replace('\n', " ")));
    let Pattern { text, states } = pattern::translate(pattern).map_err(bad)?;
    let regex = RegexBuilder::new(&text).size_limit(PATTERN_BYTES).build();
    let found = (regex.map_err(|e| bad(e.to_string()))?, states);
    if compiled.len() >= PATTERNS {
        compiled.clear();
    }
    compiled.insert(pattern.to_owned(), found.clone());
    Ok(found)
}

/// A compiled pattern that is ours.
pub(super) fn regex(pattern: &str) -> Result<Regex, Cause> {
    compiled(pattern).map(|(regex, _)| regex)
}

/// A pattern that stands in an expression, compiled at the cost of its states the first time.
pub(super) fn pattern(pattern: &str, meter: &mut Meter) -> Result<(Regex, u64), Cause> {
    // The cost comes before the work.
    if meter.is_new(pattern) {
        let states = pattern::translate(pattern).map_or(0, |p| p.states);
        meter.spend(states.saturating_add(PATTERN_COST))?;
    }
    compiled(pattern)
}

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    use Value::{Bool, Int, List, String};
    // The receiver is read whole.
    if let Some(Err(cause)) = args.first().map(|a| meter.spend(a.size())) {
        return Some(Err(cause));
    }
    Some(match (function, args) {
        ("contains", [String(s), String(part)]) => Ok(Bool(s.contains(&**part))),
        ("startsWith", [String(s), String(part)]) => Ok(Bool(s.starts_with(&**part))),
        ("endsWith", [String(s), String(part)]) => Ok(Bool(s.ends_with(&**part))),
        ("matches", [String(s), String(pattern)]) => {
            searched(s, pattern, meter).map(|regex| Bool(regex.is_match(s)))
        }
        ("find", [String(s), String(pattern)]) => searched(s, pattern, meter)
            .map(|regex| regex.find(s).map(|m| m.as_str()).unwrap_or_default().into()),
        ("findAll", [String(s), String(pattern)]) => find_all(s, pattern, -1, meter),
        ("findAll", [String(s), String(pattern), Int(n)]) => find_all(s, pattern, *n, meter),
        ("charAt", [String(s), Int(at)]) => char_at(s, *at),
        ("indexOf", [String(s), String(part)]) => index_of(s, part, 0),
        ("indexOf", [String(s), String(part), Int(from)]) => index_of(s, part, *from),
        ("lastIndexOf", [String(s), String(part)]) if part.is_empty() => Ok(Int(s.chars().count() as i64)),
        ("lastIndexOf", [String(s), String(part)]) => match s.chars().count() as i64 {
            0 => Ok(Int(-1)),
            length => last_index_of(s, part, length - 1),
        },
        ("lastIndexOf", [String(s), String(part), Int(from)]) => last_index_of(s, part, *from),
        ("lowerAscii", [String(s)]) => Ok(s.to_ascii_lowercase().into()),
        ("upperAscii", [String(s)]) => Ok(s.to_ascii_uppercase().into()),
        ("trim", [String(s)]) => Ok(s.trim().into()),
        ("replace", [String(s), String(old), String(new)]) => replace(s, old, new, -1, meter),
        ("replace", [String(s), String(old), String(new), Int(n)]) => replace(s, old, new, *n, meter),
        ("split", [String(s), String(by)]) => split(s, by, -1, meter),
        ("split", [String(s), String(by), Int(n)]) => split(s, by, *n, meter),
        ("substring", [String(s), Int(from)]) => substring(s, *from, s.chars().count() as i64),
        ("substring", [String(s), Int(from), Int(to)]) => substring(s, *from, *to),
        ("join", [List(list)]) => join(list, "", meter),
        ("join", [List(list), String(by)]) => join(list, by, meter),
        ("format", [String(s), List(values)]) => format::format(s, values, meter),
        ("strings.quote", [String(s)]) => Ok(quote(s).into()),
        _ => return None,
    })
}

fn out_of_range(index: i64) -> Cause {
    Cause::other(format!("index out of range: {index}"))
}

/// A pattern about to search a text, paid for.
fn searched(text: &str, pattern: &str, meter: &mut Meter) -> Result<Regex, Cause> {
    let (regex, states) = self::pattern(pattern, meter)?;
    let (text, pattern) = (text.len() as u64 / 10 + 1, states.max(pattern.len() as u64) / 4 + 1);
    meter.spend(text.saturating_mul(pattern))?;
    Ok(regex)
}

fn find_all(s: &str, pattern: &str, n: i64, meter: &mut Meter) -> Answer {
    let regex = searched(s, pattern, meter)?;
    let most = usize::try_from(n).unwrap_or(usize::MAX);
    let found: Vec<Value> = regex.find_iter(s).take(most).map(|m| m.as_str().into()).collect();
    meter.spend(found.len() as u64)?;
    Ok(found.into())
}

fn char_at(s: &str, at: i64) -> Answer {
    let length = s.chars().count();
    match usize::try_from(at) {
        Ok(at) if at <= length => Ok(s.chars().nth(at).map(String::from).unwrap_or_default().into()),
        _ => Err(out_of_range(at)),
    }
}

/// Byte positions of the characters, the end included.
fn positions(s: &str) -> Vec<usize> {
    s.char_indices().map(|(i, _)| i).chain([s.len()]).collect()
}

fn index_of(s: &str, part: &str, from: i64) -> Answer {
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let positions = positions(s);
    let Some(&start) = positions.get(start) else { return Ok(Value::Int(-1)) };
    let found = s[start..].find(part).map(|at| s[..start + at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of(s: &str, part: &str, from: i64) -> Answer {
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let positions = positions(s);
    if start + 1 >= positions.len() {
        return Ok(Value::Int(-1));
    }
    // The match may begin at `start` at the latest, and so end that much later.
    let end = (start + part.chars().count()).min(positions.len() - 1);
    let found = s[..positions[end]].rfind(part).map(|at| s[..at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn replace(s: &str, old: &str, new: &str, n: i64, meter: &mut Meter) -> Answer {
    let most = usize::try_from(n).unwrap_or(usize::MAX);
    let times = s.matches(old).count().min(most);
    meter.bytes(s.len().saturating_add(times.saturating_mul(new.len())))?;
    Ok(s.replacen(old, new, most).into())
}

fn split(s: &str, by: &str, n: i64, meter: &mut Meter) -> Answer {
    let most = usize::try_from(n).unwrap_or(usize::MAX);
    if most == 0 {
        return Ok(Vec::new().into());
    }
    meter.spend(s.matches(by).count().min(most) as u64 + 1)?;
    if !by.is_empty() {
        return Ok(s.splitn(most, by).map(Value::from).collect::<Vec<_>>().into());
    }
    let positions = positions(s);
    let mut parts: Vec<Value> =
        positions.windows(2).take(most.saturating_sub(1)).map(|w| s[w[0]..w[1]].into()).collect();
    if let Some(&rest) = positions.get(parts.len()).filter(|rest| **rest < s.len()) {
        parts.push(s[rest..].into());
    }
    Ok(parts.into())
}

fn substring(s: &str, from: i64, to: i64) -> Answer {
    let positions = positions(s);
    let place = |at: i64| usize::try_from(at).ok().and_then(|i| positions.get(i)).copied();
    let start = place(from).ok_or_else(|| out_of_range(from))?;
    let end = place(to).ok_or_else(|| out_of_range(to))?;
    if start > end {
        return Err(Cause::other(format!("invalid substring range. start: {from}, end: {to}")));
    }
    Ok(s[start..end].into())
}

fn join(list: &[Value], by: &str, meter: &mut Meter) -> Answer {
    let mut texts: Vec<Arc<str>> = Vec::with_capacity(list.len());
    for value in list {
        match value {
            Value::String(s) => {
                meter.bytes(s.len() + by.len())?;
                texts.push(s.clone());
            }
            other => return Err(Cause::NoSuchOverload(format!("join() of {}", other.kind()))),
        }
    }
    Ok(texts.join(by).into())
}

fn quote(s: &str) -> String {
    let mut quoted = String::from('"');
    for c in s.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
