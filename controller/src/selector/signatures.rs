//! The functions and operators a selector can use, by name and types: what the DRA environment of Kubernetes 1.36 has.
//!
//! Sources: `k8s.io/dynamic-resource-allocation/cel/compile.go`, `k8s.io/apiserver/pkg/cel/environment/base.go` and the
//! libraries they name. A leading dot makes a member function; one capital letter is a type parameter. Where several forms
//! fit a type that is not known yet, the first decides it, so they stand in the order Kubernetes has them.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use super::functions::{named_formats, times};
use super::types::Type;

const TABLE: &str = "
_?_:_(bool, A, A) -> A
!_(bool) -> bool
_&&_(bool, bool) -> bool
_||_(bool, bool) -> bool
_==_(A, A) -> bool
_!=_(A, A) -> bool
-_(double) -> double
-_(int) -> int
_+_(bytes, bytes) -> bytes
_+_(double, double) -> double
_+_(duration, duration) -> duration
_+_(duration, timestamp) -> timestamp
_+_(timestamp, duration) -> timestamp
_+_(int, int) -> int
_+_(list<A>, list<A>) -> list<A>
_+_(string, string) -> string
_+_(uint, uint) -> uint
_-_(double, double) -> double
_-_(duration, duration) -> duration
_-_(int, int) -> int
_-_(timestamp, duration) -> timestamp
_-_(timestamp, timestamp) -> duration
_-_(uint, uint) -> uint
_*_(double, double) -> double
_*_(int, int) -> int
_*_(uint, uint) -> uint
_/_(double, double) -> double
_/_(int, int) -> int
_/_(uint, uint) -> uint
_%_(int, int) -> int
_%_(uint, uint) -> uint
_[_](list<A>, int) -> A
_[_](map<A, B>, A) -> B
_[_](optional<list<A>>, int) -> optional<A>
_[_](optional<map<A, B>>, A) -> optional<B>
_[?_](list<A>, int) -> optional<A>
_[?_](optional<list<A>>, int) -> optional<A>
_[?_](map<A, B>, A) -> optional<B>
_[?_](optional<map<A, B>>, A) -> optional<B>
@in(A, list<A>) -> bool
@in(A, map<A, B>) -> bool
type(A) -> type<A>
dyn(A) -> dyn
bool(bool) -> bool
bool(string) -> bool
bytes(bytes) -> bytes
bytes(string) -> bytes
double(double) -> double
double(int) -> double
double(uint) -> double
double(string) -> double
int(int) -> int
int(uint) -> int
int(double) -> int
int(string) -> int
uint(uint) -> uint
uint(int) -> uint
uint(double) -> uint
uint(string) -> uint
string(string) -> string
string(bool) -> string
string(int) -> string
string(uint) -> string
string(double) -> string
string(bytes) -> string
string(ip) -> string
string(cidr) -> string
string(duration) -> string
string(timestamp) -> string
int(duration) -> int
int(timestamp) -> int
duration(duration) -> duration
duration(int) -> duration
duration(string) -> duration
timestamp(timestamp) -> timestamp
timestamp(int) -> timestamp
timestamp(string) -> timestamp
.getHours(duration) -> int
.getMinutes(duration) -> int
.getSeconds(duration) -> int
.getMilliseconds(duration) -> int
.contains(string, string) -> bool
.startsWith(string, string) -> bool
.endsWith(string, string) -> bool
matches(string, string) -> bool
.matches(string, string) -> bool
.find(string, string) -> string
.findAll(string, string) -> list<string>
.findAll(string, string, int) -> list<string>
.charAt(string, int) -> string
.indexOf(string, string) -> int
.indexOf(string, string, int) -> int
.lastIndexOf(string, string) -> int
.lastIndexOf(string, string, int) -> int
.lowerAscii(string) -> string
.upperAscii(string) -> string
.replace(string, string, string) -> string
.replace(string, string, string, int) -> string
.split(string, string) -> list<string>
.split(string, string, int) -> list<string>
.substring(string, int) -> string
.substring(string, int, int) -> string
.trim(string) -> string
.format(string, list<dyn>) -> string
strings.quote(string) -> string
.join(list<string>) -> string
.join(list<string>, string) -> string
.indexOf(list<A>, A) -> int
.lastIndexOf(list<A>, A) -> int
.slice(list<A>, int, int) -> list<A>
.flatten(list<list<A>>) -> list<A>
.flatten(list<dyn>, int) -> list<dyn>
.reverse(list<A>) -> list<A>
.distinct(list<A>) -> list<A>
lists.range(int) -> list<int>
.first(list<A>) -> optional<A>
.last(list<A>) -> optional<A>
sets.contains(list<A>, list<A>) -> bool
sets.equivalent(list<A>, list<A>) -> bool
sets.intersects(list<A>, list<A>) -> bool
optional.of(A) -> optional<A>
optional.ofNonZeroValue(A) -> optional<A>
optional.none() -> optional<A>
optional.unwrap(list<optional<A>>) -> list<A>
.unwrapOpt(list<optional<A>>) -> list<A>
.value(optional<A>) -> A
.hasValue(optional<A>) -> bool
.or(optional<A>, optional<A>) -> optional<A>
.orValue(optional<A>, A) -> A
quantity(string) -> quantity
isQuantity(string) -> bool
sign(quantity) -> int
.isGreaterThan(quantity, quantity) -> bool
.isLessThan(quantity, quantity) -> bool
.compareTo(quantity, quantity) -> int
.asApproximateFloat(quantity) -> double
.asInteger(quantity) -> int
.isInteger(quantity) -> bool
.add(quantity, quantity) -> quantity
.add(quantity, int) -> quantity
.sub(quantity, quantity) -> quantity
.sub(quantity, int) -> quantity
semver(string) -> semver
semver(string, bool) -> semver
isSemver(string) -> bool
isSemver(string, bool) -> bool
.isGreaterThan(semver, semver) -> bool
.isLessThan(semver, semver) -> bool
.compareTo(semver, semver) -> int
.major(semver) -> int
.minor(semver) -> int
.patch(semver) -> int
url(string) -> url
isURL(string) -> bool
.getScheme(url) -> string
.getHost(url) -> string
.getHostname(url) -> string
.getPort(url) -> string
.getEscapedPath(url) -> string
.getQuery(url) -> map<string, list<string>>
ip(string) -> ip
isIP(string) -> bool
ip.isCanonical(string) -> bool
.family(ip) -> int
.isUnspecified(ip) -> bool
.isLoopback(ip) -> bool
.isLinkLocalMulticast(ip) -> bool
.isLinkLocalUnicast(ip) -> bool
.isGlobalUnicast(ip) -> bool
cidr(string) -> cidr
isCIDR(string) -> bool
.containsIP(cidr, string) -> bool
.containsIP(cidr, ip) -> bool
.containsCIDR(cidr, string) -> bool
.containsCIDR(cidr, cidr) -> bool
.ip(cidr) -> ip
.prefixLength(cidr) -> int
.masked(cidr) -> cidr
format.named(string) -> optional<format>
.validate(format, string) -> optional<list<string>>
.includes(dyn, dyn) -> bool
";

