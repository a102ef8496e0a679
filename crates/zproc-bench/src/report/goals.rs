//! The goals of benches/goals.toml.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::OURS;
use crate::rounds::Spread;
use crate::workloads::{Group, Unit};

/// A ratio that must hold between ours and a rival, in one run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// The workload.
    pub group: String,
    /// The run of it.
    pub column: String,
    /// Whom ours is compared with.
    pub rival: String,
    /// So many times better than the rival, at least; less than one allows it to be worse.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// So many times the rival's figure, at most.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// What is behind it, if that is not plain.
    #[serde(default)]
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    goal: Vec<Goal>,
}

/// Reads the goals.
pub fn read(path: &Path) -> Result<Vec<Goal>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Goal>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    for goal in &file.goal {
        if goal.at_least.is_some() == goal.at_most.is_some() {
            return Err(format!("goal {goal}: either at_least or at_most"));
        }
    }
    Ok(file.goal)
}

/// What was measured of a goal.
#[derive(Clone, Debug)]
pub struct Verdict<'g> {
    /// The goal.
    pub goal: &'g Goal,
    /// What the figures are.
    pub unit: Unit,
    /// The figure of ours, and the rival's.
    pub figures: (f64, f64),
    /// How many times better ours was.
    pub times_better: Spread,
}

impl Goal {
    /// Judges, if both took part in what was measured.
    pub fn judge<'g>(&'g self, groups: &[Group]) -> Option<Verdict<'g>> {
        let group = groups.iter().find(|group| group.id == self.group)?;
        let column = group.columns.iter().find(|column| column.name == self.column)?;
        let figure = |name: &str| Some(column.line(name)?.spread()?.median);
        Some(Verdict {
            goal: self,
            unit: group.unit,
            figures: (figure(OURS)?, figure(&self.rival)?),
            times_better: column.times_better(group.unit, OURS, &self.rival)?,
        })
    }

    /// What must hold, as text.
    pub fn limit(&self) -> String {
        match (self.at_least, self.at_most) {
            (Some(times), _) => format!("≥ {times} × better"),
            (_, Some(times)) => format!("≤ {times} × its figure"),
            _ => String::new(),
        }
    }
}

/// What came of each goal, and those that say nothing: the rival was not there, or their column was not measured.
pub fn judge_all<'g>(goals: &'g [Goal], groups: &[Group]) -> (Vec<Verdict<'g>>, Vec<&'g Goal>) {
    let judged = |goal: &'g Goal| goal.judge(groups).ok_or(goal);
    let (verdicts, unjudged): (Vec<_>, Vec<_>) = goals.iter().map(judged).partition(Result::is_ok);
    (
        verdicts.into_iter().flatten().collect(),
        unjudged.into_iter().filter_map(Result::err).collect(),
    )
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}: {} than {}",
            self.group,
            self.column,
            self.limit(),
            self.rival
        )
    }
}

impl Verdict<'_> {
    /// Whether the goal is met, or missed by no more than this factor.
    pub fn is_within(&self, factor: f64) -> bool {
        let times_better = self.times_better.median;
        let least = self.goal.at_least.or(self.goal.at_most.map(|most| 1.0 / most));
        least.is_some_and(|least| times_better * factor >= least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::{Column, Line};

    fn group(ours: f64, theirs: f64) -> Group {
        let line = |name, figure| Line {
            name,
            rounds: Ok(vec![figure]),
            events_ns: Vec::new(),
            note: String::new(),
        };
        Group {
            id: "get",
            title: "",
            text: String::new(),
            unit: Unit::Time,
            columns: vec![Column {
                name: "1,000 keys".into(),
                x: 0.0,
                lines: vec![line(OURS, ours), line("LMDB", theirs)],
                one_way_ns: None,
                discarded: 0,
                by_turns: true,
            }],
        }
    }

    fn goal(limit: &str) -> Vec<Goal> {
        let text = format!("[[goal]]\ngroup='get'\ncolumn='1,000 keys'\nrival='LMDB'\n{limit}\n");
        parse(&text).unwrap()
    }

    #[test]
    fn a_goal_is_missed_on_the_wrong_side_of_its_limit() {
        let met = |limit: &str, ours, factor| goal(limit)[0].judge(&[group(ours, 100.0)]).unwrap().is_within(factor);
        assert!(met("at_least = 5", 20.0, 1.0));
        assert!(!met("at_least = 5", 21.0, 1.0));
        assert!(met("at_least = 5", 40.0, 2.0));
        assert!(!met("at_least = 5", 41.0, 2.0));
        assert!(met("at_most = 1.5", 150.0, 1.0));
        assert!(!met("at_most = 1.5", 151.0, 1.0));
    }

    #[test]
    fn a_goal_without_its_rival_is_not_judged() {
        let mut without = group(1.0, 1.0);
        without.columns[0].lines[1].rounds = Err("is not installed".into());
        assert!(goal("at_least = 5")[0].judge(&[without]).is_none());
        assert!(goal("at_least = 5")[0].judge(&[]).is_none());
    }

    #[test]
    fn the_files_goals_can_be_read_and_name_what_there_is() {
        let goals = read(&super::super::root().join("benches/goals.toml")).unwrap();
        assert!(!goals.is_empty());
        let ids: Vec<&str> = crate::workloads::WORKLOADS.iter().map(|workload| workload.id).collect();
        assert!(goals.iter().all(|goal| ids.contains(&goal.group.as_str())), "{goals:?}");
    }

    #[test]
    fn a_goal_has_one_limit() {
        assert!(parse("[[goal]]\ngroup='get'\ncolumn='c'\nrival='r'\n").is_err());
        assert!(parse("[[goal]]\ngroup='get'\ncolumn='c'\nrival='r'\nat_least=1\nat_most=1\n").is_err());
        assert!(parse("[[goal]]\ngroup='get'\ncolumn='c'\nrival='r'\nat_lest=1\n").is_err());
    }
}
