//! How many instructions an operation takes: a figure that repeats on a noisy machine.
//!
//! ```text
//! cargo bench -p zproc-bench --bench instructions -- [--update]
//! ```
//!
//! Compares with benches/instructions.toml, and fails when an operation takes more than 5 % more than what is written
//! there. `--update` writes what was counted. Another compiler makes other code: where it is not the one that the file
//! names, 25 % are allowed. Counts of another processor are shown and not judged.
//!
//! The counts are of single steps, which the kernel takes for a tracer, on the processor as it is. Emulators that count
//! (valgrind, and what builds on it) do not know all system calls that a state makes when it is opened: the one in Debian
//! 12 lacks `pidfd_open`. A system call is one step here. This program runs itself once for each operation, with the
//! argument `run`.

mod operations;
mod steps;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use zproc_bench::counted::{Counts, compare};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["run", operation] => operations::run(operation),
        [] => check(),
        ["--update"] => update(),
        _ => Err(format!("unknown arguments {args:?}; there is --update")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/instructions.toml")
}

fn check() -> Result<(), String> {
    let path = file();
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let committed = Counts::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let Some(counted) = count_all()? else {
        return Ok(());
    };
    let (table, result) = compare(&committed, &counted);
    print!("{table}");
    result
}

fn update() -> Result<(), String> {
    let Some(counts) = count_all()? else {
        return Err("nothing was counted".into());
    };
    let path = file();
    print!("{counts}");
    std::fs::write(&path, counts.to_string()).map_err(|error| format!("{}: {error}", path.display()))
}

/// All counts; `None`, and a message, where this system does not allow tracing.
fn count_all() -> Result<Option<Counts>, String> {
    // What the loop and the marks at its ends take.
    let Some(around) = steps::count(operations::NOTHING)? else {
        println!("not counted: this system does not allow ptrace");
        return Ok(None);
    };
    let each = |name: &&str| {
        let steps = steps::count(name)?.ok_or("tracing was allowed before")?;
        Ok((
            (*name).to_owned(),
            (steps as f64 - around as f64) / operations::TIMES as f64,
        ))
    };
    Ok(Some(Counts {
        compiler: compiler(),
        each: operations::NAMES.iter().map(each).collect::<Result<_, String>>()?,
    }))
}

/// The compiler, and what it compiles for.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    format!("{version}, {}", std::env::consts::ARCH)
}
