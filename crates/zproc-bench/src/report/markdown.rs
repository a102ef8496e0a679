//! docs/benchmarks.md.

use std::fmt::Write;

use super::goals::{Goal, Verdict, judge_all};
use super::{OURS, machine};
use crate::quantiles::Quantiles;
use crate::rounds::Spread;
use crate::workloads::{Column, Group, Unit};

const HEAD: &str = "\
# Benchmarks

<!-- Written by `cargo run --release -p zproc-bench --features rivals -- report`; changes are lost with the next run. -->

zproc beside what could be taken instead of it, on one machine, in one run. The workloads are the same code for all of
them, through one trait (`crates/zproc-bench/src/rivals`); where it says –, a rival cannot do the work, and the reason is
below the table.

- **ZMQ faithful** is the design of the Python library zproc in Rust with libzmq: a server process owns the dict, and each
  message carries the whole of it. **ZMQ improved** sends only what was asked for or changed.
- **LMDB** is told to forget about durability, and lies in memory. **iceoryx2**: blackboard, publish-subscribe, events.
  **Redis** answers over a Unix socket. **segment + mutex** is what one would write by hand. `RwLock<HashMap>` and
  `DashMap` live in one process.
- Processes are pinned to a CPU each; servers to that of the process that made the dict, where they answer soonest. All
  take turns within a round, in an order drawn anew for each; but for the slow watcher, the killed writer and memory, which
  are measured one rival after the other.
  A figure is the median of its rounds, a ratio the median of the rounds' ratios; the 10th and the 90th percentile are
  behind it or below the table. Between processes, rounds are taken again in which the time that a cache line takes from core to
  core changed by half or more, unless the machine does not settle down.
- Where zproc is worse than a rival, the tables say so. Raw samples are left in `target/zproc-bench/`.
";

