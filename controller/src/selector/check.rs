//! The checks at compile time: names, types, literals. What does not pass is refused by the API server too.
//!
//! After the checker of cel-go and the validators Kubernetes adds: elements of a literal have one type, patterns and
//! format strings that stand as literals are valid.

use super::functions;
use super::functions::format::{self, Argument};
use super::meter::Meter;
use super::signatures;
use super::syntax::{Call, Fold, FoldKind, Node};
use super::types::{DEVICE, Type, Unifier};
use super::value::Value;

/// Checks an expression and turns qualified names into what they name.
pub(super) fn check(tree: &mut Node) -> Result<(), String> {
    let mut checker = Checker::default();
    let result = checker.node(tree)?;
    let result = checker.unifier.resolve(&result);
    // An attribute may be a bool; a value that went through dyn() may not, says Kubernetes.
    if !matches!(result, Type::Bool | Type::Any) {
        return Err(format!("must evaluate to bool or the unknown type, not {result}"));
    }
    checker.literals()
}

#[derive(Default)]
struct Checker {
    unifier: Unifier,
    scope: Vec<(String, Type)>,
    /// Types that must come out the same in the end.
    alike: Vec<Vec<Type>>,
    /// Formatted texts, with the types of what goes in.
    formats: Vec<(String, Vec<Argument>)>,
    exempt: usize,
    /// What stands in the list or map checked last.
    within: Vec<Argument>,
    /// What literals cost that are evaluated.
    meter: Meter,
}

/// Parts a type may have; a chain of bindings could double them at each step.
const TYPE_SIZE: usize = 500;

/// The dotted name an expression spells.
fn qualified(tree: &Node) -> Option<String> {
    match tree {
        Node::Name(name) => Some(name.strip_prefix('.').unwrap_or(name).to_owned()),
        Node::Select { of, field, optional: false } => Some(format!("{}.{field}", qualified(of)?)),
        _ => None,
    }
}

impl Checker {
    fn lookup(&self, name: &str) -> Option<Type> {
        // A leading dot reaches past the variables of comprehensions.
        let (name, local) = match name.strip_prefix('.') {
            Some(name) => (name, false),
            None => (name, true),
        };
        let bound = self.scope.iter().rev().find(|(n, _)| local && n == name).map(|(_, t)| t.clone());
        bound.or_else(|| (name == "device").then_some(DEVICE))
    }

    fn scoped<T>(&mut self, names: Vec<(String, Type)>, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scope.len();
        self.scope.extend(names);
        let done = work(self);
        self.scope.truncate(before);
        done
    }

    fn is(&mut self, tree: &mut Node, want: &Type) -> Result<(), String> {
        let found = self.node(tree)?;
        if self.unifier.assignable(std::slice::from_ref(want), std::slice::from_ref(&found)) {
            return Ok(());
        }
        Err(format!("expected {want}, found {}", self.unifier.resolve(&found)))
    }

    fn node(&mut self, tree: &mut Node) -> Result<Type, String> {
        let found = self.any(tree)?;
        match self.unifier.larger(&found, TYPE_SIZE) {
            true => Err("its types are too large".to_owned()),
            false => Ok(found),
        }
    }

    fn any(&mut self, tree: &mut Node) -> Result<Type, String> {
        let name = qualified(tree).filter(|n| self.lookup(n.split('.').next().unwrap_or(n)).is_none());
        if let Some(named) = name.and_then(|name| signatures::type_named(&name)) {
            *tree = Node::Literal(Value::Type(named.clone()));
            return Ok(Type::Meta(Box::new(named)));
        }
        match tree {
            Node::Literal(value) => Ok(value.kind()),
            Node::Name(name) => {
                let found = self.lookup(name).ok_or_else(|| format!("undeclared name {name}"))?;
                *name = name.strip_prefix('.').unwrap_or(name).to_owned();
                Ok(found)
            }
            Node::Has { of, field } => {
                let of = self.node(of)?;
                self.field(&of, field).map(|_| Type::Bool)
            }
            Node::Select { of, field, optional } => {
                let of = self.node(of)?;
                let (found, lifted) = self.field(&of, field)?;
                Ok(if lifted || *optional { Type::optional(found) } else { found })
            }
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Bind { name, value, body } => {
                let value = self.node(value)?;
                let body = self.scoped(vec![(name.clone(), value)], |c| c.node(body))?;
                Ok(self.unifier.resolve(&body))
            }
            Node::OptionalMap { of, name, body, flat } => {
                let of = self.node(of)?;
                let inner = self.unifier.variable();
                if !self.unifier.assignable(&[of], &[Type::optional(inner.clone())]) {
                    return Err("optMap() takes an optional".to_owned());
                }
                let inner = self.unifier.resolve(&inner);
                let body = self.scoped(vec![(name.clone(), inner)], |c| c.node(body))?;
                if !*flat {
                    return Ok(Type::optional(body));
                }
                let some = Type::optional(self.unifier.variable());
                match self.unifier.assignable(&[body], std::slice::from_ref(&some)) {
                    true => Ok(self.unifier.resolve(&some)),
                    false => Err("optFlatMap() makes an optional".to_owned()),
                }
            }
            Node::Fold(fold) => self.fold(fold).map(|made| self.unifier.resolve(&made)),
            Node::Call(call) => self.call(call),
        }
    }

