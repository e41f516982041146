//! Text to expression tree, with macros expanded. The only file that knows the `cel` crate.
//!
//! The crate parses; types, evaluation and functions are this module's siblings, because no Rust crate offers the type
//! checks, the cost limit and the libraries of the API server. To replace the crate, replace this file.

use std::sync::Arc;

use cel::Env;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};

use super::value::Value;

/// The API server takes no longer ones (`CELSelectorExpressionMaxLength`).
const LENGTH: usize = 10 * 1024;
/// Nesting that the API server's parser takes, counted for each rule of its grammar; here for the tree that comes out,
/// without its leaves.
const NESTING: u16 = 250;
/// Open brackets within each other, around which there is one level; the parser recurses a dozen frames for each.
const BRACKETS: usize = NESTING as usize - 1;

/// An expression.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Literal(Value),
    Name(String),
    Select {
        of: Box<Node>,
        field: String,
        optional: bool,
    },
    Has {
        of: Box<Node>,
        field: String,
    },
    Call(Call),
    /// Elements; `true` marks an optional one.
    List(Vec<(Node, bool)>),
    /// Entries; `true` marks an optional one.
    Map(Vec<(Node, Node, bool)>),
    Fold(Box<Fold>),
    Bind {
        name: String,
        value: Box<Node>,
        body: Box<Node>,
    },
    /// `optMap` and `optFlatMap`.
    OptionalMap {
        of: Box<Node>,
        name: String,
        body: Box<Node>,
        flat: bool,
    },
}

impl Node {
    /// The value that stands here as such.
    pub(super) fn literal(&self) -> Option<Value> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            _ => None,
        }
    }

    /// Levels of the tree.
    pub(super) fn depth(&self) -> usize {
        let most = |nodes: &[&Node]| nodes.iter().map(|n| n.depth()).max().unwrap_or_default();
        1 + match self {
            Self::Literal(_) | Self::Name(_) => 0,
            Self::Select { of, .. } | Self::Has { of, .. } => of.depth(),
            Self::Call(call) => call.args.iter().map(Self::depth).max().unwrap_or_default(),
            Self::List(elements) => elements.iter().map(|(e, _)| e.depth()).max().unwrap_or_default(),
            Self::Map(entries) => entries.iter().map(|(k, v, _)| most(&[k, v])).max().unwrap_or_default(),
            Self::Fold(fold) => {
                most(&[&fold.range, &fold.body]).max(fold.filter.as_ref().map_or(0, Self::depth))
            }
            Self::Bind { value: a, body: b, .. } | Self::OptionalMap { of: a, body: b, .. } => most(&[a, b]),
        }
    }
}

/// A call of a function or operator; operators have the names CEL gives them, such as `_+_`.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) function: String,
    pub(super) member: bool,
    /// The receiver of a member call comes first.
    pub(super) args: Vec<Node>,
}

/// A comprehension.
#[derive(Debug, Clone)]
pub(super) struct Fold {
    pub(super) kind: FoldKind,
    pub(super) range: Node,
    /// One name for elements or keys, two for index or key and value.
    pub(super) names: Vec<String>,
    pub(super) filter: Option<Node>,
    pub(super) body: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// `map`, `filter`, `transformList`
    List,
    /// `transformMap`
    Map,
    /// `transformMapEntry`
    Entries,
    /// `sortBy`
    SortBy,
}

/// Parses an expression. Needs a [deep](super::stack::deep) stack.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    if text.len() > LENGTH {
        return Err(format!("longer than {LENGTH} bytes"));
    }
    if brackets(text) > BRACKETS {
        return Err(format!("more than {BRACKETS} brackets within each other"));
    }
    let tree = Env::default().parser().max_recursion_depth(NESTING - 1).parse(text);
    // The first error causes most of the others.
    let tree = tree.map_err(|errors| match errors.errors.first() {
        Some(error) => format!("{}:{}: {}", error.pos.0, error.pos.1, error.msg),
        None => "it cannot be read".to_owned(),
    })?;
    node(tree, NESTING)
}

