//! Values of expressions, their equality and their order.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::functions::named_formats::Format;
use super::functions::times::Moment;
use super::functions::{Amount, Cidr, Url};
use super::types::Type;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// A map has no such entry.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// A function or operator does not take values of these types.
    #[error("no such overload: {0}")]
    NoSuchOverload(String),
    /// It takes too long or too much memory.
    #[error("cost limit exceeded")]
    CostLimit,
    /// Anything else: a division by zero, text that is no number.
    #[error("{0}")]
    Other(String),
}

impl Cause {
    /// Of a value that Kubernetes fails to look up.
    pub(super) fn no_key(key: &Value) -> Self {
        Self::Other(format!(
            "{} cannot be looked up in a map or in a list of constants; compare with ==",
            key.kind()
        ))
    }

    /// What to do about it, as the end of a message.
    pub(super) fn cure(&self) -> &'static str {
        match self {
            Self::NoSuchKey(_) => "; guard names a device may not have with has() or .?",
            Self::NoSuchOverload(_) => "; use values of the types it takes, type() tells them",
            Self::CostLimit => "; go through fewer elements or shorter text",
            Self::Other(_) => "",
        }
    }

    pub(super) fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }
}

/// A value. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Value>>),
    Map(Arc<Map>),
    Optional(Option<Arc<Value>>),
    Type(Type),
    Quantity(Amount),
    Version(Arc<semver::Version>),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Moment),
    Format(Format),
}

/// A map, in the order of its keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    entries: BTreeMap<Key, (Value, Value)>,
    /// What a selection of an absent key gives: the domains of a device are all there, most of them empty.
    default: Option<Value>,
}

/// Numbers of different types with the same value are the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Null,
    Bool(bool),
    Number(i128),
    Fraction(u64),
    Text(Arc<str>),
    /// Anything else, by its place: it can stand in a map and is never found there.
    Lost(usize),
}

impl Key {
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Number((*i).into()),
            Value::Uint(u) => Self::Number((*u).into()),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 1e19 => Self::Number(*d as i128),
            Value::Double(d) => Self::Fraction(d.to_bits()),
            Value::String(s) => Self::Text(s.clone()),
            _ => return None,
        })
    }
}

impl Map {
    /// Sets an entry.
    pub(super) fn insert(&mut self, key: Value, value: Value) {
        let place = Key::of(&key).unwrap_or(Key::Lost(self.entries.len()));
        self.entries.insert(place, (key, value));
    }

    /// What is under a key, without the default.
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.get(&Key::of(key)?).map(|(_, value)| value)
    }

    /// What a selection of a key gives.
    pub(super) fn select(&self, key: &Value) -> Option<&Value> {
        self.get(key).or(self.default.as_ref())
    }

    pub(super) fn with_default(mut self, default: Value) -> Self {
        self.default = Some(default);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Value, Value)> {
        self.entries.values()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(Arc::from(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(Arc::from(text))
    }
}

impl From<Vec<Value>> for Value {
    fn from(elements: Vec<Value>) -> Self {
        Self::List(Arc::new(elements))
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(Arc::new(map))
    }
}

impl From<Option<Value>> for Value {
    fn from(value: Option<Value>) -> Self {
        Self::Optional(value.map(Arc::new))
    }
}

impl Value {
    /// Its type; what is within a list, a map or an optional is not looked at.
    pub(super) fn kind(&self) -> Type {
        let dynamic = || Box::new(Type::Dyn);
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::List(_) => Type::List(dynamic()),
            Self::Map(_) => Type::Map(dynamic(), dynamic()),
            Self::Optional(_) => Type::Optional(dynamic()),
            Self::Type(_) => Type::Meta(dynamic()),
            Self::Quantity(_) => Type::Named("kubernetes.Quantity"),
            Self::Version(_) => Type::Named("kubernetes.Semver"),
            Self::Url(_) => Type::Named("kubernetes.URL"),
            Self::Ip(_) => Type::Named("net.IP"),
            Self::Cidr(_) => Type::Named("net.CIDR"),
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Format(_) => Type::Named("kubernetes.NamedFormat"),
        }
    }

    /// Whether Go can look it up in a map; where it cannot, Kubernetes fails.
    pub(super) fn is_hashable(&self) -> bool {
        !matches!(self, Self::Version(_) | Self::Bytes(_))
    }

    /// What walking over it costs: a tenth for each byte, one for each element.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::String(s) => s.len() as u64 / 10 + 1,
            Self::Bytes(b) => b.len() as u64 / 10 + 1,
            Self::List(l) => l.len() as u64 + 1,
            Self::Map(m) => m.len() as u64 + 1,
            _ => 1,
        }
    }

    /// `==`. Values of different types differ, numbers excepted; Kubernetes' own types fail on others, but only when
    /// they stand on the left.
    pub(super) fn equals(
        &self,
        other: &Self,
        spend: &mut dyn FnMut(u64) -> Result<(), Cause>,
    ) -> Result<bool, Cause> {
        spend(self.size().min(other.size()))?;
        Ok(match (self, other) {
            (Self::Null, other) | (other, Self::Null) => matches!(other, Self::Null),
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a.name() == b.name(),
            (Self::List(a), Self::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals(b, spend)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(a), Self::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, value) in a.iter() {
                    let Some(other) = b.get(key) else { return Ok(false) };
                    if !value.equals(other, spend)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b, spend)?,
                (a, b) => a.is_none() && b.is_none(),
            },
            (Self::Quantity(a), Self::Quantity(b)) => a.equals(*b).ok_or_else(|| {
                Cause::NoSuchOverload(
                    "a quantity == a sum; write the sum on the left or use compareTo()".to_owned(),
                )
            })?,
            (Self::Version(a), Self::Version(b)) => a.cmp_precedence(b).is_eq(),
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (a, other) if matches!(a.kind(), Type::Named(_)) => {
                return Err(Cause::NoSuchOverload(format!("{} == {}", a.kind(), other.kind())));
            }
            (a, b) => a.numbers(b) == Some(Some(Ordering::Equal)),
        })
    }

    /// Order of two numbers of any types: `Some(None)` where one is not a number. Beside a double, all are doubles.
    fn numbers(&self, other: &Self) -> Option<Option<Ordering>> {
        let whole = |v: &Self| match v {
            Self::Int(i) => Some(i128::from(*i)),
            Self::Uint(u) => Some(i128::from(*u)),
            _ => None,
        };
        Some(match (self, other) {
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), b) => a.partial_cmp(&(whole(b)? as f64)),
            (a, Self::Double(b)) => (whole(a)? as f64).partial_cmp(b),
            (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
        })
    }

    /// Order of two values that `<` takes.
    pub(super) fn order(&self, other: &Self) -> Result<Ordering, Cause> {
        Ok(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (a, b) => match a.numbers(b) {
                Some(Some(order)) => order,
                Some(None) => return Err(Cause::other("NaN values cannot be ordered")),
                None => return Err(Cause::NoSuchOverload(format!("{} < {}", a.kind(), b.kind()))),
            },
        })
    }
}