/// The page.
pub fn page(groups: &[Group], goals: &[Goal]) -> String {
    let mut text = format!(
        "{HEAD}\n{}\n\n## Goals\n\n{}",
        machine::describe(),
        verdicts(groups, goals)
    );
    for group in groups {
        text += &self::group(group);
        for (file, what) in plots_of(group.id) {
            let _ = writeln!(text, "![{what}](benchmarks/{file})\n");
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn plots_of(id: &str) -> &'static [(&'static str, &'static str)] {
    match id {
        "get" => &[("get-by-keys.svg", "get by number of keys")],
        "set" => &[("set-by-keys.svg", "set by number of keys")],
        "get by size" => &[("get-by-size.svg", "get by size of the value")],
        "set by size" => &[("set-by-size.svg", "set by size of the value")],
        "notify" => &[
            ("latency-asleep.svg", "how long sleeping watchers took"),
            ("latency-spinning.svg", "how long spinning watchers took"),
        ],
        "watchers" => &[("watchers.svg", "waking many")],
        "control loop" => &[
            ("jitter-1khz.svg", "jitter at 1 kHz"),
            ("jitter-10khz.svg", "jitter at 10 kHz"),
        ],
        _ => &[],
    }
}

/// All goals: those that could be judged, and those that could not.
pub fn verdicts(groups: &[Group], goals: &[Goal]) -> String {
    let (verdicts, unjudged) = judge_all(goals, groups);
    let unjudged = unjudged.iter().map(|goal| format!("\n- Not judged: {goal}.\n"));
    verdict_table(&verdicts) + &unjudged.collect::<String>()
}

/// Goals and what came of them.
pub fn verdict_table(verdicts: &[Verdict<'_>]) -> String {
    let mut text = "| work | beside | goal | zproc | it | times better | |\n|---|---|---|---|---|---|---|\n".to_owned();
    for verdict in verdicts {
        let Verdict {
            goal,
            unit,
            figures,
            times_better,
        } = verdict;
        let met = if verdict.is_within(1.0) { "met" } else { "**missed**" };
        let why = if goal.why.is_empty() {
            String::new()
        } else {
            format!(" ({})", goal.why)
        };
        let _ = writeln!(
            text,
            "| {}, {}{why} | {} | {} | {} | {} | {} | {met} |",
            goal.group,
            goal.column,
            code(&goal.rival),
            goal.limit(),
            unit.show(figures.0),
            unit.show(figures.1),
            with_spread(*times_better)
        );
    }
    text
}

/// A workload's section.
pub fn group(group: &Group) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n", group.title, group.text);
    text += &match &group.columns[..] {
        [column] => in_full(group.unit, column),
        columns => side_by_side(group.unit, columns),
    };
    for column in &group.columns {
        if column
            .lines
            .iter()
            .any(|line| line.events_ns.len() >= 100 && line.note.is_empty())
        {
            text += &quantiles(column);
        }
    }
    text += &notes(group);
    text
}

/// One run, with all there is to say of each.
fn in_full(unit: Unit, column: &Column) -> String {
    let mut text = "| | median (p10–p90) | zproc is so many times better |\n|---|---|---|\n".to_owned();
    for line in &column.lines {
        let figure = line
            .spread()
            .map_or("–".into(), |spread| figure_with_spread(unit, spread));
        let ratio = ratio_to(unit, column, line.name).map_or(String::new(), with_spread);
        let _ = writeln!(text, "| {} | {figure} | {ratio} |", code(line.name));
    }
    text + "\n"
}

/// Several runs: medians, and how many times better ours is.
fn side_by_side(unit: Unit, columns: &[Column]) -> String {
    let medians = table(columns, |column, name| {
        let spread = column.line(name).and_then(|line| line.spread());
        let figure = spread.map_or("–".into(), |spread| unit.show(spread.median));
        let ratio = ratio_to(unit, column, name).map_or(String::new(), |ratio| format!(" ({})", times(ratio.median)));
        figure + &ratio
    });
    let spreads = table(columns, |column, name| {
        let spread = column.line(name).and_then(|line| line.spread());
        let range = |Spread { p10, p90, .. }| format!("{}–{}", unit.show(p10), unit.show(p90));
        let ratio = ratio_to(unit, column, name).map_or(String::new(), |Spread { p10, p90, .. }| {
            format!(" ({}–{})", times(p10), times(p90))
        });
        spread.map_or("–".into(), range) + &ratio
    });
    format!(
        "{medians}\nMedians; in parentheses how many times better zproc is (below 1: worse).\n\n\
         <details><summary>10th to 90th percentile</summary>\n\n{spreads}\n</details>\n\n"
    )
}

/// A row for each rival, with a cell for each run.
fn table(columns: &[Column], cell: impl Fn(&Column, &str) -> String) -> String {
    let mut text = String::from("| |");
    columns.iter().for_each(|column| _ = write!(text, " {} |", column.name));
    text += "\n|---|";
    columns.iter().for_each(|_| text += "---|");
    text.push('\n');
    for name in columns.first().map_or(Vec::new(), |column| names_of(columns, column)) {
        let _ = write!(text, "| {} |", code(name));
        columns
            .iter()
            .for_each(|column| _ = write!(text, " {} |", cell(column, name)));
        text.push('\n');
    }
    text
}

fn names_of<'c>(columns: &'c [Column], first: &'c Column) -> Vec<&'c str> {
    let mut names: Vec<&str> = first.lines.iter().map(|line| line.name).collect();
    for line in columns.iter().flat_map(|column| &column.lines) {
        if !names.contains(&line.name) {
            names.push(line.name);
        }
    }
    names
}

fn ratio_to(unit: Unit, column: &Column, name: &str) -> Option<Spread> {
    (name != OURS).then(|| column.times_better(unit, OURS, name)).flatten()
}

/// Where the single events of a run lie.
fn quantiles(column: &Column) -> String {
    let mut text = format!(
        "| {} | p50 | p99 | p99.9 | worst | events |\n|---|---|---|---|---|---|\n",
        column.name
    );
    for line in column.lines.iter().filter(|line| !line.events_ns.is_empty()) {
        let events = Quantiles::of(line.events_ns.clone());
        let count = line.events_ns.len();
        // Of fewer, the quantile would be the worst.
        let time = |share: f64| match count as f64 * (1.0 - share) < 1.0 && share < 1.0 {
            true => "–".into(),
            false => events.time(share).to_string(),
        };
        let [p50, p99, p999, worst] = [0.5, 0.99, 0.999, 1.0].map(time);
        let _ = writeln!(
            text,
            "| {} | {p50} | {p99} | {p999} | {worst} | {count} |",
            code(line.name)
        );
    }
    text + "\n"
}

/// Reasons, notes and controls.
fn notes(group: &Group) -> String {
    let mut lines: Vec<String> = Vec::new();
    for column in &group.columns {
        for line in &column.lines {
            let note = match &line.rounds {
                Err(reason) if line.note.is_empty() => format!("{}: –, {reason}.", code(line.name)),
                Err(reason) => format!("{}: –, {reason}; {}.", code(line.name), line.note),
                Ok(_) if line.note.is_empty() => continue,
                Ok(_) if group.columns.len() == 1 => format!("{}: {}.", code(line.name), line.note),
                Ok(_) => format!("{}, {}: {}.", code(line.name), column.name, line.note),
            };
            if !lines.contains(&note) {
                lines.push(note);
            }
        }
    }
    for column in &group.columns {
        if let Some(one_way) = column.one_way_ns {
            lines.push(format!(
                "Control, {}: a cache line took {} from core to core; {} rounds were taken again.",
                column.name,
                figure_with_spread(Unit::Time, one_way),
                column.discarded
            ));
        }
    }
    lines.into_iter().map(|line| format!("- {line}\n")).collect::<String>() + "\n"
}

fn figure_with_spread(unit: Unit, spread: Spread) -> String {
    let Spread { p10, median, p90 } = spread;
    format!("{} ({}–{})", unit.show(median), unit.show(p10), unit.show(p90))
}

fn with_spread(spread: Spread) -> String {
    let Spread { p10, median, p90 } = spread;
    if p10 == p90 {
        // Of a single ratio.
        return times(median);
    }
    format!("{} ({}–{})", times(median), times(p10), times(p90))
}

/// A ratio with as many digits as mean something.
fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio < 10.0 => format!("{ratio:.2} ×"),
        ratio if ratio < 100.0 => format!("{ratio:.1} ×"),
        ratio => format!("{ratio:.0} ×"),
    }
}

/// Names with angle brackets need backticks.
fn code(name: &str) -> String {
    if name.contains('<') {
        format!("`{name}`")
    } else {
        name.to_owned()
    }
}
