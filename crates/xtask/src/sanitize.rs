//! `cargo xtask sanitize`: the tests under the sanitizers of the compiler.
//!
//! The compiler has them behind unstable flags, but ships their run-times with the stable toolchain, so
//! `RUSTC_BOOTSTRAP=1` is all it takes. For the thread sanitizer the standard library is built, too, from its sources
//! (`rustup component add rust-src`): it would not see how an `Arc`, a channel or the end of a thread hands memory over.
//!
//! Each sanitizer first has to find the mistake in a small program (`sanitize/*.rs`): one that sees nothing proves
//! nothing. What they cannot see at all is told in `docs/reliability.md`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::step;

/// One sanitizer.
pub struct Sanitizer {
    /// Its name for the compiler and for `cargo xtask sanitize`.
    name: &'static str,
    /// What its reports begin with.
    report: &'static str,
    /// The variable with its options, and the options.
    options: (&'static str, &'static str),
    /// Whether it has to see the standard library as well.
    with_std: bool,
    /// Tests that it cannot run, and why.
    skipped: &'static [(&'static str, &'static str)],
    /// Test programs that it cannot run, and why.
    left_out: Option<(&'static [&'static str], &'static str)>,
}

const SHORT_OF_ADDRESSES: (&str, &str) = (
    "just_enough_address_space_gives_an_arena_or_an_error_and_nothing_between",
    "the sanitizer itself ends where there is not enough for its own mappings",
);

const CLONES: &str =
    "it takes a clone that shares its parent's memory, as a child has until it executes, for a fork, and ends";

const NO_CALLS: &str = "it puts signals off until a call of the C library, of which a spinning thread makes none";

const ENDS: &str = "threads and processes end there in every way that drops nothing";

const SANITIZERS: [Sanitizer; 3] = [
    Sanitizer {
        name: "address",
        report: "AddressSanitizer",
        // Leaks are the next one's.
        options: (
            "ASAN_OPTIONS",
            // What was freed is kept for a while, out of the memory to which a test of damage limits itself.
            "detect_leaks=0:detect_stack_use_after_return=1:allocator_may_return_null=1:handle_segv=0:quarantine_size_mb=16",
        ),
        with_std: false,
        skipped: &[
            SHORT_OF_ADDRESSES,
            (
                "a_bare_thread_that_holds_the_lock_keeps_everybody_out",
                "two threads that share their thread-local state share the sanitizer's idea of their stack, too",
            ),
            (
                "an_error_at_the_address_of_another_is_not_taken_for_it",
                "the sanitizer does not soon give out again what was freed",
            ),
        ],
        left_out: None,
    },
    Sanitizer {
        name: "leak",
        report: "LeakSanitizer",
        options: (
            "LSAN_OPTIONS",
            "report_objects=1:allocator_may_return_null=1:handle_segv=0",
        ),
        with_std: false,
        skipped: &[
            (
                "where_no_thread_can_be_started_opening_is_an_error_and_works_later",
                "the sanitizer needs a thread itself when the process ends",
            ),
            ("waiters_killed_at_any_moment_hold_nobody_up", ENDS),
            ("an_arena_of_an_inner_namespace_is_refused_outside", ENDS),
        ],
        left_out: Some((
            &[
                "lock_foreign_mutexes",
                "lock_forks",
                "lock_raw_threads",
                "lock_reused_ids",
            ],
            ENDS,
        )),
    },
    Sanitizer {
        name: "thread",
        report: "ThreadSanitizer",
        options: (
            "TSAN_OPTIONS",
            "history_size=7:die_after_fork=0:allocator_may_return_null=1",
        ),
        with_std: true,
        skipped: &[
            SHORT_OF_ADDRESSES,
            ("a_reader_that_is_killed_leaves_nothing_that_stays", CLONES),
            ("a_vfork_child_that_only_ends_leaves_the_lock_alone", CLONES),
            ("a_signal_handler_ends_a_wait_whichever_thread_it_runs_on", NO_CALLS),
            (
                "watch_cancel::a_signal_handler_ends_a_wait_whichever_thread_it_runs_on",
                NO_CALLS,
            ),
        ],
        left_out: Some((
            &[
                "call_when",
                "context",
                "lock_foreign_mutexes",
                "lock_raw_threads",
                "process",
                "process_builds",
                "process_map",
                "process_map_ends",
                "process_map_workers",
                "process_retries",
                "process_signals",
                "process_survival",
                "server",
                "server_defence",
                "server_remote",
                "server_signals",
            ],
            CLONES,
        )),
    },
];

/// Which ones the arguments name; all, if none.
pub fn chosen(arguments: &[String]) -> Result<Vec<&'static Sanitizer>, String> {
    if arguments.is_empty() {
        return Ok(SANITIZERS.iter().collect());
    }
    let named = |name: &String| {
        let found = SANITIZERS.iter().find(|sanitizer| sanitizer.name == name);
        found.ok_or_else(|| format!("there is no sanitizer '{name}', only address, leak and thread"))
    };
    arguments.iter().map(named).collect()
}

