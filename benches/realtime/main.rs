//! The figures of `docs/real-time.md`, as the tables that stand there.
//!
//! ```text
//! cargo bench -p zproc-bench --bench realtime [-- waiting | neighbours | timers | memory]
//! ```
//!
//! It needs two CPUs, and for some rows the right to real-time priorities. Whatever else runs on the machine is in the
//! figures, most of all in the largest; a spinner with a real-time priority takes a CPU from everybody for a second.

mod jobs;
mod memory;
mod neighbours;
mod timers;
mod waiting;

use std::process::ExitCode;

use zproc_bench::cpu;
use zproc_bench::peer::Service;

/// The CPU of this process, and that of the second one.
#[derive(Clone, Copy)]
pub struct Cpus {
    own: usize,
    other: usize,
}

/// A name, and what prints a table.
type Table = (&'static str, fn(Cpus));

const TABLES: &[Table] = &[
    ("waiting", waiting::print),
    ("neighbours", neighbours::print),
    ("timers", timers::print),
    ("memory", memory::print),
];

fn main() -> ExitCode {
    if let Some(service) = Service::from_args() {
        jobs::serve(&service);
    }
    // `cargo bench` adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !TABLES.iter().any(|(known, _)| known == name))
    {
        eprintln!("{unknown}: there are waiting, neighbours, timers and memory");
        return ExitCode::FAILURE;
    }
    let allowed = cpu::allowed();
    let [other, .., own] = allowed[..] else {
        eprintln!("this process has only one CPU, and all of this takes two");
        return ExitCode::FAILURE;
    };
    println!("{}", cpu::machine());
    cpu::pin(&[own]);
    for (name, print) in TABLES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!();
            print(Cpus { own, other });
        }
    }
    ExitCode::SUCCESS
}

/// Prints a line of a table.
pub fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Prints the first two lines of a table.
pub fn head(cells: &[&str]) {
    println!("| {} |\n|{}", cells.join(" | "), "---|".repeat(cells.len()));
}
