//! What an evaluation costs, and where it ends.

use std::collections::HashSet;

use super::value::{Cause, Value};

/// `CELSelectorExpressionMaxCost`
const COST: u64 = 1_000_000;

/// What an evaluation may still spend.
#[derive(Debug)]
pub(super) struct Meter {
    left: u64,
    /// Regular expressions already paid for.
    patterns: HashSet<String>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { left: COST, patterns: HashSet::new() }
    }
}

impl Meter {
    /// Whether a regular expression comes up for the first time.
    pub(super) fn is_new(&mut self, pattern: &str) -> bool {
        !self.patterns.contains(pattern) && self.patterns.insert(pattern.to_owned())
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
