//! Evaluation, with a cost limit.
//!
//! `&&`, `||`, `all` and `exists` look past an error when the other side decides. Costs follow the API server's: one
//! for each step, a tenth for each byte that is read or made, one for each element; at a million it ends, as there.

use std::collections::HashMap;
use std::sync::Arc;

use super::functions;
use super::syntax::{Call, Fold, FoldKind, Node};
use super::value::{Cause, Map, Value};

/// `CELSelectorExpressionMaxCost`
pub(super) const COST: u64 = 1_000_000;

pub(super) type Answer = Result<Value, Cause>;

/// What an evaluation may still spend.
#[derive(Debug)]
pub(super) struct Meter {
    left: u64,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { left: COST }
    }

    pub(super) fn spend(&mut self, cost: u64) -> Result<(), Cause> {
        self.left = self.left.checked_sub(cost).ok_or(Cause::CostLimit)?;
        Ok(())
    }

    /// For text about to be made.
    pub(super) fn bytes(&mut self, bytes: usize) -> Result<(), Cause> {
        self.spend(bytes as u64 / 10 + 1)
    }

    pub(super) fn equal(&mut self, a: &Value, b: &Value) -> Result<bool, Cause> {
        a.equals(b, &mut |cost| self.spend(cost))
    }

    /// Whether a list has an element; one that cannot be compared is not it.
    pub(super) fn contains(&mut self, list: &[Value], wanted: &Value) -> Result<bool, Cause> {
        for element in list {
            match self.equal(wanted, element) {
                Ok(true) => return Ok(true),
                Err(Cause::CostLimit) => return Err(Cause::CostLimit),
                Ok(false) | Err(_) => self.spend(1)?,
            }
        }
        Ok(false)
    }
}

/// The value of an expression where `device` has a value.
pub(super) fn evaluate(tree: &Node, device: Value) -> Answer {
    let mut scope =
        Scope { names: HashMap::from([("device".to_owned(), vec![device])]), meter: Meter::new() };
    scope.node(tree)
}

struct Scope {
    names: HashMap<String, Vec<Value>>,
    meter: Meter,
}

impl Scope {
    fn bound<T>(&mut self, name: &str, value: Value, work: impl FnOnce(&mut Self) -> T) -> T {
        match self.names.get_mut(name) {
            Some(values) => values.push(value),
            None => drop(self.names.insert(name.to_owned(), vec![value])),
        }
        let done = work(self);
        if let Some(values) = self.names.get_mut(name) {
            values.pop();
        }
        done
    }

    fn node(&mut self, tree: &Node) -> Answer {
        match tree {
            Node::Literal(value) => Ok(value.clone()),
            Node::Name(name) => {
                self.meter.spend(1)?;
                let value = self.names.get(name).and_then(|values| values.last());
                value.cloned().ok_or_else(|| Cause::other(format!("undeclared name {name}")))
            }
            Node::Select { of, field, optional } => {
                let of = self.node(of)?;
                self.meter.spend(1)?;
                select(&of, &Value::from(field.as_str()), *optional)
            }
            Node::Has { of, field } => {
                let of = self.node(of)?;
                Ok(Value::Bool(matches!(
                    select(&of, &Value::from(field.as_str()), true)?,
                    Value::Optional(Some(_))
                )))
            }
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Bind { name, value, body } => {
                let value = self.node(value)?;
                self.bound(name, value, |s| s.node(body))
            }
            Node::OptionalMap { of, name, body, flat } => self.optional_map(of, name, body, *flat),
            Node::Fold(fold) => self.fold(fold),
            Node::Call(call) => self.call(call),
        }
    }

