//! Every instruction of every operation, in an optimised build, with a table of what was done.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the test says of one operation: its counts, in the order of [`COLUMNS`], and its seconds.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    counts: [u64; COLUMNS.len()],
    seconds: f64,
}

const COLUMNS: [&str; 6] = ["instructions", "changed", "reader checks", "recoveries", "kills", "bad"];

impl Row {
    /// Reads `stepped NAME: N instructions, N changed memory, …, X s`.
    fn parse(line: &str) -> Option<Self> {
        let (_, text) = line.split_once("stepped ")?;
        let (name, fields) = text.split_once(": ")?;
        let mut fields = fields.split(", ").map(|field| field.split(' ').next().unwrap_or(""));
        let mut counts = [0; COLUMNS.len()];
        for count in &mut counts {
            *count = fields.next()?.parse().ok()?;
        }
        Some(Self {
            name: name.to_owned(),
            counts,
            seconds: fields.next()?.parse().ok()?,
        })
    }
}

/// Steps through all of them. The seed picks the instructions at which a process is really killed.
pub fn run(seed: u64, root: &Path) -> Result<(), String> {
    let start = Instant::now();
    let Steps { rows, left_out, end } = step_all(seed, root)?;
    print!("\n{}", table(&rows, start.elapsed()));
    end?;
    match left_out.first() {
        Some(line) => Err(format!(
            "{} operations were not stepped through: {line}",
            left_out.len()
        )),
        None if rows.is_empty() => Err("nothing was stepped through".into()),
        None => Ok(()),
    }
}

/// What the test said.
struct Steps {
    rows: Vec<Row>,
    /// Of operations that it could not step through.
    left_out: Vec<String>,
    /// How it ended.
    end: Result<(), String>,
}

/// Runs the test `every_instruction`, showing what it prints.
fn step_all(seed: u64, root: &Path) -> Result<Steps, String> {
    let mut child = Command::new("cargo")
        .args(["test", "--release", "-p", "shm-state", "--locked"])
        .args(["--test", "every_instruction", "--", "--nocapture", "--test-threads=2"])
        .env("ZPROC_STEP", "all")
        .env("ZPROC_STEP_SEED", seed.to_string())
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    let output = child.stdout.take().ok_or("cargo has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("reading what the test says: {error}"))?;
        println!("{line}");
        rows.extend(Row::parse(&line));
        left_out.extend(line.find("NOT STEPPED").map(|at| line[at..].to_owned()));
    }
    let status = child.wait().map_err(|error| format!("waiting for cargo: {error}"))?;
    let end = if status.success() {
        Ok(())
    } else {
        Err(status.to_string())
    };
    Ok(Steps { rows, left_out, end })
}

/// The rows, and their sums.
fn table(rows: &[Row], time: Duration) -> String {
    let sums = Row {
        name: "all".into(),
        counts: std::array::from_fn(|column| rows.iter().map(|row| row.counts[column]).sum()),
        seconds: time.as_secs_f64(),
    };
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(9);
    let heads = COLUMNS.iter().map(|head| format!(" {head:>13}")).collect::<String>();
    let mut text = format!("{:width$}{heads} {:>9}\n", "operation", "seconds");
    for row in rows.iter().chain([&sums]) {
        let counts = row
            .counts
            .iter()
            .map(|count| format!(" {count:>13}"))
            .collect::<String>();
        text += &format!("{:width$}{counts} {:>9.1}\n", row.name, row.seconds);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "test x ... stepped put in place: 7 instructions, 6 changed memory, 5 looks, 4 recoveries, 3 kills, 0 bad, 1.5 s";

    #[test]
    fn a_row_is_read_wherever_it_begins() {
        let row = Row::parse(LINE).unwrap();
        assert_eq!((row.name.as_str(), row.counts), ("put in place", [7, 6, 5, 4, 3, 0]));
        assert_eq!(row.seconds.to_string(), "1.5");
        assert_eq!(Row::parse("NOT STEPPED put: no"), None);
        assert_eq!(Row::parse("stepped put: many instructions"), None);
    }

    #[test]
    fn the_table_ends_with_sums() {
        let rows = [Row::parse(LINE).unwrap(), Row::parse(LINE).unwrap()];
        let text = table(&rows, Duration::from_secs(2));
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["all", "14", "12", "10", "8", "6", "0", "2.0"]);
    }
}
