//! The goals of the project, each measured beside its reference, in one table.
//!
//! ```text
//! cargo bench -p zproc-bench --bench goals -- [--quick] [--strict] [FILTER]
//! ```
//!
//! `--quick` takes fewer rounds, `--strict` makes a missed goal an error, FILTER is part of the names of rows. Figures
//! are medians over rounds in which both sides take turns; the verdict is on the median of the rounds' ratios. Keys are
//! strings of 20 bytes, used in random order, and values integers of 8 bytes. The process is pinned to one CPU and the
//! second process, where there is one, to another; such rows say how long a cache line took between the two, and take
//! rounds anew in which that changed.

mod control;
mod jobs;
mod memory;
mod notifying;
mod processes;
mod reading;
mod serving;
mod subject;
mod together;
mod values;
mod watching;
mod writing;

use std::process::ExitCode;

use zproc_bench::peer::Service;
use zproc_bench::table::{Goal, Measured, head, row};
use zproc_bench::{cpu, heap};

#[global_allocator]
static ALLOCATOR: heap::CountingAllocator = heap::CountingAllocator;

/// How and where to measure.
pub struct Bench {
    quick: bool,
    /// Where this process runs, and where the other does if there is a second CPU.
    cpus: (usize, Option<usize>),
}

impl Bench {
    /// How many rounds to take.
    pub fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(5) } else { full }
    }

    /// The CPU of the second process.
    pub fn other_cpu(&self) -> usize {
        self.cpus
            .1
            .expect("rows with a second process are skipped where there is no second CPU")
    }

    /// The CPU of this process.
    pub fn own_cpu(&self) -> usize {
        self.cpus.0
    }
}

#[derive(Clone, Copy)]
/// A row of the table: a goal, and how it is measured.
pub struct Row {
    goal: Goal,
    needs_two_cpus: bool,
    measure: fn(&Bench) -> Measured,
}

impl Row {
    /// One that this process measures by itself.
    pub const fn alone(goal: Goal, measure: fn(&Bench) -> Measured) -> Self {
        Self {
            goal,
            needs_two_cpus: false,
            measure,
        }
    }

    /// One that takes a second process on another CPU.
    pub const fn between(goal: Goal, measure: fn(&Bench) -> Measured) -> Self {
        Self {
            goal,
            needs_two_cpus: true,
            measure,
        }
    }
}

fn main() -> ExitCode {
    zproc::init();
    if std::env::args().nth(1).as_deref() == Some(processes::STAMP) {
        processes::stamp();
        return ExitCode::SUCCESS;
    }
    if let Some(service) = Service::from_args() {
        jobs::serve(&service);
    }
    let (options, filters): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let has = |name: &str| options.iter().any(|option| option == name);
    // `cargo bench` adds `--bench`.
    if let Some(unknown) = options
        .iter()
        .find(|option| !["--bench", "--quick", "--strict"].contains(&&***option))
    {
        eprintln!("{unknown}: there are --quick, --strict, and parts of the names of rows");
        return ExitCode::FAILURE;
    }
    println!("{}", cpu::machine());
    let allowed = cpu::allowed();
    let own = *allowed.last().expect("a process runs somewhere");
    let bench = Bench {
        quick: has("--quick"),
        cpus: (own, allowed.first().copied().filter(|&first| first != own)),
    };
    cpu::pin(&[own]);
    let missed = measure_all(&bench, &filters);
    if missed > 0 {
        println!("{missed} missed");
    }
    if missed > 0 && has("--strict") {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints the table. Returns how many goals were missed.
fn measure_all(bench: &Bench, filters: &[String]) -> usize {
    println!("{}", head());
    let rows = [
        reading::ROWS,
        values::ROWS,
        writing::ROWS,
        together::ROWS,
        notifying::ROWS,
        watching::ROWS,
        control::ROWS,
        memory::ROWS,
        processes::ROWS,
        serving::ROWS,
    ]
    .concat();
    let mut missed = 0;
    for Row {
        goal,
        needs_two_cpus,
        measure,
    } in rows
    {
        if !filters.is_empty() && !filters.iter().any(|filter| goal.work.contains(filter.as_str())) {
            continue;
        }
        if needs_two_cpus && bench.cpus.1.is_none() {
            println!("{}: not measured, since this process has only one CPU", goal.work);
            continue;
        }
        let measured = measure(bench);
        println!("{}", row(&goal, &measured));
        missed += usize::from(!goal.is_met(&measured));
    }
    missed
}