/// What `<` takes: each type with itself, numbers with each other.
const COMPARABLE: [&str; 8] = ["bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration"];
/// What lists that are sorted or searched for the greatest hold.
const SORTABLE: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
const SUMMABLE: [&str; 4] = ["int", "uint", "double", "duration"];

/// One form of a function. Type parameters are [`Type::Variable`]s from 0.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) member: bool,
    pub(super) args: Vec<Type>,
    pub(super) result: Type,
    pub(super) parameters: usize,
}

static SIGNATURES: LazyLock<HashMap<String, Vec<Signature>>> = LazyLock::new(|| {
    let mut lines: Vec<String> = TABLE.lines().filter(|l| !l.is_empty()).map(Into::into).collect();
    for t in COMPARABLE {
        for other in COMPARABLE {
            let number = |t: &str| ["int", "uint", "double"].contains(&t);
            if t == other || (number(t) && number(other)) {
                lines.extend(["<", "<=", ">", ">="].map(|op| format!("_{op}_({t}, {other}) -> bool")));
            }
        }
    }
    for t in SORTABLE {
        lines.push(format!(".isSorted(list<{t}>) -> bool"));
        lines.push(format!(".sort(list<{t}>) -> list<{t}>"));
        lines.extend(["min", "max"].map(|f| format!(".{f}(list<{t}>) -> {t}")));
    }
    for t in ["string", "bytes", "list<A>", "map<A, B>"] {
        lines.extend([format!("size({t}) -> int"), format!(".size({t}) -> int")]);
    }
    for accessor in times::ACCESSORS {
        lines.push(format!(".{accessor}(timestamp) -> int"));
        lines.push(format!(".{accessor}(timestamp, string) -> int"));
    }
    lines.extend(named_formats::names().map(|name| format!("format.{name}() -> format")));
    lines.extend(SUMMABLE.map(|t| format!(".sum(list<{t}>) -> {t}")));
    let mut table: HashMap<String, Vec<Signature>> = HashMap::new();
    for line in &lines {
        let (name, signature) = signature(line);
        table.entry(name).or_default().push(signature);
    }
    table
});