    fn list(&mut self, elements: &[(Node, bool)]) -> Answer {
        self.meter.spend(10)?;
        let mut list = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.node(element)?, optional) {
                (Value::Optional(Some(value)), true) => list.push(Value::clone(&value)),
                (Value::Optional(None), true) => {}
                (other, true) => return Err(Cause::other(format!("{} is no optional", other.kind()))),
                (value, false) => list.push(value),
            }
        }
        Ok(list.into())
    }

    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Answer {
        self.meter.spend(30)?;
        let mut map = Map::default();
        for (key, value, optional) in entries {
            let key = self.node(key)?;
            let value = match (self.node(value)?, optional) {
                (Value::Optional(Some(value)), true) => Value::clone(&value),
                (Value::Optional(None), true) => continue,
                (other, true) => return Err(Cause::other(format!("{} is no optional", other.kind()))),
                (value, false) => value,
            };
            let kind = key.kind();
            map.insert(key, value).ok_or_else(|| Cause::other(format!("unsupported key type: {kind}")))?;
        }
        Ok(map.into())
    }

    fn optional_map(&mut self, of: &Node, name: &str, body: &Node, flat: bool) -> Answer {
        let value = match self.node(of)? {
            Value::Optional(Some(value)) => Value::clone(&value),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            other => return Err(Cause::NoSuchOverload(format!("{}.optMap()", other.kind()))),
        };
        let made = self.bound(name, value, |s| s.node(body))?;
        Ok(if flat { made } else { Value::from(Some(made)) })
    }

    fn call(&mut self, call: &Call) -> Answer {
        self.meter.spend(1)?;
        match (call.function.as_str(), call.args.as_slice()) {
            ("_&&_", [a, b]) => self.either(a, b, false),
            ("_||_", [a, b]) => self.either(a, b, true),
            ("_?_:_", [condition, yes, no]) => match self.node(condition)? {
                Value::Bool(true) => self.node(yes),
                Value::Bool(false) => self.node(no),
                other => Err(Cause::NoSuchOverload(format!("{} ? :", other.kind()))),
            },
            // The other side of these is evaluated only where it is needed.
            ("or" | "orValue", [optional, other]) => match self.node(optional)? {
                Value::Optional(Some(value)) if call.function == "orValue" => Ok(Value::clone(&value)),
                Value::Optional(None) => self.node(other),
                value @ Value::Optional(_) => Ok(value),
                other => Err(Cause::NoSuchOverload(format!("{}.{}()", other.kind(), call.function))),
            },
            (function, args) => {
                let args = args.iter().map(|a| self.node(a)).collect::<Result<Vec<_>, _>>()?;
                functions::call(function, &args, &mut self.meter)
            }
        }
    }

    /// `||` with `decides` true, `&&` with false.
    fn either(&mut self, a: &Node, b: &Node, decides: bool) -> Answer {
        let mut failed = None;
        for side in [a, b] {
            match self.node(side) {
                Ok(Value::Bool(b)) if b == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Err(Cause::CostLimit) => return Err(Cause::CostLimit),
                Ok(other) => {
                    failed = failed
                        .or_else(|| Some(Cause::NoSuchOverload(format!("{} as a condition", other.kind()))));
                }
                Err(cause) => failed = failed.or(Some(cause)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn fold(&mut self, fold: &Fold) -> Answer {
        let pairs: Vec<(Value, Value)> = match self.node(&fold.range)? {
            Value::List(list) if fold.names.len() == 2 => {
                (0..).zip(list.iter()).map(|(i, v)| (Value::Int(i), v.clone())).collect()
            }
            Value::List(list) => list.iter().map(|v| (v.clone(), Value::Null)).collect(),
            Value::Map(map) => map.iter().cloned().collect(),
            other => return Err(Cause::NoSuchOverload(format!("a comprehension over {}", other.kind()))),
        };
        let mut made = Made::default();
        for (first, second) in pairs {
            self.meter.spend(2)?;
            let step = self.step(fold, first.clone(), second)?;
            if let Some(done) = made.take(fold.kind, first, step)? {
                return Ok(Value::Bool(done));
            }
        }
        made.finish(fold.kind, &mut self.meter)
    }

    /// What the body makes of one element, and `None` where the filter leaves it out. Only quantifiers look past
    /// errors, and none past the end of the cost.
    fn step(&mut self, fold: &Fold, first: Value, second: Value) -> Result<Option<Answer>, Cause> {
        let work = |s: &mut Self| -> Result<Option<Answer>, Cause> {
            match fold.filter.as_ref().map(|f| s.node(f)).transpose()? {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => return Ok(None),
                Some(other) => {
                    return Err(Cause::NoSuchOverload(format!("{} as a condition", other.kind())));
                }
            }
            match s.node(&fold.body) {
                Err(Cause::CostLimit) => Err(Cause::CostLimit),
                answer => Ok(Some(answer)),
            }
        };
        match fold.names.as_slice() {
            [one] => self.bound(one, first, work),
            [one, two, ..] => self.bound(one, first, |s| s.bound(two, second, work)),
            [] => work(self),
        }
    }
}

/// What a comprehension has gathered so far.
#[derive(Default)]
struct Made {
    failed: Option<Cause>,
    count: usize,
    list: Vec<Value>,
    /// Elements beside what they are sorted by.
    sorted: Vec<(Value, Value)>,
    map: Map,
}

impl Made {
    /// Takes one step; a bool where that decides.
    fn take(&mut self, kind: FoldKind, first: Value, step: Option<Answer>) -> Result<Option<bool>, Cause> {
        let Some(answer) = step else { return Ok(None) };
        match (kind, answer) {
            (FoldKind::All, Ok(Value::Bool(false))) => return Ok(Some(false)),
            (FoldKind::Exists, Ok(Value::Bool(true))) => return Ok(Some(true)),
            (FoldKind::All | FoldKind::Exists, Ok(Value::Bool(_))) => {}
            (FoldKind::All | FoldKind::Exists, answer) => {
                let cause = match answer {
                    Err(cause) => cause,
                    Ok(other) => Cause::NoSuchOverload(format!("{} as a condition", other.kind())),
                };
                self.failed.get_or_insert(cause);
            }
            (_, Err(cause)) => return Err(cause),
            (FoldKind::ExistsOne, Ok(Value::Bool(found))) => self.count += usize::from(found),
            (FoldKind::ExistsOne, Ok(other)) => {
                return Err(Cause::NoSuchOverload(format!("{} as a condition", other.kind())));
            }
            (FoldKind::List, Ok(value)) => self.list.push(value),
            (FoldKind::SortBy, Ok(by)) => self.sorted.push((by, first)),
            (FoldKind::Map, Ok(value)) => self.insert(first, value)?,
            (FoldKind::Entries, Ok(Value::Map(entries))) => {
                for (key, value) in entries.iter() {
                    self.insert(key.clone(), value.clone())?;
                }
            }
            (FoldKind::Entries, Ok(other)) => {
                return Err(Cause::NoSuchOverload(format!("an entry of {}", other.kind())));
            }
        }
        Ok(None)
    }

    fn insert(&mut self, key: Value, value: Value) -> Result<(), Cause> {
        if self.map.get(&key).is_some() {
            return Err(Cause::other("insert failed: the key already exists"));
        }
        self.map.insert(key, value).ok_or_else(|| Cause::other("unsupported key type"))
    }

    fn finish(self, kind: FoldKind, meter: &mut Meter) -> Answer {
        if let Some(cause) = self.failed {
            return Err(cause);
        }
        Ok(match kind {
            FoldKind::All => Value::Bool(true),
            FoldKind::Exists => Value::Bool(false),
            FoldKind::ExistsOne => Value::Bool(self.count == 1),
            FoldKind::List => self.list.into(),
            FoldKind::Map | FoldKind::Entries => self.map.into(),
            FoldKind::SortBy => functions::lists::sort(self.sorted, meter)?.into(),
        })
    }
}

/// A field or an element; as an optional where it was asked for so, or its owner is one.
pub(super) fn select(of: &Value, key: &Value, optional: bool) -> Answer {
    let (of, optional) = match of {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(of)) => (&**of, true),
        of => (of, optional),
    };
    let found = match of {
        Value::Map(map) => map.select(key).cloned(),
        Value::List(list) => match position(key) {
            Some(i) => usize::try_from(i).ok().and_then(|i| list.get(i)).cloned(),
            None if optional => None,
            None => return Err(Cause::NoSuchOverload(format!("list[{}]", key.kind()))),
        },
        _ => None,
    };
    match found {
        Some(value) if optional => Ok(Value::Optional(Some(Arc::new(value)))),
        Some(value) => Ok(value),
        None if optional => Ok(Value::Optional(None)),
        None => Err(match (of, position(key)) {
            (Value::List(_), Some(i)) => Cause::other(format!("index out of bounds: {i}")),
            _ => Cause::NoSuchKey(functions::text(key)),
        }),
    }
}

/// The whole number a value is.
fn position(key: &Value) -> Option<i128> {
    match key {
        Value::Int(i) => Some((*i).into()),
        Value::Uint(u) => Some((*u).into()),
        Value::Double(d) if d.fract() == 0.0 => Some(*d as i128),
        _ => None,
    }
}
