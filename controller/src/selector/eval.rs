//! Evaluation, with a cost limit.
//!
//! `&&`, `||`, `all` and `exists` look past an error when the other side decides, and `cel.bind` evaluates what it binds
//! when it is first asked for, or never. Costs follow the API server's: one for each step, a tenth for each byte that is
//! read or made, one for each element; at a million it ends, as there.

use std::cell::OnceCell;
use std::sync::Arc;

use super::functions;
use super::meter::Meter;
use super::syntax::{Call, Fold, FoldKind, Node};
use super::value::{Cause, Map, Value};

pub(super) type Answer = Result<Value, Cause>;

/// The value of an expression where `device` has a value.
pub(super) fn evaluate(tree: &Node, device: Value) -> Answer {
    let scope = Scope { name: "device", value: Bound::Value(device), outer: None };
    Evaluation::default().node(tree, &scope)
}

/// A variable, and those around it.
struct Scope<'a> {
    name: &'a str,
    value: Bound<'a>,
    outer: Option<&'a Scope<'a>>,
}

enum Bound<'a> {
    Value(Value),
    /// What `cel.bind` binds, and its value once that was asked for.
    Later(&'a Node, OnceCell<Answer>),
}

#[derive(Default)]
struct Evaluation {
    meter: Meter,
}

impl Evaluation {
    fn node(&mut self, tree: &Node, scope: &Scope<'_>) -> Answer {
        match tree {
            Node::Literal(value) => Ok(value.clone()),
            Node::Name(name) => self.name(name, scope),
            Node::Select { of, field, optional } => {
                let of = self.node(of, scope)?;
                self.meter.spend(1)?;
                select(&of, &Value::from(field.as_str()), *optional)
            }
            Node::Has { of, field } => {
                let of = self.node(of, scope)?;
                Ok(Value::Bool(matches!(
                    select(&of, &Value::from(field.as_str()), true)?,
                    Value::Optional(Some(_))
                )))
            }
            Node::List(elements) => self.list(elements, scope),
            Node::Map(entries) => self.map(entries, scope),
            Node::Bind { name, value, body } => {
                let value = Bound::Later(value, OnceCell::new());
                self.node(body, &Scope { name, value, outer: Some(scope) })
            }
            Node::OptionalMap { of, name, body, flat } => self.optional_map(of, name, body, *flat, scope),
            Node::Fold(fold) => self.fold(fold, scope),
            Node::Call(call) => self.call(call, scope),
        }
    }

    fn name(&mut self, name: &str, scope: &Scope<'_>) -> Answer {
        self.meter.spend(1)?;
        let mut scopes = std::iter::successors(Some(scope), |s| s.outer);
        let found = scopes.find(|s| s.name == name);
        let found = found.ok_or_else(|| Cause::other(format!("undeclared name {name}")))?;
        match (&found.value, found.outer) {
            (Bound::Value(value), _) => Ok(value.clone()),
            (Bound::Later(tree, value), Some(outer)) => {
                if let Some(value) = value.get() {
                    return value.clone();
                }
                let made = self.node(tree, outer);
                value.get_or_init(|| made).clone()
            }
            (Bound::Later(..), None) => Err(Cause::other(format!("{name} is bound outside of everything"))),
        }
    }