    /// Type of a field, and whether it was selected from an optional.
    fn field(&mut self, of: &Type, field: &str) -> Result<(Type, bool), String> {
        let of = self.unifier.resolve(of);
        let (of, lifted) = match of {
            Type::Optional(of) => (*of, true),
            of => (of, false),
        };
        let domains = |values| Type::map(Type::String, Type::map(Type::String, values));
        let found = match (&of, field) {
            (t, "driver") if *t == DEVICE => Type::String,
            (t, "attributes") if *t == DEVICE => domains(Type::Any),
            (t, "capacity") if *t == DEVICE => domains(Type::Named("kubernetes.Quantity")),
            (t, "allowMultipleAllocations") if *t == DEVICE => Type::Bool,
            (t, _) if *t == DEVICE => return Err(format!("a device has no {field}")),
            (Type::Map(_, values), _) => (**values).clone(),
            (t, _) if t.is_dynamic() => Type::Dyn,
            (Type::Variable(_), _) => {
                self.unifier.assignable(&[Type::Dyn], std::slice::from_ref(&of));
                Type::Dyn
            }
            (other, _) => return Err(format!("{other} has no field {field}")),
        };
        Ok((found, lifted))
    }

    /// The type of an element, which an optional one holds.
    fn element(&mut self, tree: &mut Node, optional: bool) -> Result<Type, String> {
        match (self.node(tree)?, optional) {
            (Type::Optional(inner), true) => Ok(*inner),
            (t, true) if !t.is_dynamic() => Err(format!("an optional element is no {t}")),
            (t, _) => Ok(t),
        }
    }

    /// An element as one of what goes into a format.
    fn argument(&mut self, tree: &Node, of: Type, optional: bool) -> Argument {
        let within = std::mem::take(&mut self.within);
        Argument {
            of: if optional { Type::optional(of) } else { of },
            within: if matches!(tree, Node::List(_) | Node::Map(_)) { within } else { Vec::new() },
        }
    }

    fn join(&mut self, types: &[Type]) -> Type {
        let Some((first, rest)) = types.split_first() else { return self.unifier.variable() };
        let joined = rest.iter().try_fold(first.clone(), |a, b| self.unifier.join(a, b.clone()));
        joined.unwrap_or(Type::Dyn)
    }

    fn list(&mut self, elements: &mut [(Node, bool)]) -> Result<Type, String> {
        let (mut types, mut within) = (Vec::new(), Vec::new());
        for (element, optional) in elements {
            self.within.clear();
            let of = self.element(element, *optional)?;
            within.push(self.argument(element, of.clone(), *optional));
            types.push(of);
        }
        let joined = self.join(&types);
        if self.exempt == 0 {
            self.alike.push(types);
        }
        self.within = within;
        Ok(Type::list(joined))
    }

