//! The table, the plot and the JSON of a run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::trace::Traces;
use crate::{POINTS, Results};

/// Upper bound of the mean allocation at 100 %, by trace: a linear relaxation per trace and seed (three seeds, HiGHS) that
/// may refuse any pod with GPUs. Computed once outside this repository, for its own draws of the traces.
const BOUNDS: [(&str, f64); 13] = [
    ("default", 96.79),
    ("cpu050", 96.92),
    ("cpu100", 96.87),
    ("cpu200", 96.93),
    ("gpushare60", 93.37),
    ("gpushare80", 91.35),
    ("gpushare100", 89.15),
    ("multigpu20", 97.29),
    ("multigpu40", 97.98),
    ("multigpu50", 98.34),
    ("gpuspec10", 96.76),
    ("gpuspec20", 96.79),
    ("gpuspec33", 96.22),
];
/// How far below published FGD a trace may be at each point.
const SLACK: [f64; 4] = [0.75, 0.75, 0.15, 0.15];
/// How far above it the mean has to be at 100 %.
const MARGIN: f64 = 1.0;
const OURS: &str = "LeastFragmentation";

pub(crate) struct Report<'a> {
    pub(crate) traces: &'a Traces,
    pub(crate) arrivals: Results,
    pub(crate) two: Results,
    pub(crate) churned: BTreeMap<(String, String), f64>,
    pub(crate) seeds: u64,
}

fn metric(value: f64, baseline: Option<f64>, goal: Option<f64>, at_least: bool) -> Value {
    let ok = goal.map(|goal| if at_least { value >= goal } else { value <= goal });
    json!({"value": value, "unit": "%", "baseline": baseline, "goal": goal, "ok": ok})
}

