//! The table, the plot and the JSON of a run.

mod plot;
mod tables;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::trace::Traces;
use crate::{POINTS, Results};

/// How far below published FGD a trace may be at each point.
const SLACK: [f64; 4] = [0.75, 0.75, 0.15, 0.15];
/// How far above it the mean has to be at 100 %.
const MARGIN: f64 = 1.0;
const OURS: &str = "LeastFragmentation";
/// Between these lines of `placement.md` stands what a run found; the rest is written by hand.
const MARKS: [&str; 2] = ["<!-- measured: begin -->", "<!-- measured: end -->"];

pub(crate) struct Report<'a> {
    pub(crate) traces: &'a Traces,
    pub(crate) arrivals: Results,
    pub(crate) two: Results,
    pub(crate) churned: BTreeMap<(String, String), f64>,
    pub(crate) seeds: u64,
    pub(crate) few: u64,
}

fn metric(value: f64, baseline: Option<f64>, goal: Option<f64>, at_least: bool) -> Value {
    let ok = goal.map(|goal| if at_least { value >= goal } else { value <= goal });
    json!({"value": value, "unit": "%", "baseline": baseline, "goal": goal, "ok": ok})
}

impl Report<'_> {
    fn published(&self, trace: &str, policy: &str) -> Option<[f64; 4]> {
        self.traces.published.get(&(trace.to_owned(), policy.to_owned())).copied()
    }

    fn ours(&self, trace: &str, policy: &str) -> Option<[f64; 4]> {
        self.arrivals.get(&(trace.to_owned(), policy.to_owned())).copied()
    }

    /// Means of ours and of published FGD, over traces that have both.
    fn means(&self) -> Option<([f64; 4], [f64; 4])> {
        let both: Vec<_> = (self.traces.pods.keys())
            .filter_map(|trace| Some((self.ours(trace, OURS)?, self.published(trace, "FGD")?)))
            .collect();
        let mean = |side: Vec<[f64; 4]>| -> [f64; 4] {
            std::array::from_fn(|i| side.iter().map(|at| at[i]).sum::<f64>() / side.len() as f64)
        };
        let (ours, fgd): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        (!ours.is_empty()).then(|| (mean(ours), mean(fgd)))
    }

    /// Metrics by name. Allocation is better when it is more, refusals when they are fewer; each goal says so by `ok`.
    pub(crate) fn json(&self) -> Value {
        let mut metrics = Map::new();
        for ((trace, policy), at) in &self.arrivals {
            let rival = match policy.as_str() {
                OURS | "FGD" => self.published(trace, "FGD"),
                "Binpack" => self.published(trace, "BestFit"),
                _ => None,
            };
            for (i, point) in POINTS.iter().enumerate() {
                let goal = match policy.as_str() {
                    OURS => rival.map(|r| r[i] - SLACK[i]),
                    "Binpack" => rival.map(|r| r[i]).filter(|_| *point == 100),
                    _ => None,
                };
                let name = format!("{trace}.{policy}.at_{point}");
                metrics.insert(name, metric(at[i], rival.map(|r| r[i]), goal, true));
            }
        }
        if let Some((ours, fgd)) = self.means() {
            let goal = Some(fgd[2] + MARGIN);
            metrics.insert(format!("mean.{OURS}.at_100"), metric(ours[2], Some(fgd[2]), goal, true));
        }
        for ((trace, policy), at) in &self.two {
            let rival = self.two.get(&(trace.clone(), "FGD".to_owned())).map(|r| r[2]);
            let name = format!("{trace}.{policy}.two_dimensional_at_100");
            metrics.insert(name, metric(at[2], rival, rival.filter(|_| policy == OURS), true));
        }
        for ((trace, policy), refused) in &self.churned {
            let rival = self.churned.get(&(trace.clone(), "FGD".to_owned())).copied();
            let name = format!("{trace}.{policy}.refused_with_departures");
            metrics.insert(name, metric(*refused, rival, rival.filter(|_| policy == OURS), false));
        }
        Value::Object(metrics)
    }

    /// Puts the tables between the marks of `placement.md`, and the plot beside it.
    pub(crate) fn write(&self, folder: &Path) {
        let page = folder.join("placement.md");
        let text =
            std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("cannot read {}: {e}", page.display()));
        let parts =
            text.split_once(MARKS[0]).and_then(|(head, rest)| Some((head, rest.split_once(MARKS[1])?.1)));
        let (head, tail) = parts.unwrap_or_else(|| panic!("{} lacks the lines {MARKS:?}", page.display()));
        let text = format!("{head}{}\n{}{}{tail}", MARKS[0], self.tables(), MARKS[1]);
        for (path, text) in [(page, text), (folder.join("placement.svg"), self.plot())] {
            std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        }
    }
}
