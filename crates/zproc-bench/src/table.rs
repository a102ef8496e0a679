//! Goals, what was measured, and the table of both.

use std::fmt;

use crate::rounds::{Comparison, Spread};

/// What must hold.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// So many times the reference at most.
    AtMost(f64),
    /// So many times the reference at least.
    AtLeast(f64),
    /// This figure at most.
    FigureAtMost(f64),
}

/// What figures are.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    /// Events a second.
    Rate,
    /// Bytes a key.
    Bytes,
    /// How often something happened.
    Count,
}

/// A goal of the project.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The work that is measured.
    pub work: &'static str,
    /// What must hold.
    pub limit: Limit,
    /// What it is compared with.
    pub reference: &'static str,
    /// What the figures are.
    pub unit: Unit,
}

/// What was measured of one goal.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The figure of ours.
    pub figure: f64,
    /// That of the reference and the ratios, where there is one.
    pub against: Option<(f64, Option<Spread>)>,
    /// What else there is to know.
    pub note: String,
}

impl From<Comparison> for Measured {
    fn from(comparison: Comparison) -> Self {
        let Comparison { ours, reference, ratio } = comparison;
        Self {
            figure: ours,
            against: Some((reference, Some(ratio))),
            note: String::new(),
        }
    }
}

impl Measured {
    /// A figure without a reference.
    pub fn figure(figure: f64) -> Self {
        Self {
            figure,
            against: None,
            note: String::new(),
        }
    }

    /// A count beside that of the reference, of which there is no ratio.
    pub fn against_count(figure: f64, reference: f64) -> Self {
        Self {
            against: Some((reference, None)),
            ..Self::figure(figure)
        }
    }

    /// With a note beside it.
    #[must_use]
    pub fn with_note(mut self, note: String) -> Self {
        self.note = note;
        self
    }
}

impl Goal {
    /// Whether it was met.
    pub fn is_met(&self, measured: &Measured) -> bool {
        let ratio = measured.against.and_then(|(_, ratio)| ratio);
        let ratio = ratio.map_or(f64::NAN, |ratio| ratio.median);
        match self.limit {
            Limit::AtMost(limit) => ratio <= limit,
            Limit::AtLeast(limit) => ratio >= limit,
            Limit::FigureAtMost(limit) => measured.figure <= limit,
        }
    }

    fn show(&self, figure: f64) -> String {
        match self.unit {
            Unit::Time => Time(figure).to_string(),
            Unit::Rate => format!("{:.2} M/s", figure / 1e6),
            Unit::Bytes => format!("{figure:.1} B/key"),
            Unit::Count => format!("{figure:.0}"),
        }
    }

    fn must(&self) -> String {
        match self.limit {
            Limit::AtMost(limit) => format!("≤ {limit} × {}", self.reference),
            Limit::AtLeast(limit) => format!("≥ {limit} × {}", self.reference),
            Limit::FigureAtMost(limit) if self.reference.is_empty() => format!("≤ {}", self.show(limit)),
            Limit::FigureAtMost(limit) => format!("≤ {}, beside {}", self.show(limit), self.reference),
        }
    }
}

/// The line above the rows.
pub fn head() -> String {
    line(["work", "goal", "figure", "reference", "ratio (p10–p90)", "verdict", ""])
}

/// The row of a goal.
pub fn row(goal: &Goal, measured: &Measured) -> String {
    let reference = measured
        .against
        .map_or("–".into(), |(reference, _)| goal.show(reference));
    let ratio = measured.against.and_then(|(_, ratio)| ratio);
    let ratio = ratio.map_or("–".into(), |Spread { p10, median, p90 }| {
        format!("{median:.2} ({p10:.2}–{p90:.2})")
    });
    let verdict = if goal.is_met(measured) { "met" } else { "MISSED" };
    line([
        goal.work,
        &goal.must(),
        &goal.show(measured.figure),
        &reference,
        &ratio,
        verdict,
        &measured.note,
    ])
}

fn line([work, must, figure, reference, ratio, verdict, note]: [&str; 7]) -> String {
    let line = format!("{work:<44} {must:<38} {figure:>11} {reference:>11}  {ratio:<19} {verdict:<7} {note}");
    line.trim_end().to_owned()
}

/// Nanoseconds, shown in a unit that suits them.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ns if ns < 1e3 => write!(f, "{ns:.1} ns"),
            ns if ns < 1e6 => write!(f, "{:.2} µs", ns / 1e3),
            ns => write!(f, "{:.2} ms", ns / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_visible() {
        let goal = Goal {
            work: "get",
            limit: Limit::AtMost(1.5),
            reference: "HashMap::get",
            unit: Unit::Time,
        };
        let with = |ratio| {
            let ratio = Spread {
                p10: ratio,
                median: ratio,
                p90: ratio,
            };
            Measured {
                figure: 1500.0,
                against: Some((1000.0, Some(ratio))),
                note: String::new(),
            }
        };
        assert!(
            row(&goal, &with(1.5)).ends_with("1.50 (1.50–1.50)    met"),
            "{}",
            row(&goal, &with(1.5))
        );
        assert!(row(&goal, &with(1.6)).contains("MISSED"));
        assert!(row(&goal, &with(f64::NAN)).contains("MISSED"));
        assert!(row(&goal, &with(1.5)).contains("≤ 1.5 × HashMap::get"));
    }
}
