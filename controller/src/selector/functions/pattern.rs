//! Regular expressions in Go's syntax, for the `regex` crate.
//!
//! The two engines search alike, and differ in what they read: Go's `\d`, `\w`, `\s` and `\b` are ASCII, `[`, `&&` and
//! `--` mean nothing special within a class, `{` begins a repetition only where one follows, and `a**`, `(?x)` or
//! `\u{e9}` are errors. What is left is Unicode's properties in `\p{}`: the crate knows more of their names.
//!
//! Source: `regexp/syntax/parse.go` with the flags of `regexp.Compile`.

use std::iter::Peekable;
use std::str::Chars;

/// Go takes no more repetitions, nested ones multiplied.
const REPETITIONS: u64 = 1000;
/// States that stand for what compiles to many, roughly.
const ANY: u64 = 10;
const PROPERTY: u64 = 300;

/// What `[[:` can be followed by, perhaps behind a `^`.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// A pattern the crate reads as Go would.
pub(super) struct Pattern {
    pub(super) text: String,
    /// About how many states it compiles to: what searching and compiling it costs.
    pub(super) states: u64,
}

/// Something that may be repeated.
#[derive(Clone, Copy, Default)]
struct Atom {
    states: u64,
    /// The most its parts are repeated.
    repeated: u64,
}

struct Translation<'a> {
    rest: Peekable<Chars<'a>>,
    text: String,
    /// For each open group, the outermost first: what it holds so far, without its last atom.
    groups: Vec<Atom>,
    last: Atom,
}

/// Translates a pattern.
pub(super) fn translate(pattern: &str) -> Result<Pattern, String> {
    let mut t = Translation {
        rest: pattern.chars().peekable(),
        text: String::with_capacity(pattern.len()),
        groups: vec![Atom::default()],
        last: Atom::default(),
    };
    while let Some(c) = t.rest.next() {
        t.one(c)?;
    }
    t.settle();
    let states = t.groups.iter().fold(0u64, |sum, g| sum.saturating_add(g.states));
    Ok(Pattern { text: t.text, states })
}

