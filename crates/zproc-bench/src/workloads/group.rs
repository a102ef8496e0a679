//! What came of a workload.

use crate::rounds::Spread;
use crate::table::Time;

/// What figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds; less is better.
    Time,
    /// Events a second; more is better.
    Rate,
    /// Bytes; less is better.
    Bytes,
}

impl Unit {
    /// A figure as text.
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::Time => Time(figure).to_string(),
            Self::Rate if figure >= 1e6 => format!("{:.2} M/s", figure / 1e6),
            Self::Rate => format!("{:.1} k/s", figure / 1e3),
            Self::Bytes => format!("{figure:.0} B"),
        }
    }

    /// How many times better `ours` is than `theirs`.
    pub fn times_better(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Time | Self::Bytes => theirs / ours,
            Self::Rate => ours / theirs,
        }
    }
}

/// A rival in a column.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is called.
    pub name: &'static str,
    /// One number of each round, or why there is none.
    pub rounds: Result<Vec<f64>, String>,
    /// Every single event in nanoseconds, where the distribution is of interest.
    pub events_ns: Vec<u64>,
    /// What else there is to say.
    pub note: String,
}

impl Line {
    /// Where the numbers lie, if there are any.
    pub fn spread(&self) -> Option<Spread> {
        let rounds = self.rounds.as_ref().ok()?;
        (!rounds.is_empty()).then(|| Spread::of(rounds.clone()))
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Column {
    /// What was the same for all.
    pub name: String,
    /// That as a number, where it is one.
    pub x: f64,
    /// One for each rival.
    pub lines: Vec<Line>,
    /// How long a cache line took from core to core, before and after each round, if more than one process took part.
    pub one_way_ns: Option<Spread>,
    /// Rounds that were taken again because that changed.
    pub discarded: usize,
    /// Whether the rivals took turns, so that what they share is what rounds of one number share.
    pub by_turns: bool,
}

impl Column {
    /// The line of a rival.
    pub fn line(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == name)
    }

    /// How many times better `ours` is than `theirs`, round by round; or by their medians, if they did not take turns.
    pub fn times_better(&self, unit: Unit, ours: &str, theirs: &str) -> Option<Spread> {
        let rounds = |name| self.line(name)?.rounds.as_ref().ok();
        let (ours, theirs) = (rounds(ours)?, rounds(theirs)?);
        if !self.by_turns {
            let median = |rounds: &Vec<f64>| (!rounds.is_empty()).then(|| Spread::of(rounds.clone()).median);
            return Some(Spread::of(vec![unit.times_better(median(ours)?, median(theirs)?)]));
        }
        let ratios = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| unit.times_better(*ours, *theirs));
        let ratios: Vec<f64> = ratios.collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }
}

/// A workload's runs.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is called in goals and files.
    pub id: &'static str,
    /// What it is called for people.
    pub title: &'static str,
    /// What is done, and what the figures are.
    pub text: String,
    /// What the figures are.
    pub unit: Unit,
    /// One for each run.
    pub columns: Vec<Column>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &'static str, rounds: &[f64]) -> Line {
        Line {
            name,
            rounds: Ok(rounds.to_vec()),
            events_ns: Vec::new(),
            note: String::new(),
        }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_above_one_where_ours_is_better() {
        let mut column = Column {
            name: String::new(),
            x: 0.0,
            lines: vec![line("ours", &[1.0, 10.0, 100.0]), line("theirs", &[2.0, 20.0, 200.0])],
            one_way_ns: None,
            discarded: 0,
            by_turns: true,
        };
        let ratio = |column: &Column, unit| {
            column
                .times_better(unit, "ours", "theirs")
                .map(|spread| (spread.p10, spread.p90))
        };
        assert_eq!(ratio(&column, Unit::Time), Some((2.0, 2.0)));
        assert_eq!(ratio(&column, Unit::Rate), Some((0.5, 0.5)));
        assert_eq!(column.times_better(Unit::Time, "ours", "nobody"), None);
        // Nothing but their medians belongs together.
        column.by_turns = false;
        column.lines[1].rounds = Ok(vec![200.0, 2.0, 20.0]);
        assert_eq!(ratio(&column, Unit::Time), Some((2.0, 2.0)));
    }
}