    fn list(&mut self, elements: &[(Node, bool)], scope: &Scope<'_>) -> Answer {
        self.meter.spend(10)?;
        let mut list = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.node(element, scope)?, optional) {
                (Value::Optional(Some(value)), true) => list.push(Value::clone(&value)),
                (Value::Optional(None), true) => {}
                (other, true) => return Err(Cause::other(format!("{} is no optional", other.kind()))),
                (value, false) => list.push(value),
            }
        }
        Ok(list.into())
    }

    fn map(&mut self, entries: &[(Node, Node, bool)], scope: &Scope<'_>) -> Answer {
        self.meter.spend(30)?;
        let mut map = Map::default();
        for (key, value, optional) in entries {
            let key = self.node(key, scope)?;
            if !key.is_hashable() {
                return Err(Cause::no_key(&key));
            }
            let value = match (self.node(value, scope)?, optional) {
                (Value::Optional(Some(value)), true) => Value::clone(&value),
                (Value::Optional(None), true) => continue,
                (other, true) => return Err(Cause::other(format!("{} is no optional", other.kind()))),
                (value, false) => value,
            };
            map.insert(key, value);
        }
        Ok(map.into())
    }

    fn optional_map(&mut self, of: &Node, name: &str, body: &Node, flat: bool, scope: &Scope<'_>) -> Answer {
        let value = match self.node(of, scope)? {
            Value::Optional(Some(value)) => Value::clone(&value),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            other => return Err(Cause::NoSuchOverload(format!("{}.optMap()", other.kind()))),
        };
        let made = self.node(body, &Scope { name, value: Bound::Value(value), outer: Some(scope) })?;
        Ok(if flat { made } else { Value::from(Some(made)) })
    }

    fn call(&mut self, call: &Call, scope: &Scope<'_>) -> Answer {
        self.meter.spend(1)?;
        match (call.function.as_str(), call.args.as_slice()) {
            ("_&&_", [a, b]) => self.either([a, b], false, scope),
            ("_||_", [a, b]) => self.either([a, b], true, scope),
            ("_?_:_", [condition, yes, no]) => match self.node(condition, scope)? {
                Value::Bool(true) => self.node(yes, scope),
                Value::Bool(false) => self.node(no, scope),
                other => Err(Cause::NoSuchOverload(format!("{} ? :", other.kind()))),
            },
            // Nothing is in an empty list, whatever it would come to.
            ("@in", [_, Node::List(list)]) if list.is_empty() => Ok(Value::Bool(false)),
            // Kubernetes makes a set of constants.
            ("@in", [wanted, Node::List(list)]) if list.iter().all(|(e, _)| is_set_element(e)) => {
                let wanted = self.node(wanted, scope)?;
                if !wanted.is_hashable() {
                    return Err(Cause::no_key(&wanted));
                }
                let list = self.list(list, scope)?;
                functions::call("@in", &[wanted, list], &mut self.meter)
            }
            // The key and the other side of these are evaluated only where they are needed.
            ("_[_]" | "_[?_]", [of, key]) => match self.node(of, scope)? {
                Value::Optional(None) => Ok(Value::Optional(None)),
                of => {
                    let key = self.node(key, scope)?;
                    functions::call(&call.function, &[of, key], &mut self.meter)
                }
            },
            ("or" | "orValue", [optional, other]) => match self.node(optional, scope)? {
                Value::Optional(Some(value)) if call.function == "orValue" => Ok(Value::clone(&value)),
                Value::Optional(None) => self.node(other, scope),
                // What went through dyn() and is no optional is taken as it is.
                value => Ok(value),
            },
            (function, args) => {
                let args = args.iter().map(|a| self.node(a, scope)).collect::<Result<Vec<_>, _>>()?;
                functions::call(function, &args, &mut self.meter)
            }
        }
    }

    /// `||` with `decides` true, `&&` with false.
    fn either(&mut self, sides: [&Node; 2], decides: bool, scope: &Scope<'_>) -> Answer {
        let mut failed = None;
        for side in sides {
            match self.node(side, scope) {
                Ok(Value::Bool(b)) if b == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Err(Cause::CostLimit) => return Err(Cause::CostLimit),
                Ok(other) => failed = failed.or_else(|| Some(no_condition(&other))),
                Err(cause) => failed = failed.or(Some(cause)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn fold(&mut self, fold: &Fold, scope: &Scope<'_>) -> Answer {
        let range = self.node(&fold.range, scope)?;
        let pairs: Box<dyn Iterator<Item = (Value, Value)> + '_> = match &range {
            Value::List(list) if fold.names.len() == 2 => {
                Box::new((0..).zip(list.iter()).map(|(i, v)| (Value::Int(i), v.clone())))
            }
            Value::List(list) => Box::new(list.iter().map(|v| (v.clone(), Value::Null))),
            Value::Map(map) => Box::new(map.iter().cloned()),
            other => return Err(Cause::other(format!("{} has no elements to go through", other.kind()))),
        };
        let mut made = Made::default();
        for (first, second) in pairs {
            self.meter.spend(2)?;
            let step = self.step(fold, first.clone(), second, scope)?;
            if let Some(done) = made.take(fold.kind, first, step)? {
                return Ok(Value::Bool(done));
            }
        }
        made.finish(fold.kind, &mut self.meter)
    }

    /// What the body makes of one element, and `None` where the filter leaves it out. Only quantifiers look past
    /// errors, and none past the end of the cost.
    fn step(
        &mut self,
        fold: &Fold,
        first: Value,
        second: Value,
        scope: &Scope<'_>,
    ) -> Result<Option<Answer>, Cause> {
        let [one, names @ ..] = fold.names.as_slice() else { return Ok(None) };
        let inner = Scope { name: one, value: Bound::Value(first), outer: Some(scope) };
        match names {
            [] => self.filtered(fold, &inner),
            [two, ..] => {
                self.filtered(fold, &Scope { name: two, value: Bound::Value(second), outer: Some(&inner) })
            }
        }
    }

    fn filtered(&mut self, fold: &Fold, scope: &Scope<'_>) -> Result<Option<Answer>, Cause> {
        match fold.filter.as_ref().map(|f| self.node(f, scope)).transpose()? {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Ok(None),
            Some(other) => return Err(no_condition(&other)),
        }
        match self.node(&fold.body, scope) {
            Err(Cause::CostLimit) => Err(Cause::CostLimit),
            answer => Ok(Some(answer)),
        }
    }
}

fn is_set_element(node: &Node) -> bool {
    use Value::{Bool, Double, Int, String, Uint};
    match node {
        Node::Literal(Bool(_) | Int(_) | Uint(_) | Double(_) | String(_)) => true,
        Node::Call(Call { function, args, .. }) => function == "dyn" && args.iter().all(is_set_element),
        _ => false,
    }
}

fn no_condition(value: &Value) -> Cause {
    Cause::NoSuchOverload(format!("{} as a condition", value.kind()))
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
                self.failed.get_or_insert(answer.map_or_else(|cause| cause, |other| no_condition(&other)));
            }
            (_, Err(cause)) => return Err(cause),
            (FoldKind::ExistsOne, Ok(Value::Bool(found))) => self.count += usize::from(found),
            (FoldKind::ExistsOne, Ok(other)) => return Err(no_condition(&other)),
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
        self.map.insert(key, value);
        Ok(())
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
        Value::Map(_) if !key.is_hashable() => return Err(Cause::no_key(key)),
        Value::Map(map) => map.select(key).cloned(),
        Value::List(list) => match position(key) {
            Some(i) => usize::try_from(i).ok().and_then(|i| list.get(i)).cloned(),
            None => return Err(Cause::other(format!("unsupported index type {} in a list", key.kind()))),
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