fn brackets(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => now += 1,
            ')' | ']' | '}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

type Parsed<T> = Result<T, String>;

fn is_leaf(tree: &IdedExpr) -> bool {
    let single = |tree: &IdedExpr| matches!(tree.expr, Expr::Literal(_) | Expr::Ident(_));
    match &tree.expr {
        Expr::List(list) => list.elements.iter().all(single),
        _ => single(tree),
    }
}

fn node(tree: IdedExpr, depth: u16) -> Parsed<Node> {
    let depth = depth.checked_sub(u16::from(!is_leaf(&tree)));
    let depth = depth.ok_or_else(|| format!("nested deeper than {NESTING} levels"))?;
    let boxed = |tree: IdedExpr| node(tree, depth).map(Box::new);
    Ok(match tree.expr {
        Expr::Literal(literal) => Node::Literal(value(literal)),
        Expr::Ident(name) => Node::Name(name),
        Expr::Select(select) if select.test => Node::Has { of: boxed(*select.operand)?, field: select.field },
        Expr::Select(select) => {
            Node::Select { of: boxed(*select.operand)?, field: select.field, optional: false }
        }
        Expr::List(list) => {
            let optional = list.optional_indices;
            let elements = list.elements.into_iter().enumerate();
            Node::List(
                elements.map(|(i, e)| Ok((node(e, depth)?, optional.contains(&i)))).collect::<Parsed<_>>()?,
            )
        }
        Expr::Map(map) => {
            let entry = |entry| match entry {
                EntryExpr::MapEntry(e) => Ok((node(e.key, depth)?, node(e.value, depth)?, e.optional)),
                EntryExpr::StructField(_) => Err("a field in a map".to_owned()),
            };
            Node::Map(map.entries.into_iter().map(|e| entry(e.expr)).collect::<Parsed<_>>()?)
        }
        Expr::Call(call) => {
            let target = call.target.map(|t| *t);
            return expand(call.func_name, target, call.args, depth);
        }
        Expr::Struct(made) => {
            return Err(format!(
                "messages such as {}{{}} are not supported here; write the value itself",
                made.type_name
            ));
        }
        Expr::Comprehension(_) | Expr::Unspecified => return Err("an incomplete expression".to_owned()),
    })
}

fn value(literal: LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(b) => Value::Bool(*b.inner()),
        LiteralValue::Bytes(b) => Value::Bytes(Arc::from(b.inner())),
        LiteralValue::Double(d) => Value::Double(*d.inner()),
        LiteralValue::Int(i) => Value::Int(*i.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(s) => Value::from(s.inner()),
        LiteralValue::UInt(u) => Value::Uint(*u.inner()),
    }
}

fn name(tree: &Node) -> Parsed<String> {
    match tree {
        Node::Name(name) if name.starts_with('@') || name == "__result__" => {
            Err(format!("{name} cannot name a variable"))
        }
        Node::Name(name) if !name.starts_with('.') => Ok(name.clone()),
        _ => Err("a variable must be a simple name".to_owned()),
    }
}

/// A call, or what a macro of that name makes of it.
fn expand(function: String, target: Option<IdedExpr>, args: Vec<IdedExpr>, depth: u16) -> Parsed<Node> {
    let target = target.map(|t| node(t, depth)).transpose()?;
    let mut args = args.into_iter().map(|a| node(a, depth)).collect::<Parsed<Vec<_>>>()?;
    let fold = |kind, range, names: &[Node], filter, body| {
        let names = names.iter().map(name).collect::<Parsed<Vec<_>>>()?;
        if names.len() == 2 && names[0] == names[1] {
            return Err(format!("{} names two variables", names[0]));
        }
        Ok(Node::Fold(Box::new(Fold { kind, range, names, filter, body })))
    };
    let Some(target) = target else {
        return match (function.as_str(), args.len()) {
            ("has", 1) => match args.remove(0) {
                Node::Select { of, field, optional: false } => Ok(Node::Has { of, field }),
                _ => Err("has() takes a field selection".to_owned()),
            },
            ("_?._", 2) => {
                let (field, of) = (args.remove(1), Box::new(args.remove(0)));
                match field {
                    Node::Literal(Value::String(field)) => {
                        Ok(Node::Select { of, field: field.to_string(), optional: true })
                    }
                    _ => Err("an optional selection takes a field".to_owned()),
                }
            }
            _ => Ok(Node::Call(Call { function, member: false, args })),
        };
    };
    let kind = match function.as_str() {
        "all" => Some(FoldKind::All),
        "exists" => Some(FoldKind::Exists),
        "exists_one" => Some(FoldKind::ExistsOne),
        "existsOne" if args.len() == 3 => Some(FoldKind::ExistsOne),
        "map" => Some(FoldKind::List),
        "transformList" => Some(FoldKind::List),
        "transformMap" => Some(FoldKind::Map),
        "transformMapEntry" => Some(FoldKind::Entries),
        _ => None,
    };
    let transforms = function.starts_with("transform");
    match (function.as_str(), args.len(), kind) {
        ("all" | "exists" | "exists_one" | "existsOne" | "map", 2, Some(kind)) => {
            let body = args.remove(1);
            fold(kind, target, &args, None, body)
        }
        ("all" | "exists" | "exists_one" | "existsOne", 3, Some(kind)) => {
            let body = args.remove(2);
            fold(kind, target, &args, None, body)
        }
        ("map", 3, Some(kind)) => {
            let (body, filter) = (args.remove(2), args.remove(1));
            fold(kind, target, &args, Some(filter), body)
        }
        ("filter", 2, _) => {
            let (filter, body) = (args.remove(1), args[0].clone());
            fold(FoldKind::List, target, &args, Some(filter), body)
        }
        ("sortBy", 2, _) => {
            let body = args.remove(1);
            fold(FoldKind::SortBy, target, &args, None, body)
        }
        (_, 3, Some(kind)) if transforms => {
            let body = args.remove(2);
            fold(kind, target, &args, None, body)
        }
        (_, 4, Some(kind)) if transforms => {
            let (body, filter) = (args.remove(3), args.remove(2));
            fold(kind, target, &args, Some(filter), body)
        }
        ("optMap" | "optFlatMap", 2, _) => {
            let (body, flat) = (Box::new(args.remove(1)), function == "optFlatMap");
            Ok(Node::OptionalMap { of: Box::new(target), name: name(&args[0])?, body, flat })
        }
        ("bind", 3, _) if matches!(&target, Node::Name(n) if n == "cel") => {
            let (body, value) = (Box::new(args.remove(2)), Box::new(args.remove(1)));
            Ok(Node::Bind { name: name(&args[0])?, value, body })
        }
        _ => {
            args.insert(0, target);
            Ok(Node::Call(Call { function, member: true, args }))
        }
    }
}
