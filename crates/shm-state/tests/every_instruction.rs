//! Every operation, stepped through instruction by instruction: readers see the state before or the state after and
//! never wait, and whoever comes after a death recovers one of the two.
//!
//! The kill sweep (`kill_points.rs`) stops a test build before each store that it knows of. Here a tracer stops the
//! code that ships, as the compiler arranged it, after each machine instruction. `step/` has the parts; [`step::run`]
//! says what is checked and when.
//!
//! A plain run is a sample: of a long operation only the first 30,000 instructions are stepped, and what changes memory
//! is followed by checks less and less often. `ZPROC_STEP=all` leaves nothing out; `cargo xtask prove` does that with an
//! optimised build and prints a table. `ZPROC_STEP_SEED` repeats a run.

#![cfg(not(feature = "kill-points"))]

mod common;
mod step;

/// The operations, from the kill sweep.
mod kill {
    #![allow(dead_code, reason = "the kill sweep uses the rest")]
    pub mod act;
    pub mod aftermath;
    pub mod operations;
    pub mod scenario;
    pub mod stranger;
}

use std::process::Command;

use common::number_from_env;
use step::case;
use step::run::{self, Load};

const CASE: &str = "ZPROC_STEP_CASE";
const SEED: &str = "ZPROC_STEP_SEED";

fn load() -> Load {
    let all = std::env::var("ZPROC_STEP").is_ok_and(|v| v == "all");
    Load {
        all,
        seed: number_from_env(SEED).unwrap_or(u64::from(std::process::id())),
        steps: if all { u64::MAX } else { 30_000 },
        kills: if all { 60 } else { 2 },
        kill_steps: if all { 400_000 } else { 30_000 },
        enough: 10,
    }
}

/// Not a test by itself: the process that the others start.
#[test]
fn driver() {
    let Ok(name) = std::env::var(CASE) else { return };
    let case = case::all().into_iter().find(|case| case.name == name);
    let (case, load) = (case.expect("an unknown operation"), load());
    #[cfg(feature = "planted-faults")]
    if step::planted::run(&case, &load) {
        return;
    }
    let start = std::time::Instant::now();
    match run::run(&case, &load) {
        Ok(tally) => {
            println!(
                "\nstepped {name}: {} instructions{}, {} changed memory, {} looks, {} recoveries, {} kills, {} bad, {:.1} s",
                tally.instructions,
                if tally.partly { " of more" } else { "" },
                tally.changed,
                tally.looks,
                tally.recoveries,
                tally.kills,
                tally.bad,
                start.elapsed().as_secs_f64()
            );
            assert_eq!(tally.bad, 0, "{SEED}={}", load.seed);
        }
        Err(reason) => println!("\nNOT STEPPED {name}: {reason}"),
    }
}

/// The process that steps through one operation.
fn driver_of(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "driver", "--nocapture", "--test-threads=1"]);
    command.env(CASE, name).env(SEED, load().seed.to_string());
    command
}

/// Runs the driver for one operation.
#[track_caller]
fn holds(name: &str) {
    let output = driver_of(name).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{}", output.status);
    let summary: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("stepped") || line.starts_with("NOT STEPPED"))
        .collect();
    assert_eq!(summary.len(), 1, "{text}");
    println!("{}", summary[0]);
}

/// One test for each operation, so that they run side by side and fail by name.
macro_rules! steps {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                holds($name);
            }
        )*

        #[test]
        fn every_operation_is_stepped() {
            let mut stepped = [$($name),*];
            let mut known: Vec<&str> = case::all().iter().map(|case| case.name).collect();
            stepped.sort_unstable();
            known.sort_unstable();
            assert_eq!(stepped[..], known[..]);
        }
    };
}

steps! {
    inserting_a_key: "insert",
    overwriting: "overwrite",
    overwriting_on_the_straight_path: "put",
    overwriting_in_place: "put in place",
    overwriting_beside_pins: "put beside pins",
    removing: "remove",
    popping: "pop",
    a_transaction_of_64_keys: "transaction",
    clearing: "clear",
    growing_the_index: "growth",
    dropping_absent_keys: "dropping",
    a_large_value: "large",
    a_value_of_several_chunks: "chunks",
    recycling: "recycling",
    writing_beside_a_pinned_snapshot: "pinned",
    dropping_the_history: "history",
    merging_blocks: "merging",
    being_refused: "refused",
    removing_from_a_full_arena: "reserve",
    aborting: "abort",
    creating_a_namespace: "namespace",
    creating_an_arena: "arena",
    joining: "join",
    leaving: "leave",
    pinning: "pin",
    adding_seats: "seats",
    going_to_sleep: "wait",
    being_woken: "watch",
    waking_a_sleeper: "put that wakes",
    handing_the_lock_to_a_waiter: "put beside a waiter",
    waiting_for_the_lock_in_vain: "wait for the lock",
    trimming_the_history: "trimming",
    trimming_the_history_beside_pins: "trimming beside pins",
    giving_back_what_was_taken: "dropped",
    reaping_the_pins_of_the_dead: "reaping",
    verifying: "verify",
    joining_after_a_death: "join after a death",
    giving_back_what_the_dead_left: "reap",
    giving_back_a_dead_owners_lock: "reap a lock",
}

/// Whether the checks would notice a mistake.
#[cfg(feature = "planted-faults")]
#[test]
fn planted_faults_are_noticed() {
    step::planted::assert_noticed(driver_of);
}
