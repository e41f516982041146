//! The plot: bars at 100 % demand, from 60 %.

use std::fmt::Write;

use super::{OURS, Report};

/// Policies with their colours; the first two are published.
const BARS: [(&str, &str); 4] =
    [("BestFit", "#b8b8b8"), ("FGD", "#7a7a7a"), ("Binpack", "#86b6e0"), (OURS, "#1f6fb2")];
const WIDE: usize = 70;
const HIGH: f64 = 320.0;
/// Height of a percentage in the picture.
fn y(percent: f64) -> f64 {
    20.0 + (100.0 - percent.max(60.0)) / 40.0 * 240.0
}

impl Report<'_> {
    pub(super) fn plot(&self) -> String {
        let traces: Vec<&String> = self.traces.pods.keys().filter(|t| self.ours(t, OURS).is_some()).collect();
        let wide = (60 + traces.len() * WIDE).max(46 + BARS.len() * 150);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {HIGH}\" font-family=\"sans-serif\" font-size=\"10\">\n\
             <rect width=\"{wide}\" height=\"{HIGH}\" fill=\"white\"/>\n"
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
            let left = 46 + n * WIDE;
            for (b, (policy, color)) in BARS.iter().enumerate() {
                let at = if b < 2 { self.published(trace, policy) } else { self.ours(trace, policy) };
                let Some([_, _, at, _]) = at else { continue };
                let _ = writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{:.1}\" width=\"13\" height=\"{:.1}\" fill=\"{color}\"><title>{policy} {at:.2}</title></rect>",
                    left + b * 14,
                    y(at),
                    y(60.0) - y(at),
                );
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