impl Report<'_> {
    fn published(&self, trace: &str, policy: &str) -> Option<[f64; 4]> {
        self.traces.published.get(&(trace.to_owned(), policy.to_owned())).copied()
    }

    /// Mean of ours and of published FGD at 100 %, over traces that have both.
    fn means(&self) -> Option<(f64, f64)> {
        let both = self.arrivals.iter().filter(|((_, policy), _)| policy == OURS);
        let both: Vec<(f64, f64)> =
            both.filter_map(|((trace, _), at)| Some((at[2], self.published(trace, "FGD")?[2]))).collect();
        let mean = |part: fn(&(f64, f64)) -> f64| both.iter().map(part).sum::<f64>() / both.len() as f64;
        (!both.is_empty()).then(|| (mean(|b| b.0), mean(|b| b.1)))
    }

    /// Metrics by name.
    pub(crate) fn json(&self) -> Value {
        let mut metrics = Map::new();
        for ((trace, policy), at) in &self.arrivals {
            let rival = match policy.as_str() {
                OURS => self.published(trace, "FGD"),
                "Binpack" => self.published(trace, "BestFit"),
                "FGD" => self.published(trace, "FGD"),
                _ => None,
            };
            for (i, point) in POINTS.iter().enumerate() {
                let goal =
                    rival.map(|rival| rival[i]).filter(|_| policy == OURS || (policy == "Binpack" && i == 2));
                let goal = goal.map(|g| if policy == OURS { g - SLACK[i] } else { g });
                metrics.insert(
                    format!("{trace}.{policy}.at_{point}"),
                    metric(at[i], rival.map(|r| r[i]), goal, true),
                );
            }
        }
        if let Some((ours, fgd)) = self.means() {
            metrics.insert(format!("mean.{OURS}.at_100"), metric(ours, Some(fgd), Some(fgd + MARGIN), true));
        }
        for ((trace, policy), at) in &self.two {
            let rival = self.two.get(&(trace.clone(), "FGD".to_owned())).map(|r| r[2]);
            let goal = rival.filter(|_| policy == OURS);
            metrics
                .insert(format!("{trace}.{policy}.two_dimensional_at_100"), metric(at[2], rival, goal, true));
        }
        for ((trace, policy), refused) in &self.churned {
            let rival = self.churned.get(&(trace.clone(), "FGD".to_owned())).copied();
            let goal = rival.filter(|_| policy == OURS);
            metrics.insert(
                format!("{trace}.{policy}.refused_with_departures"),
                metric(*refused, rival, goal, false),
            );
        }
        Value::Object(metrics)
    }

    /// `placement.md` and `placement.svg`.
    pub(crate) fn write(&self, folder: &Path) {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        };
        write("placement.md", self.markdown());
        write("placement.svg", self.svg());
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# Placement\n\nWritten by `cargo xtask bench placement --write`; do not edit. GPU allocation in percent of the cluster \
             when the demand that arrived is 90 / 95 / 100 / 130 % of it: mean of {} seeds (42 ..). \"Beware of Fragmentation\" \
             (FGD, USENIX ATC'23) published the protocol, the traces and the columns marked p. Nodes are in the order of the \
             file; ties go to the first node, then the first GPU. What does not fit is not tried again, and what fits is \
             placed. The policies know neither the traces nor their statistics: LeastFragmentation learns while it runs.\n\n\
             ![Allocation at 100 % demand](placement.svg)\n\n",
            self.seeds
        );
        let policies = ["LeastFragmentation", "Binpack", "Spread"];
        text += "| trace | FGD p | LeastFragmentation | +/- at 100 % | BestFit p | Binpack | Spread | bound at 100 % |\n|---|---|---|---|---|---|---|---|\n";
        let points =
            |at: Option<[f64; 4]>| at.map_or("-".to_owned(), |at| at.map(|v| format!("{v:.2}")).join(" / "));
        for trace in self.traces.pods.keys() {
            let ours = |policy: &str| self.arrivals.get(&(trace.clone(), policy.to_owned())).copied();
            let Some(least) = ours(policies[0]) else { continue };
            let fgd = self.published(trace, "FGD");
            let gain = fgd.map_or("-".to_owned(), |fgd| format!("{:+.2}", least[2] - fgd[2]));
            let bound =
                BOUNDS.iter().find(|b| b.0 == trace).map_or("-".to_owned(), |b| format!("{:.2}", b.1));
            let _ = writeln!(
                text,
                "| {trace} | {} | {} | {gain} | {} | {} | {} | {bound} |",
                points(fgd),
                points(Some(least)),
                points(self.published(trace, "BestFit")),
                points(ours("Binpack")),
                points(ours("Spread"))
            );
        }
        if let Some((ours, fgd)) = self.means() {
            let _ = writeln!(text, "\nMean at 100 %: {ours:.2}, published FGD {fgd:.2}: {:+.2}.", ours - fgd);
        }
        text += "\nThe bound is a linear relaxation (nodes of one shape pooled, one-GPU patterns exact, any pod may be refused), computed once \
                 outside this repository with HiGHS on three draws; no policy that places whatever fits will quite reach it.\n";
        let seeds = self.seeds.min(3);
        let _ = write!(
            text,
            "\n## Memory and cores\n\nThe same with cores of their own: the share's percent times a lognormal (0, 0.3), drawn per pod. Mean of memory and \
             cores at 100 % demand, {seeds} seeds. FGD is our own implementation (`allocator/benches/placement/fgd.rs`) and \
             knows the trace; a GPU short of either is a fragment to it.\n\n| trace | FGD | LeastFragmentation | Binpack | Spread |\n|---|---|---|---|---|\n"
        );
        let traces = |results: Vec<&(String, String)>| {
            results.into_iter().map(|r| r.0.clone()).collect::<std::collections::BTreeSet<_>>()
        };
        for trace in traces(self.two.keys().collect()) {
            let at = |p: &str| {
                self.two
                    .get(&(trace.clone(), p.to_owned()))
                    .map_or("-".to_owned(), |a| format!("{:.2}", a[2]))
            };
            let _ = writeln!(
                text,
                "| {trace} | {} | {} | {} | {} |",
                at("FGD"),
                at(OURS),
                at("Binpack"),
                at("Spread")
            );
        }
        let _ = write!(
            text,
            "\n## With departures\n\nPoisson arrivals, exponential lifetimes, 95 % load, two lifetimes before measuring and two measured, {seeds} seeds. \
             Percent of the GPU time asked for that was refused; less is better.\n\n| trace | FGD | LeastFragmentation | Binpack |\n|---|---|---|---|\n"
        );
        for trace in traces(self.churned.keys().collect()) {
            let at = |p: &str| {
                self.churned.get(&(trace.clone(), p.to_owned())).map_or("-".to_owned(), |r| format!("{r:.2}"))
            };
            let _ = writeln!(text, "| {trace} | {} | {} | {} |", at("FGD"), at(OURS), at("Binpack"));
        }
        text
    }

    /// Bars at 100 % demand, from 60 %.
    fn svg(&self) -> String {
        const BARS: [(&str, &str); 4] =
            [("BestFit", "#b8b8b8"), ("FGD", "#7a7a7a"), ("Binpack", "#86b6e0"), (OURS, "#1f6fb2")];
        let traces: Vec<&String> = self
            .traces
            .pods
            .keys()
            .filter(|t| self.arrivals.contains_key(&((*t).clone(), OURS.to_owned())))
            .collect();
        let (wide, high) = (60 + traces.len() * 70, 320.0);
        let y = |percent: f64| 20.0 + (100.0 - percent.max(60.0)) / 40.0 * 240.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" font-family=\"sans-serif\" font-size=\"10\">\n\
             <rect width=\"{wide}\" height=\"{high}\" fill=\"white\"/>\n"
        );
        for percent in [60, 70, 80, 90, 100] {
            let at = y(percent.into());
            let _ = writeln!(
                svg,
                "<line x1=\"40\" x2=\"{wide}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"10\" y=\"{}\">{percent} %</text>",
                at + 3.0
            );
        }
        for (n, trace) in traces.iter().enumerate() {
            let left = 46 + n * 70;
            for (b, (policy, color)) in BARS.iter().enumerate() {
                let published = self.published(trace, policy).filter(|_| b < 2);
                let at = published
                    .or_else(|| self.arrivals.get(&((*trace).clone(), (*policy).to_owned())).copied());
                if let Some(at) = at {
                    let top = y(at[2]);
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{}\" y=\"{top:.1}\" width=\"13\" height=\"{:.1}\" fill=\"{color}\"><title>{policy} {:.2}</title></rect>",
                        left + b * 14,
                        260.0 - top,
                        at[2]
                    );
                }
            }
            let _ = writeln!(svg, "<text x=\"{left}\" y=\"274\">{trace}</text>");
        }
        for (b, (policy, color)) in BARS.iter().enumerate() {
            let x = 46 + b * 150;
            let source = if b < 2 { " (published)" } else { "" };
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"290\" width=\"12\" height=\"12\" fill=\"{color}\"/><text x=\"{}\" y=\"300\">{policy}{source}</text>",
                x + 16
            );
        }
        svg + "</svg>\n"
    }
}