/// Runs the tests under each of them; the error names the first that found something.
pub fn run(chosen: &[&Sanitizer], root: &Path) -> Result<(), String> {
    let host = host(root)?;
    for sanitizer in chosen {
        println!("\n==> {}: does it see its mistake?", sanitizer.name);
        sanitizer.prove_itself(root, &host)?;
        println!("<== it does\n\n==> {}: the tests", sanitizer.name);
        let mut tests = Command::new("cargo");
        tests.arg("test");
        if sanitizer.with_std {
            tests.arg("-Zbuild-std");
        }
        tests
            .args(["--locked", "-p", "shm-state", "-p", "zproc", "--lib"])
            .args(sanitizer.programs(root)?.iter().flat_map(|name| ["--test", name]))
            .args(["--target", &host, "--target-dir"])
            .arg(root.join("target/sanitize").join(sanitizer.name))
            // One at a time: they take longer than what they wait for is given, and much memory.
            .args(["--no-fail-fast", "--", "--test-threads=1", "--exact"])
            .env("RUSTFLAGS", sanitizer.flags().join(" "))
            // Debug assertions stay on.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        for (test, reason) in sanitizer.skipped {
            println!("    without {test}: {reason}");
            tests.args(["--skip", test]);
        }
        sanitizer.prepare(&mut tests, root);
        step::finish(&mut tests).map_err(|error| format!("the {} sanitizer: {error}", sanitizer.name))?;
        println!("<== {}: nothing found", sanitizer.name);
    }
    Ok(())
}

impl Sanitizer {
    /// The test programs of both crates that it runs.
    fn programs(&self, root: &Path) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for package in ["shm-state", "zproc"] {
            let directory = root.join("crates").join(package).join("tests");
            let failed = |error| format!("{}: {error}", directory.display());
            for entry in std::fs::read_dir(&directory).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if let (Some("rs"), Some(name)) = (
                    path.extension().and_then(|extension| extension.to_str()),
                    path.file_stem().and_then(|name| name.to_str()),
                ) {
                    names.push(name.to_owned());
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        if let Some((left_out, reason)) = self.left_out {
            println!("    without all of {}: {reason}", left_out.join(", "));
            names.retain(|name| !left_out.contains(&name.as_str()));
        }
        Ok(names)
    }

    fn flags(&self) -> [String; 3] {
        [
            format!("-Zsanitizer={}", self.name),
            "-Cunsafe-allow-abi-mismatch=sanitizer".into(),
            "-Cdebuginfo=1".into(),
        ]
    }

    fn prepare(&self, command: &mut Command, root: &Path) {
        let (variable, options) = self.options;
        command
            .current_dir(root)
            .stdin(Stdio::null())
            .env("RUSTC_BOOTSTRAP", "1")
            .env(variable, options);
    }

    /// Fails unless the program with the mistake is caught.
    fn prove_itself(&self, root: &Path, host: &str) -> Result<(), String> {
        let directory = root.join("target/sanitize");
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let program = directory.join(format!("mistake-{}", self.name));
        let mut compiler = Command::new("rustc");
        compiler
            .arg(format!("crates/xtask/sanitize/{}.rs", self.name))
            .args(self.flags())
            .args(["--target", host, "-o"])
            .arg(&program);
        self.prepare(&mut compiler, root);
        step::finish(&mut compiler)
            .map_err(|error| format!("this toolchain has no {} sanitizer: {error}", self.name))?;
        let mut mistake = Command::new(&program);
        self.prepare(&mut mistake, root);
        let output = mistake
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && text.contains(self.report) {
            Ok(())
        } else {
            Err(format!(
                "the {} sanitizer did not see the mistake in {}.rs ({}):\n{text}",
                self.name, self.name, output.status
            ))
        }
    }
}

/// The target that this machine is. Naming it keeps the flags from build scripts and procedural macros.
fn host(root: &Path) -> Result<String, String> {
    let version = step::quiet(root, "rustc", &["-vV"]).ok_or("rustc -vV failed")?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
        .ok_or_else(|| format!("rustc -vV does not name its host:\n{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Result<Vec<&'static str>, String> {
        let arguments: Vec<String> = arguments.iter().map(|name| String::from(*name)).collect();
        chosen(&arguments).map(|chosen| chosen.iter().map(|sanitizer| sanitizer.name).collect())
    }

    #[test]
    fn sanitizers_are_chosen_by_name() {
        assert_eq!(names(&[]), Ok(vec!["address", "leak", "thread"]));
        assert_eq!(names(&["thread", "leak"]), Ok(vec!["thread", "leak"]));
        assert!(names(&["memory"]).unwrap_err().contains("'memory'"));
    }
}