    fn map(&mut self, entries: &mut [(Node, Node, bool)]) -> Result<Type, String> {
        let (mut keys, mut values, mut within) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value, optional) in entries {
            self.within.clear();
            let of = self.node(key)?;
            within.push(self.argument(key, of.clone(), false));
            keys.push(of);
            self.within.clear();
            let of = self.element(value, *optional)?;
            within.push(self.argument(value, of.clone(), *optional));
            values.push(of);
        }
        let joined = Type::map(self.join(&keys), self.join(&values));
        if self.exempt == 0 {
            self.alike.extend([keys, values]);
        }
        self.within = within;
        Ok(joined)
    }

    fn fold(&mut self, fold: &mut Fold) -> Result<Type, String> {
        let range = self.node(&mut fold.range)?;
        let range = self.unifier.resolve(&range);
        let two = fold.names.len() == 2;
        let (first, second) = match &range {
            Type::List(e) if two => (Type::Int, (**e).clone()),
            Type::List(e) => ((**e).clone(), Type::Dyn),
            Type::Map(k, v) => ((**k).clone(), (**v).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::Variable(_) => {
                self.unifier.assignable(&[Type::Dyn], std::slice::from_ref(&range));
                (Type::Dyn, Type::Dyn)
            }
            other => return Err(format!("{other} cannot be the range of a comprehension")),
        };
        let keys = first.clone();
        let names = fold.names.iter().cloned().zip([first, second]).collect();
        let body = self.scoped(names, |c| {
            if let Some(filter) = &mut fold.filter {
                c.is(filter, &Type::Bool)?;
            }
            match fold.kind {
                FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => {
                    c.is(&mut fold.body, &Type::Bool).map(|()| Type::Bool)
                }
                _ => c.node(&mut fold.body),
            }
        })?;
        match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Ok(Type::Bool),
            FoldKind::List => Ok(Type::list(body)),
            FoldKind::Map => Ok(Type::map(keys, body)),
            FoldKind::Entries => {
                let made = Type::map(self.unifier.variable(), self.unifier.variable());
                match self.unifier.assignable(&[body], std::slice::from_ref(&made)) {
                    true => Ok(self.unifier.resolve(&made)),
                    false => Err("transformMapEntry() makes maps".to_owned()),
                }
            }
            FoldKind::SortBy => {
                let body = self.unifier.resolve(&body);
                let sortable = matches!(
                    body,
                    Type::Int
                        | Type::Uint
                        | Type::Double
                        | Type::Bool
                        | Type::String
                        | Type::Bytes
                        | Type::Duration
                        | Type::Timestamp
                );
                if !sortable && !body.is_dynamic() && !matches!(body, Type::Variable(_)) {
                    return Err(format!("sortBy() cannot sort by {body}"));
                }
                Ok(if matches!(range, Type::List(_)) { range } else { Type::list(Type::Dyn) })
            }
        }
    }

    fn call(&mut self, call: &mut Call) -> Result<Type, String> {
        if call.member {
            // `optional.of` spells a name, not a member of a variable.
            let spelled = qualified(&call.args[0]).map(|prefix| format!("{prefix}.{}", call.function));
            if let Some(name) = spelled.filter(|name| signatures::of(name).is_some()) {
                call.function = name;
                call.member = false;
                call.args.remove(0);
            }
        }
        let Call { function, member, args } = call;
        let signatures = signatures::of(function).ok_or_else(|| format!("undeclared function {function}"))?;
        let formats = function == "format";
        self.exempt += usize::from(formats);
        let types = args.iter_mut().map(|a| self.node(a)).collect::<Result<Vec<_>, _>>();
        self.exempt -= usize::from(formats);
        let types = types?;
        if let (true, [Node::Literal(Value::String(text)), Node::List(_)]) = (formats, args.as_slice()) {
            self.formats.push((text.to_string(), std::mem::take(&mut self.within)));
        }
        let mut result: Option<Type> = None;
        for signature in signatures.iter().filter(|s| s.member == *member && s.args.len() == types.len()) {
            let fresh: Vec<Type> = (0..signature.parameters).map(|_| self.unifier.variable()).collect();
            let want: Vec<Type> = signature.args.iter().map(|t| instance(t, &fresh)).collect();
            if self.unifier.assignable(&types, &want) {
                let made = self.unifier.resolve(&instance(&signature.result, &fresh));
                result = Some(match result {
                    None => made,
                    Some(other) if other.is_dynamic() || other == made => other,
                    Some(_) => Type::Dyn,
                });
            }
        }
        let result = result.ok_or_else(|| {
            let types: Vec<_> = types.iter().map(|t| self.unifier.resolve(t).to_string()).collect();
            format!("{function} does not take ({})", types.join(", "))
        })?;
        functions::check_constants(call, &mut self.meter)?;
        Ok(result)
    }

    fn found_out(&self, argument: &Argument) -> Argument {
        Argument {
            of: known(&self.unifier.resolve(&argument.of)),
            within: argument.within.iter().map(|a| self.found_out(a)).collect(),
        }
    }

    fn literals(&self) -> Result<(), String> {
        for types in &self.alike {
            let types: Vec<Type> = types.iter().map(|t| known(&self.unifier.resolve(t))).collect();
            if let Some(pair) = types.windows(2).find(|pair| pair[0] != pair[1]) {
                return Err(format!("a literal of both {} and {}; wrap them in dyn()", pair[0], pair[1]));
            }
        }
        for (text, arguments) in &self.formats {
            let arguments: Vec<Argument> = arguments.iter().map(|a| self.found_out(a)).collect();
            format::check(text, &arguments)?;
        }
        Ok(())
    }
}

fn instance(t: &Type, fresh: &[Type]) -> Type {
    match t {
        Type::Variable(n) => fresh[*n].clone(),
        Type::List(t) => Type::list(instance(t, fresh)),
        Type::Optional(t) => Type::optional(instance(t, fresh)),
        Type::Meta(t) => Type::Meta(Box::new(instance(t, fresh))),
        Type::Map(k, v) => Type::map(instance(k, fresh), instance(v, fresh)),
        other => other.clone(),
    }
}

/// What was never found out is dynamic.
fn known(t: &Type) -> Type {
    match t {
        Type::Variable(_) => Type::Dyn,
        Type::List(t) => Type::list(known(t)),
        Type::Optional(t) => Type::optional(known(t)),
        Type::Meta(t) => Type::Meta(Box::new(known(t))),
        Type::Map(k, v) => Type::map(known(k), known(v)),
        other => other.clone(),
    }
}
