//! One test executable run: its output is shown, its result counted, its skips collected.
//!
//! Suites print as Rust's own test harness does. A test that cannot run here is reported by the suite as one line
//! `skipped: <test>: <reason>` and counts as skipped, never as passed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cargo::TestBinary;

/// What kind of test a suite holds; the closing table has a line for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Formatting, lints, the repository's own promises.
    Check,
    /// Beside the code.
    Unit,
    /// A whole component against fakes, or real processes under the limiter.
    Scenario,
    /// On the real local cluster.
    Cluster,
}

impl Kind {
    /// As the closing table prints it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Check => "checks",
            Self::Unit => "unit tests",
            Self::Scenario => "scenario tests",
            Self::Cluster => "cluster tests",
        }
    }
}

/// What one suite came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Tests that passed.
    pub(crate) passed: u32,
    /// Tests that failed; 1 if the suite ended badly without saying so.
    pub(crate) failed: u32,
    /// `<test>: <reason>` of each test that did not run.
    pub(crate) skipped: Vec<String>,
}

impl TestBinary {
    /// What `cargo xtask test NAME` matches.
    pub(crate) fn suite(&self) -> String {
        if self.unit { self.package.clone() } else { format!("{}::{}", self.package, self.target) }
    }

    /// Kind of the suite.
    pub(crate) fn kind(&self) -> Kind {
        match (self.unit, self.package.as_str()) {
            (true, _) => Kind::Unit,
            (false, "vgpu-e2e") => Kind::Cluster,
            (false, _) => Kind::Scenario,
        }
    }

    /// Runs it and shows what it prints. `environment` is for all suites alike.
    pub(crate) fn run(&self, long: bool, environment: &[(String, OsString)]) -> anyhow::Result<Outcome> {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("CARGO_MANIFEST_DIR", &self.folder);
        command.env("VGPU_TEST_RUNNER", std::process::id().to_string());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        if long {
            command.env("VGPU_TEST_LONG", "1");
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.path.display()))?;
        let stdout = child.stdout.take().context("a child without the pipe it was given")?;
        let mut outcome = Outcome::default();
        let mut ended = false;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            ended |= outcome.read(&line);
        }
        let status = child.wait()?;
        if !ended || (!status.success() && outcome.failed == 0) {
            println!("{} ended with {status} before it had counted its tests", self.suite());
            outcome.failed += 1;
        }
        Ok(outcome)
    }
}

impl Outcome {
    /// Takes in one line; true if it was the suite's closing line.
    fn read(&mut self, line: &str) -> bool {
        if let Some(skip) = line.strip_prefix("skipped: ") {
            self.skipped.push(skip.to_owned());
            return false;
        }
        let Some(result) = line.strip_prefix("test result: ") else { return false };
        let number = |word: &str| -> u32 {
            let at = result.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
            at.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        let unexplained = (number("ignored") as usize).saturating_sub(self.skipped.len());
        self.skipped.extend((0..unexplained).map(|_| "a test is marked ignored without a reason".to_owned()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.read(line);
        }
        outcome
    }

    #[test]
    fn the_closing_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s";
        assert_eq!(read(&[line]), Outcome { passed: 12, failed: 2, skipped: vec![] });
    }

    #[test]
    fn a_skip_keeps_its_reason_and_an_ignored_test_without_one_is_named() {
        let lines = [
            "skipped: racing: needs root",
            "test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ];
        let want = ["racing: needs root", "a test is marked ignored without a reason"];
        assert_eq!(read(&lines).skipped, want);
    }
}
