//! The project's tasks, so that people and CI call the same commands: `cargo xtask check`, `prove`, `soak`, `sanitize`,
//! `rivals`, `bench`.
//!
//! The program uses nothing but std and starts everything else as a child process in the workspace's root. Its exit
//! code is 0 if the task succeeded, 1 if it failed, and 2 if the arguments were wrong.

mod check;
mod doc_examples;
mod prove;
mod sanitize;
mod soak;
mod step;
mod unsafe_code;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What `cargo xtask` prints without arguments.
const HELP: &str = "\
Usage: cargo xtask <task>

Tasks:
  check                   run everything that must pass before a change goes in; CI runs the same
  soak [options]          run the long crash test
      --kills N           processes to kill in one round (default: 10000)
      --deaths N          deaths inside of the lock to measure, and a fifth more without the kernel's mark, in one round
                          (default: a tenth of the kills)
      --seeds N           rounds, each with the next seed (default: 3)
      --seconds N         start further rounds until N seconds have passed
      --seed S            seed of the first round (default: from the clock; it is printed)
  sanitize [names]        run the tests under the address, the leak and the thread sanitizer, or those named; the last one
                          needs the sources of the standard library (rustup component add rust-src)
  prove [names]           run what the checks sample at its full load, or what is named: stores, instructions, models, lock,
                          linearizability (with kill points), shipped (without them), damage, limits
      --seed S            for instructions: picks those at which a process is really killed (default: from the clock)
  rivals                  lint, test and measure quickly what zproc is compared with; fails where a ratio is far from its goal
  bench [arguments]       run the benchmarks; arguments go to `cargo bench`
  help                    print this text
";

/// Why a task did not succeed.
enum Failure {
    /// The arguments make no sense; the message says which.
    Usage(String),
    /// The task ran and failed; the message says where.
    Task(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("xtask: {message}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(Failure::Task(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the task that the arguments name.
fn run(arguments: &[String]) -> Result<(), Failure> {
    let Some((task, rest)) = arguments.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match (task.as_str(), rest) {
        ("check", []) => step::run_all(check::STEPS, root()).map_err(Failure::Task),
        ("rivals", []) => step::run_all(check::RIVALS, root()).map_err(Failure::Task),
        ("soak", options) => {
            let options = soak::Options::parse(options).map_err(Failure::Usage)?;
            soak::run(&options, root()).map_err(Failure::Task)
        }
        ("sanitize", names) => {
            let chosen = sanitize::chosen(names).map_err(Failure::Usage)?;
            sanitize::run(&chosen, root()).map_err(Failure::Task)
        }
        ("prove", options) => {
            let options = prove::Options::parse(options).map_err(Failure::Usage)?;
            prove::run(&options, root()).map_err(Failure::Task)
        }
        ("bench", arguments) => bench(arguments).map_err(Failure::Task),
        ("help" | "--help" | "-h", _) => {
            print!("{HELP}");
            Ok(())
        }
        (task @ ("check" | "rivals"), [extra, ..]) => {
            Err(Failure::Usage(format!("{task} takes no arguments, got '{extra}'")))
        }
        (unknown, _) => Err(Failure::Usage(format!("there is no task '{unknown}'"))),
    }
}

/// Runs the benchmarks.
fn bench(arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command
        .args(["bench", "-p", "zproc-bench", "--locked"])
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    step::finish(&mut command)
}

/// The root directory of the workspace.
fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).expect("xtask lives in crates/xtask")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn unknown_tasks_and_stray_arguments_are_refused() {
        for line in [
            "chek",
            "check --fast",
            "soak --kills",
            "soak --kills many",
            "soak 12",
            "sanitize memory",
            "prove --all",
        ] {
            assert!(
                matches!(run(&arguments(line)), Err(Failure::Usage(_))),
                "accepted: {line}"
            );
        }
    }

    #[test]
    fn root_is_the_workspace() {
        assert!(root().join("crates/xtask/Cargo.toml").is_file());
    }
}
