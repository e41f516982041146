//! Semantic versions. Build metadata does not count when they are compared.

use std::sync::Arc;

use semver::Version;

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Value};

/// Parses a version; `normalize` takes a leading `v`, missing parts and leading zeros.
pub(in super::super) fn parse(text: &str, normalize: bool) -> Result<Version, Cause> {
    let normal = if normalize { normalized(text)? } else { text.to_owned() };
    Version::parse(&normal).map_err(|e| Cause::other(format!("{text:?} is no version: {e}")))
}

fn normalized(text: &str) -> Result<String, Cause> {
    let mut parts: Vec<String> =
        text.strip_prefix('v').unwrap_or(text).splitn(3, '.').map(Into::into).collect();
    for part in parts.iter_mut().filter(|p| p.len() > 1) {
        let trimmed = part.trim_start_matches('0');
        let number = trimmed.starts_with(|c: char| c.is_ascii_digit());
        *part = if number { trimmed.to_owned() } else { format!("0{trimmed}") };
    }
    if parts.len() < 3 && parts.last().is_some_and(|p| p.contains(['+', '-'])) {
        return Err(Cause::other("short version cannot contain PreRelease/Build meta data"));
    }
    parts.resize(3, "0".to_owned());
    Ok(parts.join("."))
}

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    use Value::{Bool, Int, Version};
    let part = |n: u64| Ok(Int(n as i64));
    Some(match (function, args) {
        ("semver", [Value::String(s)]) => made(s, false, meter),
        ("semver", [Value::String(s), Bool(normalize)]) => made(s, *normalize, meter),
        ("isSemver", [Value::String(s)]) => meter.bytes(s.len()).map(|()| Bool(parse(s, false).is_ok())),
        ("isSemver", [Value::String(s), Bool(normalize)]) => {
            meter.bytes(s.len()).map(|()| Bool(parse(s, *normalize).is_ok()))
        }
        ("isGreaterThan", [Version(a), Version(b)]) => Ok(Bool(a.cmp_precedence(b).is_gt())),
        ("isLessThan", [Version(a), Version(b)]) => Ok(Bool(a.cmp_precedence(b).is_lt())),
        ("compareTo", [Version(a), Version(b)]) => Ok(Int(a.cmp_precedence(b) as i64)),
        ("major", [Version(v)]) => part(v.major),
        ("minor", [Version(v)]) => part(v.minor),
        ("patch", [Version(v)]) => part(v.patch),
        _ => return None,
    })
}

fn made(text: &str, normalize: bool, meter: &mut Meter) -> Answer {
    meter.bytes(text.len())?;
    parse(text, normalize).map(|v| Value::Version(Arc::new(v)))
}
