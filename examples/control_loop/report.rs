//! What is printed.

use hdrhistogram::Histogram;

use crate::plant::Ran;
use crate::{Result, Settings};

/// For times up to a minute, to a thousandth of each. It has all its memory at once, so that recording takes none.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// What is run, and where.
pub fn print_head(settings: &Settings, plant: usize, controllers: usize) {
    let Settings {
        seconds, hz, waiting, ..
    } = settings;
    println!(
        "{seconds} s at {hz} Hz; the plant on CPU {plant}, controllers on CPU {controllers}, which {} until a tick",
        match waiting {
            crate::Waiting::Block => "sleep",
            crate::Waiting::Spin => "spin",
        }
    );
}

/// What the processes lack.
pub fn print_notes(notes: &[String]) {
    for note in notes {
        println!("note: {note}");
    }
    println!();
}

/// All figures, a column for each loop.
pub fn print_table(loops: &[Ran]) {
    let row = |name: &str, percentile: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!("{cell:>16}")).collect();
        println!("{name:<30}{percentile:>6}{cells}");
    };
    let times = |name: &str, of: fn(&Ran) -> &Histogram<u64>| {
        for (at, label) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")] {
            let name = if at == 0.5 { name } else { "" };
            row(
                name,
                label,
                &mut loops.iter().map(|ran| micros(of(ran).value_at_quantile(at))),
            );
        }
    };
    row("", "", &mut loops.iter().map(|ran| ran.name.to_owned()));
    times("jitter: tick due → in hand", |ran| &ran.lateness);
    times("of it, due → the plant ran", |ran| &ran.timer);
    times("round trip: tick → answer", |ran| &ran.round_trips);
    let ticks = |ran: &Ran| (ran.round_trips.len() + ran.missed).to_string();
    row("ticks", "", &mut loops.iter().map(ticks));
    row(
        "ticks that the controller had",
        "",
        &mut loops.iter().map(|ran| ran.lateness.len().to_string()),
    );
    row(
        "missed deadlines",
        "",
        &mut loops.iter().map(|ran| ran.missed.to_string()),
    );
    if let [first, second] = loops
        && first.timer == second.timer
    {
        let alone = |ran: &Ran| (ran.missed - ran.missed_by_all).to_string();
        row("of them, missed by it alone", "", &mut loops.iter().map(alone));
    }
    println!();
    for ran in loops {
        println!("{}: the pendulum {}", ran.name, ran.outcome());
    }
}

fn micros(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}
