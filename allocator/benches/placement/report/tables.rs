//! The tables, as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{OURS, Report};

/// Policies of the paper, in its order.
const PUBLISHED: [&str; 6] = ["Random", "DotProd", "GpuClustering", "GpuPacking", "BestFit", "FGD"];

fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn head(text: &mut String, cells: &[&str]) {
    row(text, cells.iter().map(|c| (*c).to_owned()));
    let _ = writeln!(text, "|{}", "---|".repeat(cells.len()));
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"))
}

fn points(at: Option<[f64; 4]>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.map(|v| format!("{v:.2}")).join(" / "))
}

impl Report<'_> {
    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        self.arrivals_table(&mut text);
        self.published_table(&mut text);
        self.two_table(&mut text);
        self.churn_table(&mut text);
        text
    }

    fn arrivals_table(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n### Arrivals only\n\nPercent of the GPUs allocated when the demand that arrived is 90 / 95 / 100 / 130 % of them, mean of {} \
             seeds.\n\n![Allocation at 100 % demand](placement.svg)\n\n",
            self.seeds
        );
        head(text, &["trace", "FGD, published", OURS, "difference at 100 %", "bound at 100 %"]);
        for trace in self.traces.pods.keys() {
            let (Some(ours), fgd) = (self.ours(trace, OURS), self.published(trace, "FGD")) else { continue };
            let gain = fgd.map_or_else(|| "-".to_owned(), |fgd| format!("{:+.2}", ours[2] - fgd[2]));
            let bound = number(self.traces.bounds.get(trace).copied());
            row(text, [trace.clone(), points(fgd), points(Some(ours)), gain, bound]);
        }
        if let Some((ours, fgd)) = self.means() {
            let gain = format!("{:+.2}", ours[2] - fgd[2]);
            row(text, ["**mean**".to_owned(), points(Some(fgd)), points(Some(ours)), gain, "-".to_owned()]);
        }
    }

    fn published_table(&self, text: &mut String) {
        *text += "\n### Every policy at 100 % demand\n\nThe paper's policies as published, this engine's beside them.\n\n";
        let own: BTreeSet<&String> =
            self.arrivals.keys().map(|(_, policy)| policy).filter(|p| *p != "FGD").collect();
        let mut cells = vec!["trace"];
        cells.extend(PUBLISHED);
        cells.extend(own.iter().map(|p| p.as_str()));
        head(text, &cells);
        for trace in self.traces.pods.keys().filter(|t| own.iter().any(|p| self.ours(t, p).is_some())) {
            let published = PUBLISHED.map(|p| number(self.published(trace, p).map(|at| at[2])));
            let ours = own.iter().map(|p| number(self.ours(trace, p).map(|at| at[2])));
            row(text, [trace.clone()].into_iter().chain(published).chain(ours));
        }
    }

    fn two_table(&self, text: &mut String) {
        let traces: BTreeSet<&String> = self.two.keys().map(|(trace, _)| trace).collect();
        if traces.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\n### Memory and cores\n\nThe same with cores of their own: the share's percent times a lognormal (0, 0.3), drawn per pod, up to the next ten. Mean of \
             allocated memory and cores at 100 % demand, {} seeds. FGD is the bench's own (`allocator/benches/placement/fgd.rs`); it \
             knows the trace, and a GPU short of either is a fragment to it.\n\n",
            self.few
        );
        let policies = ["FGD", OURS, "Binpack", "Spread"];
        head(text, &["trace", policies[0], policies[1], policies[2], policies[3]]);
        for trace in traces {
            let at = |p: &str| number(self.two.get(&(trace.clone(), p.to_owned())).map(|at| at[2]));
            row(text, [trace.clone()].into_iter().chain(policies.map(at)));
        }
    }

    fn churn_table(&self, text: &mut String) {
        let traces: BTreeSet<&String> = self.churned.keys().map(|(trace, _)| trace).collect();
        if traces.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\n### With departures\n\nPoisson arrivals, exponential lifetimes, 95 % load, two mean lifetimes before measuring and two measured, {} \
             seeds. Percent of the GPU time asked for that was refused: less is better. FGD is the bench's own.\n\n",
            self.few
        );
        let policies = ["FGD", OURS, "Binpack"];
        head(text, &["trace", policies[0], policies[1], policies[2]]);
        for trace in traces {
            let at = |p: &str| number(self.churned.get(&(trace.clone(), p.to_owned())).copied());
            row(text, [trace.clone()].into_iter().chain(policies.map(at)));
        }
    }
}
