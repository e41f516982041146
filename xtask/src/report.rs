//! The closing words of a test run.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::suite::{Kind, Outcome};

/// Everything that ran.
pub(crate) struct Report {
    started: Instant,
    kinds: BTreeMap<Kind, Outcome>,
    bad: Vec<String>,
}

impl Report {
    /// An empty report; the clock starts.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), kinds: BTreeMap::new(), bad: Vec::new() }
    }

    /// Adds a suite.
    pub(crate) fn add(&mut self, kind: Kind, suite: &str, outcome: Outcome) {
        if outcome.failed > 0 {
            self.bad.push(format!("{suite}: {} failed", outcome.failed));
        }
        let sum = self.kinds.entry(kind).or_default();
        sum.passed += outcome.passed;
        sum.failed += outcome.failed;
        sum.skipped.extend(outcome.skipped.into_iter().map(|s| format!("{suite}: {s}")));
    }

    /// Adds one check that either holds or not.
    pub(crate) fn check(&mut self, name: &str, result: anyhow::Result<()>) {
        let failed = u32::from(result.is_err());
        if let Err(error) = result {
            println!("check {name}: {error:#}");
        }
        self.add(Kind::Check, name, Outcome { passed: 1 - failed, failed, skipped: vec![] });
    }

    /// Prints skips with their reasons, a line per kind, and the total as the last line. True if nothing failed.
    pub(crate) fn close(self) -> bool {
        println!();
        for (kind, outcome) in &self.kinds {
            for skip in &outcome.skipped {
                println!("skipped ({}): {skip}", kind.name());
            }
        }
        for bad in &self.bad {
            println!("failed: {bad}");
        }
        for (kind, o) in &self.kinds {
            println!(
                "{:<15} {:>5} passed {:>3} failed {:>3} skipped",
                kind.name(),
                o.passed,
                o.failed,
                o.skipped.len()
            );
        }
        println!("in {} s", self.started.elapsed().as_secs());
        let total = |count: fn(&Outcome) -> usize| self.kinds.values().map(count).sum::<usize>();
        let failed = total(|o| o.failed as usize);
        println!(
            "{} passed, {failed} failed, {} skipped",
            total(|o| o.passed as usize),
            total(|o| o.skipped.len())
        );
        failed == 0
    }
}