/// All forms of a function.
pub(super) fn of(function: &str) -> Option<&'static [Signature]> {
    SIGNATURES.get(function).map(Vec::as_slice)
}

fn signature(line: &str) -> (String, Signature) {
    let (head, result) = line.rsplit_once(" -> ").unwrap_or((line, "dyn"));
    let (name, args) = head.split_once('(').unwrap_or((head, ""));
    let mut parameters = BTreeMap::new();
    let args = split(args.strip_suffix(')').unwrap_or(args));
    let args = args.into_iter().map(|t| named(t, &mut parameters)).collect();
    let result = named(result, &mut parameters);
    let member = name.starts_with('.');
    let signature = Signature { member, args, result, parameters: parameters.len() };
    (name.strip_prefix('.').unwrap_or(name).to_owned(), signature)
}

/// Splits at the commas that stand outside of angle brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

fn named(text: &str, parameters: &mut BTreeMap<String, usize>) -> Type {
    if let Some((outer, inner)) = text.strip_suffix('>').and_then(|t| t.split_once('<')) {
        let mut inner = split(inner).into_iter().map(|t| named(t, parameters)).collect::<Vec<_>>();
        let last = inner.pop().unwrap_or(Type::Dyn);
        return match outer {
            "list" => Type::list(last),
            "optional" => Type::optional(last),
            "type" => Type::Meta(Box::new(last)),
            _ => Type::map(inner.pop().unwrap_or(Type::Dyn), last),
        };
    }
    match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "format" => Type::Named("kubernetes.NamedFormat"),
        "quantity" => Type::Named("kubernetes.Quantity"),
        "semver" => Type::Named("kubernetes.Semver"),
        "url" => Type::Named("kubernetes.URL"),
        "ip" => Type::Named("net.IP"),
        "cidr" => Type::Named("net.CIDR"),
        "dyn" => Type::Dyn,
        letter => {
            let next = parameters.len();
            Type::Variable(*parameters.entry(letter.to_owned()).or_insert(next))
        }
    }
}

/// The type a name stands for, as in `type(x) == int`.
pub(super) fn type_named(name: &str) -> Option<Type> {
    let dynamic = || Box::new(Type::Dyn);
    Some(match name {
        "bool" | "int" | "uint" | "double" | "string" | "bytes" => named(name, &mut BTreeMap::new()),
        "list" => Type::List(dynamic()),
        "map" => Type::Map(dynamic(), dynamic()),
        "null_type" => Type::Null,
        "type" => Type::Meta(dynamic()),
        "optional_type" => Type::Optional(dynamic()),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "net.IP" => Type::Named("net.IP"),
        "net.CIDR" => Type::Named("net.CIDR"),
        _ => return None,
    })
}
