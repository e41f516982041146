//! An example's README as a test: its `sh` blocks are run, its `output` blocks are compared.
//!
//! An `output` block belongs to the `sh` block before it, which is run again until it prints that, because a cluster
//! takes its time; such a block must only read. In expected output runs of blanks count as one, and `<name>` stands for
//! one word: the same word wherever the same name appears in the README, another word for another name. `<name...>`
//! stands for the rest of the line.

use std::collections::BTreeMap;

/// One `sh` block, and what it must print if the README says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Heading the block stands under.
    pub section: String,
    /// Shell script.
    pub script: String,
    /// Expected output.
    pub output: Option<String>,
}

/// The steps of a README, in order.
///
/// # Errors
/// An `output` block without a `sh` block before it, or a block that does not end.
pub fn steps(readme: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut section = String::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.trim().to_owned();
        }
        let Some(language) = line.strip_prefix("```") else { continue };
        let mut body = String::new();
        loop {
            match lines.next() {
                Some("```") => break,
                Some(line) => body += &format!("{line}\n"),
                None => return Err(format!("the {language} block under {section:?} does not end")),
            }
        }
        match language {
            "sh" => steps.push(Step { section: section.clone(), script: body, output: None }),
            "output" => match steps.last_mut() {
                Some(step) if step.output.is_none() => step.output = Some(body),
                _ => return Err(format!("the output block under {section:?} follows no sh block")),
            },
            _ => {}
        }
    }
    Ok(steps)
}

/// What placeholders stood for so far in one README.
#[derive(Debug, Clone, Default)]
pub struct Bindings(BTreeMap<String, String>);

impl Bindings {
    /// Compares expected output with what was printed; on success placeholders keep what they stood for.
    ///
    /// # Errors
    /// The first line that differs, both sides.
    pub fn matches(&mut self, expected: &str, printed: &str) -> Result<(), String> {
        let mut bound = self.clone();
        let tidy = |text: &str| -> Vec<String> {
            let lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.filter(|l| !l.is_empty()).collect()
        };
        let (want, got) = (tidy(expected), tidy(printed));
        for (i, line) in want.iter().enumerate() {
            let found = got.get(i).map_or("(nothing)", String::as_str);
            if !bound.line(line, found) {
                return Err(format!("expected {line:?}, got {found:?}"));
            }
        }
        if let Some(extra) = got.get(want.len()) {
            return Err(format!("expected nothing more, got {extra:?}"));
        }
        *self = bound;
        Ok(())
    }

    /// Matches one line; binds placeholders from left to right, shortest first.
    fn line(&mut self, want: &str, got: &str) -> bool {
        let Some((literal, name, rest)) = placeholder(want) else { return want == got };
        let Some(got) = got.strip_prefix(literal) else { return false };
        if name.ends_with("...") {
            return rest.is_empty();
        }
        if let Some(value) = self.0.get(name) {
            let value = value.clone();
            return got.strip_prefix(value.as_str()).is_some_and(|got| self.line(rest, got));
        }
        let word = got.find([' ', ',', ';', '"']).unwrap_or(got.len());
        for end in (1..=word).filter(|end| got.is_char_boundary(*end)) {
            let value = &got[..end];
            if self.0.values().any(|v| v == value) {
                continue;
            }
            let mut tried = self.clone();
            tried.0.insert(name.to_owned(), value.to_owned());
            if tried.line(rest, &got[end..]) {
                *self = tried;
                return true;
            }
        }
        false
    }
}

/// Splits a line at its first placeholder: text before, name, text after.
fn placeholder(line: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = line[from..].find('<').map(|at| at + from) {
        let close = line[open..].find('>').map(|at| at + open)?;
        let name = &line[open + 1..close];
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !name.is_empty() && name.chars().all(valid) {
            return Some((&line[..open], name, &line[close + 1..]));
        }
        from = open + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(expected: &str, printed: &str) -> Result<(), String> {
        Bindings::default().matches(expected, printed)
    }

    #[test]
    fn an_output_block_belongs_to_the_script_before_it() {
        let readme = "# x\n## Run\n```sh\nkubectl get pods\n```\ntext\n```output\nNAME\n```\n";
        let want = Step {
            section: "Run".into(),
            script: "kubectl get pods\n".into(),
            output: Some("NAME\n".into()),
        };
        assert_eq!(steps(readme), Ok(vec![want]));
    }

    #[test]
    fn an_output_block_alone_is_an_error() {
        assert!(steps("## Run\n```output\nx\n```\n").is_err());
    }

    #[test]
    fn blanks_count_as_one() {
        assert_eq!(matches("NAME  READY\n", "NAME     READY  \n\n"), Ok(()));
    }

    #[test]
    fn one_name_stands_for_one_word_and_two_names_for_two() {
        assert_eq!(matches("<a> <b> <a>", "x y x"), Ok(()));
        assert!(matches("<a> <b> <a>", "x y z").is_err());
        assert!(matches("<a> <b>", "x x").is_err());
    }

    #[test]
    fn a_placeholder_may_stand_inside_a_word() {
        assert_eq!(matches("pod/web-<id> on <node>", "pod/web-7f9c-x on node-a"), Ok(()));
    }

    #[test]
    fn the_rest_of_a_line_may_be_left_open() {
        assert_eq!(matches("Events: <rest...>", "Events: many words"), Ok(()));
    }

    #[test]
    fn missing_and_further_lines_differ() {
        assert!(matches("a\nb", "a").is_err());
        assert!(matches("a", "a\nb").is_err());
    }
}
