//! How many instructions an operation takes, counted by valgrind: a figure that repeats on a noisy machine.
//!
//! ```text
//! cargo bench -p zproc-bench --bench instructions -- [--update]
//! ```
//!
//! Compares with benches/instructions.toml, and fails when an operation takes more than 5 % more than what is written
//! there. `--update` writes what was counted. Another compiler makes other code: where it is not the one that the file
//! names, differences are shown and not judged.
//!
//! This program runs itself under callgrind, once for each operation, with the argument `run`; callgrind counts while
//! `measured` runs.

mod operations;

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
    let (table, result) = compare(&committed, &count_all()?);
    println!("{table}");
    result
}

fn update() -> Result<(), String> {
    let (path, counts) = (file(), count_all()?);
    print!("{counts}");
    std::fs::write(&path, counts.to_string()).map_err(|error| format!("{}: {error}", path.display()))
}

fn count_all() -> Result<Counts, String> {
    let each = |name: &&str| Ok(((*name).to_owned(), count(name)?));
    Ok(Counts {
        compiler: compiler(),
        each: operations::NAMES.iter().map(each).collect::<Result<_, String>>()?,
    })
}

/// Instructions of one operation.
fn count(operation: &str) -> Result<f64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
        ])
        .arg(format!("--toggle-collect=*{}*", operations::MEASURED))
        .arg(own)
        .args(["run", operation])
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok());
    match collected {
        Some(collected) if output.status.success() && collected > 0 => Ok(collected as f64 / operations::TIMES as f64),
        _ => Err(format!(
            "valgrind counted nothing of '{operation}' ({}):\n{text}",
            output.status
        )),
    }
}

/// The compiler, and what it compiles for.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    format!("{version}, {}", std::env::consts::ARCH)
}
