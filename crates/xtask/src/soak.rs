//! `cargo xtask soak`: the long crash test, in rounds that a seed repeats.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::step;

/// How long and with which numbers to soak.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Processes to kill in one round.
    kills: u64,
    /// Deaths to measure in one round; a tenth of the kills if it is not given.
    deaths: Option<u64>,
    /// Rounds, each with a seed of its own.
    seeds: u64,
    /// Further rounds start until this time has passed.
    time: Duration,
    /// Seed of the first round; the next round takes the next number.
    seed: u64,
}

impl Options {
    /// Reads the options; an error names the one that makes no sense.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut options = Self {
            kills: 10_000,
            deaths: None,
            seeds: 3,
            time: Duration::ZERO,
            seed: clock.as_secs(),
        };
        for pair in arguments.chunks(2) {
            let number = || -> Result<u64, String> {
                let value = pair.get(1).ok_or_else(|| format!("{} needs a number", pair[0]))?;
                value
                    .parse()
                    .map_err(|_| format!("{} needs a number, got '{value}'", pair[0]))
            };
            match pair[0].as_str() {
                "--kills" => options.kills = number()?,
                "--deaths" => options.deaths = Some(number()?),
                "--seeds" => options.seeds = number()?,
                "--seconds" => options.time = Duration::from_secs(number()?),
                "--seed" => options.seed = number()?,
                unknown => return Err(format!("soak has no option '{unknown}'")),
            }
        }
        Ok(options)
    }
}

/// Soaks with all seeds and until the time is over, or until a round fails; the error says how to repeat that round.
pub fn run(options: &Options, root: &Path) -> Result<(), String> {
    let start = Instant::now();
    // The times of all rounds, which the test adds up there.
    let figures = std::env::temp_dir().join(format!("zproc-soak-figures-{}", std::process::id()));
    let mut seed = options.seed;
    let mut round_number = 0;
    let result = loop {
        round_number += 1;
        println!("==> soak: {} kills, seed {seed}, round {round_number}", options.kills);
        if let Err(error) = round(options, seed, &figures, root) {
            break Err(format!(
                "soak FAILED: {error}; repeat it: cargo xtask soak --seeds 1 --kills {}{} --seed {seed}",
                options.kills,
                options
                    .deaths
                    .map_or(String::new(), |deaths| format!(" --deaths {deaths}"))
            ));
        }
        println!(
            "<== soak: seed {seed} passed, {:.0} s so far",
            start.elapsed().as_secs_f64()
        );
        if round_number >= options.seeds && start.elapsed() >= options.time {
            break Ok(());
        }
        seed = seed.wrapping_add(1);
    };
    // Not there if the first round failed early.
    let _ = std::fs::remove_file(figures);
    result
}

/// One run of the test `soak`, which is short unless it finds these variables.
fn round(options: &Options, seed: u64, figures: &Path, root: &Path) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command
        .args([
            "test",
            "--release",
            "-p",
            "zproc-workspace",
            "--locked",
            "--test",
            "soak",
            "--",
            "--nocapture",
        ])
        .env("ZPROC_SOAK", "1")
        .env("ZPROC_SOAK_KILLS", options.kills.to_string())
        .env("ZPROC_SOAK_SEED", seed.to_string())
        .env("ZPROC_SOAK_FIGURES", figures)
        .current_dir(root)
        .stdin(Stdio::null());
    if let Some(deaths) = options.deaths {
        command.env("ZPROC_SOAK_DEATHS", deaths.to_string());
    }
    step::finish(&mut command)?;
    processes(options, root)
}

/// The tests of processes that repeat something many times, ten times as often as usual with the usual number of kills.
fn processes(options: &Options, root: &Path) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--release", "-p", "zproc", "--locked"])
        .args(PROCESS_TESTS.iter().flat_map(|test| ["--test", test]))
        .env("ZPROC_LOAD", (options.kills / 1000).max(1).to_string())
        .current_dir(root)
        .stdin(Stdio::null());
    step::finish(&mut command)
}

const PROCESS_TESTS: [&str; 4] = ["process", "process_survival", "process_signals", "process_map"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_in_any_order() {
        let expected = Options {
            kills: 7,
            deaths: Some(9),
            seeds: 5,
            time: Duration::from_secs(60),
            seed: 3,
        };
        assert_eq!(
            parse("--seed 3 --seconds 60 --kills 7 --seeds 5 --deaths 9"),
            Ok(expected)
        );
    }

    #[test]
    fn an_option_without_its_number_is_named() {
        assert!(parse("--seed 3 --kills").unwrap_err().contains("--kills"));
        assert!(parse("--seed x").unwrap_err().contains("'x'"));
    }
}
