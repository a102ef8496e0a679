//! Compares zproc with what could be taken instead of it.
//!
//! ```text
//! cargo run --release -p zproc-bench --features rivals -- report [--quick] [FILTER…]
//! ```
//!
//! Without options: measures every workload, and writes docs/benchmarks.md with its plots; the raw samples are kept
//! under target/. `--quick` takes less time and the workloads that have a goal in benches/goals.toml, writes nothing,
//! and fails if a ratio is worse than its goal by more than a factor of two, or could not be measured. With a FILTER, a part of the name of a workload, only those
//! are measured, and printed.

use std::process::ExitCode;

use zproc_bench::peer::Service;
use zproc_bench::{report, rivals, workloads};

const USAGE: &str = "usage: zproc-bench report [--quick] [FILTER…]";

fn main() -> ExitCode {
    zproc::init();
    rivals::zmq_design::serve_from_args();
    if let Some(service) = Service::from_args() {
        workloads::serve(&service);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = args.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (options, filters): (Vec<String>, Vec<String>) = rest.iter().cloned().partition(|arg| arg.starts_with('-'));
    if task != "report" || options.iter().any(|option| option != "--quick") {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match report::run(!options.is_empty(), &filters) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zproc-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