impl Translation<'_> {
    /// Moves the last atom into its group.
    fn settle(&mut self) {
        let last = std::mem::take(&mut self.last);
        if let Some(group) = self.groups.last_mut() {
            group.states = group.states.saturating_add(last.states);
            group.repeated = group.repeated.max(last.repeated);
        }
    }

    fn atom(&mut self, text: &str, states: u64) {
        self.settle();
        self.text.push_str(text);
        self.last = Atom { states, repeated: 1 };
    }

    fn literal(&mut self, c: char) {
        self.atom(&escaped(c), c.len_utf8() as u64);
    }

    fn one(&mut self, c: char) -> Result<(), String> {
        match c {
            '\\' => self.escape()?,
            '[' => self.class()?,
            '(' => self.open()?,
            ')' => {
                self.settle();
                self.text.push(')');
                self.last = self.groups.pop().filter(|_| !self.groups.is_empty()).ok_or("unexpected )")?;
            }
            '*' | '+' | '?' => self.repeat(&c.to_string(), 1)?,
            '{' => match self.count() {
                Some((text, times)) => self.repeat(&text, times)?,
                None => self.literal('{'),
            },
            '.' => self.atom(".", ANY),
            '|' | '^' | '$' => self.atom(&c.to_string(), 1),
            c => self.literal(c),
        }
        Ok(())
    }

    /// Repeats the last atom. Another repetition behind it is an error to Go.
    fn repeat(&mut self, text: &str, times: u64) -> Result<(), String> {
        self.text.push_str(text);
        self.last.repeated = self.last.repeated.saturating_mul(times.max(1));
        if times > REPETITIONS || self.last.repeated > REPETITIONS {
            return Err("invalid repeat count".to_owned());
        }
        self.last.states = self.last.states.saturating_mul(times.max(1)).saturating_add(1);
        if self.rest.next_if_eq(&'?').is_some() {
            self.text.push('?');
        }
        let mut ahead = self.rest.clone();
        let again = match ahead.next() {
            Some('*' | '+' | '?') => true,
            Some('{') => counted(&mut ahead).is_some(),
            _ => false,
        };
        if again { Err("invalid nested repetition operator".to_owned()) } else { Ok(()) }
    }

    /// `{2}`, `{2,}` or `{2,5}` behind its bracket, if that is what stands here.
    fn count(&mut self) -> Option<(String, u64)> {
        let mut ahead = self.rest.clone();
        let found = counted(&mut ahead)?;
        self.rest = ahead;
        Some(found)
    }

    /// `(`, and what `(?` asks for. Names are of no use here, and Go takes some that the crate does not.
    fn open(&mut self) -> Result<(), String> {
        self.settle();
        let asks = self.rest.next_if_eq(&'?').is_some();
        self.text.push_str(if asks { "(?" } else { "(" });
        if asks && (self.rest.next_if_eq(&'P').is_some() || self.rest.peek() == Some(&'<')) {
            let name: String = self.rest.by_ref().take_while(|c| *c != '>').collect();
            let named = name
                .strip_prefix('<')
                .filter(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            named.ok_or_else(|| format!("invalid named capture: {name}"))?;
            self.text.push(':');
        } else if asks {
            loop {
                let c = self.rest.next().ok_or("missing closing )")?;
                self.text.push(c);
                match c {
                    ':' => break,
                    // `(?i)` opens no group.
                    ')' => return Ok(()),
                    'i' | 'm' | 's' | 'U' | '-' => {}
                    c => return Err(format!("invalid or unsupported Perl syntax: (?{c}")),
                }
            }
        }
        self.groups.push(Atom::default());
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(c) = self.rest.peek().copied() else {
            return Err("trailing backslash".to_owned());
        };
        match c {
            'Q' => {
                self.rest.next();
                self.quoted();
            }
            'b' | 'B' => {
                self.rest.next();
                self.atom(&format!("(?-u:\\{c})"), 1);
            }
            'A' | 'z' => {
                self.rest.next();
                self.atom(&format!("\\{c}"), 1);
            }
            _ => match self.set()? {
                Some((set, states)) => self.atom(&set, states),
                None => {
                    let c = self.character()?;
                    self.literal(c);
                }
            },
        }
        Ok(())
    }

    /// Text up to `\E` that means itself.
    fn quoted(&mut self) {
        while let Some(c) = self.rest.next() {
            let mut ahead = self.rest.clone();
            if c == '\\' && ahead.next() == Some('E') {
                self.rest = ahead;
                return;
            }
            self.literal(c);
        }
    }

    /// What follows a backslash, if it is a set of characters.
    fn set(&mut self) -> Result<Option<(String, u64)>, String> {
        let Some(c) = self.rest.peek().copied() else { return Ok(None) };
        let ascii = |not: bool, set: &str| (format!("[{}{set}]", if not { "^" } else { "" }), ANY);
        let found = match c {
            'd' | 'D' => ascii(c == 'D', "0-9"),
            's' | 'S' => ascii(c == 'S', r"\t\n\x0C\r "),
            'w' | 'W' => ascii(c == 'W', "0-9A-Za-z_"),
            'p' | 'P' => {
                self.rest.next();
                let bad = "invalid character class range";
                let first = self.rest.next().ok_or(bad)?;
                let mut name = String::from(first);
                while first == '{' && !name.ends_with('}') {
                    name.push(self.rest.next().ok_or(bad)?);
                }
                // `\p{^L}` is `\P{L}`.
                let (name, negated) = match name.strip_prefix("{^") {
                    Some(rest) => (format!("{{{rest}"), c == 'p'),
                    None => (name, c == 'P'),
                };
                return Ok(Some((format!("\\{}{name}", if negated { 'P' } else { 'p' }), PROPERTY)));
            }
            _ => return Ok(None),
        };
        self.rest.next();
        Ok(Some(found))
    }

    /// The character an escape stands for.
    fn character(&mut self) -> Result<char, String> {
        let bad = || "invalid escape sequence".to_owned();
        let c = self.rest.next().ok_or_else(|| "trailing backslash".to_owned())?;
        let code = match c {
            'a' => 7,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => {
                let digits: String = match self.rest.next_if_eq(&'{') {
                    Some(_) => self.rest.by_ref().take_while(|c| *c != '}').collect(),
                    None => self.rest.by_ref().take(2).collect(),
                };
                u32::from_str_radix(&digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or_else(bad)?
            }
            // A digit alone would be a reference to a group; with others behind it, it is octal.
            '0'..='7' if c == '0' || self.rest.peek().is_some_and(|c| ('0'..='7').contains(c)) => {
                let mut code = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = self.rest.next_if(|c| ('0'..='7').contains(c)) else { break };
                    code = code * 8 + digit.to_digit(8).unwrap_or_default();
                }
                code
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c.into(),
            _ => return Err(bad()),
        };
        char::from_u32(code).ok_or_else(bad)
    }

    /// A class behind its bracket.
    fn class(&mut self) -> Result<(), String> {
        let unclosed = || "missing closing ]".to_owned();
        let mut text = String::from("[");
        if self.rest.next_if_eq(&'^').is_some() {
            text.push('^');
        }
        let (mut states, mut first) = (ANY, true);
        loop {
            let c = self.rest.next().ok_or_else(unclosed)?;
            if c == ']' && !first {
                break;
            }
            first = false;
            let set = match c {
                '[' => self.posix()?.map(|named| (named, 0)),
                '\\' => self.set()?,
                _ => None,
            };
            if let Some((set, more)) = set {
                text.push_str(&set);
                states += more;
                continue;
            }
            let low = if c == '\\' { self.character()? } else { c };
            text.push_str(&hex(low));
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                self.rest = ahead;
                let c = self.rest.next().ok_or_else(unclosed)?;
                let high = if c == '\\' { self.character()? } else { c };
                if high < low {
                    return Err("invalid character class range".to_owned());
                }
                text.push('-');
                text.push_str(&hex(high));
            }
        }
        text.push(']');
        self.atom(&text, states);
        Ok(())
    }

    /// `[:alpha:]` behind its first bracket. What has no such end is no more than a bracket.
    fn posix(&mut self) -> Result<Option<String>, String> {
        let mut ahead = self.rest.clone();
        if ahead.next_if_eq(&':').is_none() {
            return Ok(None);
        }
        let name: String = ahead.by_ref().take_while(|c| *c != ':').collect();
        if ahead.next_if_eq(&']').is_none() {
            return Ok(None);
        }
        if !POSIX.contains(&name.strip_prefix('^').unwrap_or(&name)) {
            return Err(format!("invalid character class range: [:{name}:]"));
        }
        self.rest = ahead;
        Ok(Some(format!("[:{name}:]")))
    }
}

