//! Static types and their unification, after the checker of cel-go.

use std::fmt;

/// A type. `Any` is what attributes have: it may turn out to be anything, as `Dyn`, but is no list or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Dyn,
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Optional(Box<Type>),
    /// The type of a type.
    Meta(Box<Type>),
    /// An opaque type, the device included.
    Named(&'static str),
    /// A type to be found out.
    Variable(usize),
}

/// The variable `device`.
pub(super) const DEVICE: Type = Type::Named("kubernetes.DRADevice");

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(t) if **t != Type::Dyn => write!(f, "list({t})"),
            Self::Map(k, v) if **k != Type::Dyn || **v != Type::Dyn => write!(f, "map({k}, {v})"),
            Self::Optional(t) if **t != Type::Dyn => write!(f, "optional_type({t})"),
            other => f.write_str(other.name()),
        }
    }
}

impl Type {
    /// Its name without parameters.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Dyn | Self::Variable(_) => "dyn",
            Self::Any => "any",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Meta(_) => "type",
            Self::Named(name) => name,
        }
    }

    pub(super) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub(super) fn map(keys: Self, values: Self) -> Self {
        Self::Map(Box::new(keys), Box::new(values))
    }

    pub(super) fn optional(of: Self) -> Self {
        Self::Optional(Box::new(of))
    }

    pub(super) fn is_dynamic(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    fn parts(&self) -> Vec<&Type> {
        match self {
            Self::List(t) | Self::Optional(t) | Self::Meta(t) => vec![t],
            Self::Map(k, v) => vec![k, v],
            _ => Vec::new(),
        }
    }
}

/// What is known of type variables.
#[derive(Debug, Default)]
pub(super) struct Unifier {
    found: Vec<Option<Type>>,
    /// What the comparison under way has changed, to take back if it fails.
    changed: Vec<(usize, Option<Type>)>,
}

impl Unifier {
    /// A fresh variable.
    pub(super) fn variable(&mut self) -> Type {
        self.found.push(None);
        Type::Variable(self.found.len() - 1)
    }

    fn known(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Variable(n) => self.found[*n].as_ref(),
            _ => None,
        }
    }

    /// With everything known filled in.
    pub(super) fn resolve(&self, t: &Type) -> Type {
        if let Some(known) = self.known(t) {
            return self.resolve(known);
        }
        match t {
            Type::List(t) => Type::list(self.resolve(t)),
            Type::Optional(t) => Type::optional(self.resolve(t)),
            Type::Meta(t) => Type::Meta(Box::new(self.resolve(t))),
            Type::Map(k, v) => Type::map(self.resolve(k), self.resolve(v)),
            other => other.clone(),
        }
    }

    /// Whether a type has more parts than that.
    pub(super) fn larger(&self, t: &Type, parts: usize) -> bool {
        fn count(unifier: &Unifier, t: &Type, left: &mut usize) -> bool {
            let Some(rest) = left.checked_sub(1) else { return true };
            *left = rest;
            match unifier.known(t) {
                Some(known) => count(unifier, known, left),
                None => t.parts().into_iter().any(|t| count(unifier, t, left)),
            }
        }
        count(self, t, &mut { parts })
    }

    /// Whether values of one type can be used as the other; what is learnt is kept only then.
    pub(super) fn assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        self.changed.clear();
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(a, b)| self.fits(a, b));
        if !fits {
            for (variable, before) in self.changed.drain(..).rev() {
                self.found[variable] = before;
            }
        }
        fits
    }

    fn set(&mut self, variable: usize, t: Type) {
        let before = self.found[variable].replace(t);
        self.changed.push((variable, before));
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Variable(n) = b {
            let (valid, known) = self.substitutes(a, *n);
            if valid || known {
                return valid;
            }
        }
        if let Type::Variable(n) = a {
            return self.substitutes(b, *n).0;
        }
        if a.is_dynamic() || b.is_dynamic() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(
                    other,
                    Type::Null | Type::Named(_) | Type::Optional(_) | Type::Duration | Type::Timestamp
                )
            }
            (Type::Meta(_), Type::Meta(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(ka, va), Type::Map(kb, vb)) => self.fits(ka, kb) && self.fits(va, vb),
            (a, b) => a == b,
        }
    }

    /// Whether a type can stand for a variable, and whether something already does.
    fn substitutes(&mut self, t: &Type, variable: usize) -> (bool, bool) {
        if *t == Type::Variable(variable) {
            return (true, true);
        }
        if let Some(known) = self.found[variable].clone() {
            if *t == known {
                return (true, true);
            }
            if self.fits(t, &known) {
                let general = if self.less_specific(t, &known) { t.clone() } else { known };
                if !self.occurs(variable, &general) {
                    self.set(variable, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(variable, t) {
            return (false, false);
        }
        self.set(variable, t.clone());
        (true, false)
    }

    fn occurs(&self, variable: usize, within: &Type) -> bool {
        match within {
            Type::Variable(n) if *n == variable => true,
            Type::Variable(n) => self.found[*n].as_ref().is_some_and(|t| self.occurs(variable, t)),
            other => other.parts().into_iter().any(|t| self.occurs(variable, t)),
        }
    }

    fn less_specific(&self, a: &Type, b: &Type) -> bool {
        if a.is_dynamic() || matches!(a, Type::Variable(_)) {
            return true;
        }
        if b.is_dynamic() || matches!(b, Type::Variable(_)) {
            return false;
        }
        match (a, b) {
            (Type::Meta(_), Type::Meta(_)) => true,
            (a, b) if a.parts().is_empty() => a == b,
            (a, b) => {
                a.name() == b.name()
                    && a.parts().into_iter().zip(b.parts()).all(|(a, b)| self.less_specific(a, b))
            }
        }
    }

    /// The more general of two types, where one can be used as the other.
    pub(super) fn join(&mut self, a: Type, b: Type) -> Option<Type> {
        if !self.assignable(std::slice::from_ref(&a), std::slice::from_ref(&b)) {
            return None;
        }
        Some(if self.less_specific(&a, &b) { a } else { b })
    }
}
