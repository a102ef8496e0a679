//! The table of times from a death to the next commit, beside their goals.
//!
//! What lies between the kill and the death is the system's: a process dies when it gets the processor. On a busy machine
//! that is most of it, so it has a row of its own.
//!
//! Several runs add up if `ZPROC_SOAK_FIGURES` names a file: it has one line a death, and the table is made of all.

use std::fs;
use std::io::Write as _;

use crate::deaths::Death;

/// Prints the table. `before`: the load of the machine before the deaths. An error names the times since a death that miss
/// their goal, of this run; those since the kill are the system's, too.
pub fn print(deaths: &[Death], before: &str) -> Result<(), String> {
    println!("load of the machine (1, 5, 15 min): {before} before, {} after", load());
    println!("ms from a death inside of the writer lock to the next commit, by a writer that waits:");
    let missed = table(deaths);
    if let Ok(path) = std::env::var("ZPROC_SOAK_FIGURES") {
        let all = remember(&path, deaths);
        if all.len() > deaths.len() {
            println!("the same over all seeds so far:");
            table(&all);
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(missed.join("; "))
    }
}

/// Prints the rows. Which times since a death miss their goal.
fn table(deaths: &[Death]) -> Vec<String> {
    let mut missed = Vec::new();
    println!(
        "  {:<20} {:<15} {:>6} {:>8} {:>8} {:>8} {:>8}  goal p99",
        "", "since", "deaths", "p50", "p99", "p99.9", "max"
    );
    for (marked, name, goal) in [(true, "marked by the kernel", 5.0), (false, "mark lost", 200.0)] {
        let times = |time: fn(&Death) -> i64| -> Vec<i64> {
            let of_kind = deaths.iter().filter(|death| death.marked == marked);
            of_kind.map(time).collect()
        };
        row(name, "kill", times(|death| death.from_kill), Some(goal));
        if let Some(p99) = row(name, "death", times(|death| death.from_death), Some(goal))
            && p99 >= goal
        {
            missed.push(format!(
                "{name}: p99 {p99:.3} ms since the death, to be below {goal} ms"
            ));
        }
        row(
            "",
            "(kill to death)",
            times(|death| death.from_kill - death.from_death),
            None,
        );
    }
    missed
}

/// Prints a row. The 99th percentile, if there is one.
fn row(name: &str, since: &str, mut times: Vec<i64>, goal: Option<f64>) -> Option<f64> {
    if times.is_empty() {
        return None;
    }
    times.sort_unstable();
    // The least time that so many of a thousand do not exceed.
    let at = |per_mille: usize| ms(times[(times.len() * per_mille).div_ceil(1000).max(1) - 1]);
    let verdict = goal.map_or(String::new(), |goal| {
        format!("{goal} {}", if at(990) < goal { "met" } else { "MISSED" })
    });
    println!(
        "  {name:<20} {since:<15} {:>6} {:>8.3} {:>8.3} {:>8.3} {:>8.3}  {verdict}",
        times.len(),
        at(500),
        at(990),
        at(999),
        at(1000),
    );
    Some(at(990))
}

fn ms(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Adds the deaths to those in the file, and returns all.
fn remember(path: &str, deaths: &[Death]) -> Vec<Death> {
    let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
    for death in deaths {
        writeln!(
            file,
            "{} {} {}",
            u8::from(death.marked),
            death.from_kill,
            death.from_death
        )
        .unwrap();
    }
    let read = |line: &str| {
        let mut numbers = line.split(' ').map(|number| number.parse::<i64>().unwrap());
        let mut next = || numbers.next().unwrap();
        Death {
            marked: next() != 0,
            from_kill: next(),
            from_death: next(),
        }
    };
    fs::read_to_string(path).unwrap().lines().map(read).collect()
}

/// How busy the machine is.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
