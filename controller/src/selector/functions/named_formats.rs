//! `format.*`: whether a text is a name, a label, a UUID and so on, by the rules of the API server.
//!
//! `validate()` gives as many complaints as there; their words are our own.

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Value};
use super::addresses::Url;
use super::{strings, times};

const LABEL_LENGTH: usize = 63;
const SUBDOMAIN_LENGTH: usize = 253;

/// A format by its name.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Format {
    name: &'static str,
    check: fn(&[u8]) -> Vec<String>,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", check: |s| label(s, alphanumeric) },
    Format { name: "dns1123Subdomain", check: subdomain },
    Format { name: "dns1035Label", check: |s| label(s, |b| b.is_ascii_lowercase()) },
    Format { name: "qualifiedName", check: qualified_name },
    Format { name: "dns1123LabelPrefix", check: |s| label(&unprefixed(s), alphanumeric) },
    Format { name: "dns1123SubdomainPrefix", check: |s| subdomain(&unprefixed(s)) },
    Format { name: "dns1035LabelPrefix", check: |s| label(&unprefixed(s), |b| b.is_ascii_lowercase()) },
    Format { name: "labelValue", check: |s| if s.is_empty() { Vec::new() } else { name(s) } },
    Format { name: "uri", check: |s| complaint(text(s, |s| Url::parse(s).is_some()), "is no URI") },
    Format { name: "uuid", check: |s| matched(s, UUID, "is no UUID") },
    Format { name: "byte", check: |s| matched(s, BASE64, "is not base64") },
    Format { name: "date", check: |s| complaint(text(s, |s| times::date(s).is_some()), "is no date") },
    Format { name: "datetime", check: |s| complaint(text(s, is_datetime), "is no date with a time") },
];

const UUID: &str = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$";
const TIME: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$";

/// The names of all formats.
pub(in super::super) fn names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|f| f.name)
}

fn complaint(fine: bool, words: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![words.to_owned()] }
}

fn text(s: &[u8], fine: impl Fn(&str) -> bool) -> bool {
    std::str::from_utf8(s).is_ok_and(fine)
}

fn matched(s: &[u8], pattern: &str, words: &str) -> Vec<String> {
    let fine = text(s, |s| strings::regex(pattern).is_ok_and(|regex| regex.is_match(s)));
    complaint(fine, words)
}

fn alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn too_long(s: &[u8], most: usize) -> Vec<String> {
    complaint(s.len() <= most, &format!("is longer than {most} characters"))
}

fn is_label(s: &[u8], begins: fn(u8) -> bool) -> bool {
    s.first().is_some_and(|b| begins(*b))
        && s.last().is_some_and(|b| alphanumeric(*b))
        && s.iter().all(|b| alphanumeric(*b) || *b == b'-')
}

fn label(s: &[u8], begins: fn(u8) -> bool) -> Vec<String> {
    let words = "does not consist of lower case letters, digits and '-' between letters and digits";
    [too_long(s, LABEL_LENGTH), complaint(is_label(s, begins), words)].concat()
}

fn subdomain(s: &[u8]) -> Vec<String> {
    let fine = s.split(|b| *b == b'.').all(|part| is_label(part, alphanumeric));
    [too_long(s, SUBDOMAIN_LENGTH), complaint(fine, "is not made of lower case labels with dots between")]
        .concat()
}

/// A prefix may end in a dash, as something follows it.
fn unprefixed(s: &[u8]) -> Vec<u8> {
    match s {
        [kept @ .., _, b'-'] => [kept, b"a"].concat(),
        s => s.to_vec(),
    }
}

fn name(s: &[u8]) -> Vec<String> {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    let fine = end(s.first()) && end(s.last()) && s.iter().all(inner);
    let words = "does not consist of letters, digits, '-', '_' and '.' between letters and digits";
    [too_long(s, LABEL_LENGTH), complaint(fine, words)].concat()
}

fn qualified_name(s: &[u8]) -> Vec<String> {
    let parts: Vec<&[u8]> = s.split(|b| *b == b'/').collect();
    let (mut complaints, own) = match parts.as_slice() {
        [own] => (Vec::new(), *own),
        [b"", own] => (vec!["has an empty prefix".to_owned()], *own),
        [prefix, own] => (subdomain(prefix), *own),
        _ => return vec!["has more than one '/'".to_owned()],
    };
    complaints.extend(complaint(!own.is_empty(), "has an empty name"));
    complaints.extend(name(own));
    complaints
}

fn is_datetime(s: &str) -> bool {
    let s = s.to_lowercase();
    let mut parts = s.split('t');
    let date = parts.next().and_then(times::date);
    date.is_some() && parts.next().is_some_and(|t| strings::regex(TIME).is_ok_and(|r| r.is_match(t)))
}

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    let named = |name: &str| FORMATS.iter().find(|f| f.name == name).copied().map(Value::Format);
    Some(match (function, args) {
        ("format.named", [Value::String(name)]) => Ok(named(name).into()),
        ("validate", [Value::Format(format), Value::String(s)]) => {
            // What the longest of these checks costs: a pattern as long as that of a UUID.
            let cost = (s.len() as u64 / 10 + 1) * (UUID.len() as u64 / 4);
            meter.spend(cost).map(|()| {
                let complaints: Vec<Value> =
                    (format.check)(s.as_bytes()).into_iter().map(Value::from).collect();
                Value::from((!complaints.is_empty()).then(|| complaints.into()))
            })
        }
        (function, []) => {
            let name = function.strip_prefix("format.")?;
            named(name).ok_or_else(|| Cause::other(format!("there is no format {name}")))
        }
        _ => return None,
    })
}