/// `2}`, `2,}` or `2,5}`: the text with its bracket, and the most it allows.
fn counted(rest: &mut Peekable<Chars<'_>>) -> Option<(String, u64)> {
    let least = digits(rest);
    let (mut text, mut most) = (format!("{{{least}"), least.clone());
    if rest.next_if_eq(&',').is_some() {
        text.push(',');
        if rest.peek() != Some(&'}') {
            most = digits(rest);
            text.push_str(&most);
        }
    }
    text.push(rest.next_if_eq(&'}')?);
    let plain = |n: &str| n == "0" || !(n.is_empty() || n.starts_with('0'));
    // What does not fit is more than is allowed.
    (plain(&least) && plain(&most)).then(|| (text, most.parse().unwrap_or(u64::MAX)))
}

fn digits(rest: &mut Peekable<Chars<'_>>) -> String {
    std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect()
}

/// A character that means itself.
fn escaped(c: char) -> String {
    if c.is_ascii_alphanumeric() || !c.is_ascii() || c.is_ascii_control() {
        return c.to_string();
    }
    hex(c)
}

fn hex(c: char) -> String {
    format!("\\x{{{:X}}}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::translate;

    fn check(pattern: &str, want: &str) {
        let got = translate(pattern).map_or_else(|e| format!("error: {e}"), |p| p.text);
        assert_eq!(got, want, "{pattern}");
    }

    #[test]
    fn classes_of_perl_are_ascii() {
        check(r"^\d+\W$", r"^[0-9]+[^0-9A-Za-z_]$");
        check(r"[\d_]", r"[[0-9]\x{5F}]");
        check(r"\bab\B", r"(?-u:\b)ab(?-u:\B)");
    }

    #[test]
    fn what_only_the_crate_knows_means_nothing() {
        check("[a&&[b]", r"[\x{61}\x{26}\x{26}\x{5B}\x{62}]");
        check("a{,5}", r"a\x{7B}\x{2C}5\x{7D}");
        check("a{2,5}?", "a{2,5}?");
        check(r"\Qa.b\E.", r"a\x{2E}b.");
        check(r"\101\0", "A\0");
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for pattern in
            ["a**", "a+{2}", "a{1001}", "(a{100}){11}", r"\u{61}", "(?x)a", r"\1", "[b-a]", "[a", r"\"]
        {
            assert!(translate(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn repetitions_count_for_what_they_compile_to() {
        let states = |pattern| translate(pattern).unwrap().states;
        assert!(states("abc") < 5);
        assert!(states("(abc){100}") > 300);
        assert!(states(r"\pL{1000}") > 100_000);
    }
}
