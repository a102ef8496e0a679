//! `cargo xtask prove`: what the tests of `cargo xtask check` sample, at its full load.

mod instructions;

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::step::Step;

/// One proof: its name, and what runs it.
type Proof = (&'static str, Work);

enum Work {
    /// Steps through every instruction; the seed picks where a process is really killed.
    Instructions,
    /// Runs a test with the variables that make it long. Its own seeds are in what it prints.
    Test(Step),
}

#[rustfmt::skip]
const PROOFS: &[Proof] = &[
    ("stores",          Work::Test(Step::run("stores", "cargo test --release -p shm-state --locked --features kill-points,planted-faults --test kill_points -- --nocapture")
                            .with("ZPROC_SWEEP", "all"))),
    ("instructions",    Work::Instructions),
    ("models",          Work::Test(Step::run("models", "cargo test --release -p shm-state --locked --target-dir target/models --lib models")
                            .with("RUSTFLAGS", "--cfg loom").with("LOOM_MAX_PREEMPTIONS", "3"))),
    ("lock",            Work::Test(Step::run("lock", "cargo test --release -p shm-state --locked --lib --test lock_crowds --test lock_denials --test lock_endings --test lock_foreign_mutexes --test lock_forks --test lock_pid_namespaces --test lock_raw_threads --test lock_reused_ids")
                            .with("SHM_STATE_KILL_SECONDS", "30"))),
    ("linearizability", Work::Test(Step::run("linearizability", "cargo test --release --locked --features kill-points --test linearizability -- --nocapture")
                            .with("ZPROC_LINEAR_ROUNDS", "1000000").with("ZPROC_LINEAR_SECONDS", "300"))),
    ("shipped",         Work::Test(Step::run("linearizability as shipped", "cargo test --release --locked --test linearizability -- --nocapture")
                            .with("ZPROC_LINEAR_ROUNDS", "1000000").with("ZPROC_LINEAR_SECONDS", "300"))),
    ("damage",          Work::Test(Step::run("damage", "cargo test --release -p shm-state -p zproc --locked --config profile.release.debug-assertions=true --config profile.release.overflow-checks=true --test damage -- --nocapture")
                            .with("ZPROC_DAMAGE_ROUNDS", "200000").with("ZPROC_DAMAGE_LIVE", "60"))),
    ("limits",          Work::Test(Step::run("limits", "cargo test --release -p shm-state -p zproc --locked --test limits_size --test limits_many --test many_keys -- --nocapture --test-threads=1"))),
];

/// Which proofs, with which seed.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    names: Vec<String>,
    seed: u64,
}

impl Options {
    /// Reads the options; an error names the one that makes no sense.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut options = Self {
            names: Vec::new(),
            seed: clock.as_secs(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--seed" {
                let value = arguments.next().ok_or("--seed needs a number")?;
                let seed = value.parse();
                options.seed = seed.map_err(|_| format!("--seed needs a number, got '{value}'"))?;
            } else if PROOFS.iter().any(|(name, _)| name == argument) {
                options.names.push(argument.clone());
            } else {
                let names: Vec<&str> = PROOFS.iter().map(|(name, _)| *name).collect();
                return Err(format!("there is no proof '{argument}', only {}", names.join(", ")));
            }
        }
        Ok(options)
    }
}

/// Runs the proofs that are named, or all of them; all are run even if one fails.
pub fn run(options: &Options, root: &Path) -> Result<(), String> {
    let is_chosen = |name: &str| options.names.is_empty() || options.names.iter().any(|chosen| chosen == name);
    let mut summary = String::new();
    let mut failed = Vec::new();
    for (name, work) in PROOFS.iter().filter(|(name, _)| is_chosen(name)) {
        println!("\n==> prove {name} (seed {})", options.seed);
        let start = Instant::now();
        let result = match work {
            Work::Instructions => instructions::run(options.seed, root),
            Work::Test(step) => step.finish(root),
        };
        let seconds = start.elapsed().as_secs_f64();
        let end = match result {
            Ok(()) => "held".to_owned(),
            Err(error) => {
                failed.push(*name);
                format!("FAILED: {error}")
            }
        };
        println!("<== prove {name}: {end}");
        summary += &format!("{seconds:>8.1} s  {name}: {end}\n");
    }
    print!("\n{summary}");
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "not proved: {}; repeat it: cargo xtask prove {} --seed {}",
            failed.join(", "),
            failed.join(" "),
            options.seed
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn proofs_are_chosen_by_name() {
        let expected = Options {
            names: vec!["limits".into(), "stores".into()],
            seed: 5,
        };
        assert_eq!(parse("limits --seed 5 stores"), Ok(expected));
        assert!(parse("--seed").unwrap_err().contains("--seed"));
        assert!(parse("--seed x").unwrap_err().contains("'x'"));
        assert!(parse("everything").unwrap_err().contains("stores"));
    }
}
