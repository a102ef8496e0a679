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
    /// Further rounds start until this time has passed; zero means one round.
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
                "--seconds" => options.time = Duration::from_secs(number()?),
                "--seed" => options.seed = number()?,
                unknown => return Err(format!("soak has no option '{unknown}'")),
            }
        }
        Ok(options)
    }
}

/// Soaks until the time is over or a round fails; the error says how to repeat that round.
pub fn run(options: &Options, root: &Path) -> Result<(), String> {
    let start = Instant::now();
    let mut seed = options.seed;
    loop {
        println!("==> soak: {} kills, seed {seed}", options.kills);
        round(options.kills, seed, root).map_err(|error| {
            format!(
                "soak FAILED: {error}; repeat it: cargo xtask soak --kills {} --seed {seed}",
                options.kills
            )
        })?;
        println!(
            "<== soak: seed {seed} passed, {:.0} s so far",
            start.elapsed().as_secs_f64()
        );
        if start.elapsed() >= options.time {
            return Ok(());
        }
        seed = seed.wrapping_add(1);
    }
}

/// One run of the test `soak`, which is short unless it finds these variables.
fn round(kills: u64, seed: u64, root: &Path) -> Result<(), String> {
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
        .env("ZPROC_SOAK_KILLS", kills.to_string())
        .env("ZPROC_SOAK_SEED", seed.to_string())
        .current_dir(root)
        .stdin(Stdio::null());
    step::finish(&mut command)
}

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
            time: Duration::from_secs(60),
            seed: 3,
        };
        assert_eq!(parse("--seed 3 --seconds 60 --kills 7"), Ok(expected));
    }

    #[test]
    fn an_option_without_its_number_is_named() {
        assert!(parse("--seed 3 --kills").unwrap_err().contains("--kills"));
        assert!(parse("--seed x").unwrap_err().contains("'x'"));
    }
}
