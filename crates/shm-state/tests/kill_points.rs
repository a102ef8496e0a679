//! The sweep: an operation is ended by SIGKILL before each of its stores to the arena, one store after the other.
//!
//! Each point gets an arena of its own, in the same state, so the stores are the same ones every time. After the
//! kill, readers look at the newest state and at every commit of the history, before anybody else does anything. Then a
//! process that was attached all along commits something else, without waiting for the lock at all; the state must
//! be that before the operation or that after it, and the verifier content; then other commits, churn, the verifier
//! again. That other commit matters: it gets the number that the dead one would have had. A watcher that slept through
//! all this must be awake in time, and places that were resolved before must not show another key's value.
//!
//! A test starts this binary again as a process with one thread, which forks a child for every point. `kill/` has
//! the operations ([`kill::operations`]), what is done at a point ([`kill::point`]) and what must hold then
//! ([`kill::aftermath`]); beside the sweep of operations, waiters and owners of a contended lock
//! ([`kill::contended`]), watchers that nobody else helps ([`kill::sleeper`]), and writers that are only stopped
//! ([`kill::stopped`]).
//!
//! Every point of everything, on two cores in two minutes:
//!
//! ```text
//! ZPROC_SWEEP=all cargo test --release -p shm-state --features kill-points,planted-faults --test kill_points
//! ```
//!
//! Without `ZPROC_SWEEP=all`, operations with many stores are sampled: every k-th point, beginning somewhere else
//! each time (`ZPROC_SWEEP_OFFSET` repeats a run). With `planted-faults` the sweep also has to notice mistakes that are
//! planted into the engine ([`kill::planted`]).

#![cfg(feature = "kill-points")]

mod common;
mod kill;

use std::process::Command;

use kill::{contended, lost_word, operations, random, sleeper, stopped, sweep};

const SCENARIO: &str = "ZPROC_SWEEP_SCENARIO";

/// Not a test by itself: the process that the others start.
#[test]
fn driver() {
    let Ok(name) = std::env::var(SCENARIO) else { return };
    match name.as_str() {
        "random" => random::run(),
        "sleepers" => sleeper::run(),
        "contended" => contended::run(),
        "stopped" => stopped::run(),
        "lost words" => lost_word::run(),
        #[cfg(feature = "planted-faults")]
        "planted" => kill::planted::run(),
        _ => sweep::run(&operations::named(&name)),
    }
}

/// Runs the driver. Returns whether it succeeded, and what it wrote.
fn drive(scenario: &str) -> (bool, String) {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "driver", "--nocapture", "--test-threads=1"]);
    let output = command.env(SCENARIO, scenario).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), format!("{text}\n{}", output.status))
}

#[track_caller]
fn survives(scenario: &str) {
    let (success, text) = drive(scenario);
    assert!(success, "{text}");
    let summary: Vec<&str> = text.lines().filter(|line| line.starts_with("swept")).collect();
    assert_eq!(summary.len(), 1, "{text}");
    println!("{}", summary[0]);
}

#[test]
fn random_transactions_over_a_recovered_arena_agree_with_the_model() {
    survives("random");
}

/// A reader that only spins never took part in finishing what the dead had decided, so without another writer it did
/// not see the last commit.
#[test]
fn sleepers_see_a_commit_whose_writer_died_before_it_was_visible() {
    survives("sleepers");
}

#[test]
fn a_lost_word_would_be_noticed() {
    survives("lost words");
}

#[test]
fn a_writer_that_is_stopped_holds_up_writers_only_and_wakes_sleepers_later() {
    survives("stopped");
}

#[cfg(feature = "planted-faults")]
#[test]
fn every_planted_fault_is_noticed() {
    survives("planted");
}

/// Also without the slices in which waiters look for themselves.
#[test]
fn a_waiter_or_an_owner_that_dies_between_others_leaves_nobody_asleep() {
    survives("contended");
}

/// One test for each scenario, so that they run side by side and fail by name.
macro_rules! sweeps {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                survives($name);
            }
        )*

        #[test]
        fn every_scenario_is_swept() {
            let mut swept = [$($name),*];
            let mut known: Vec<&str> = operations::all().iter().map(|s| s.name).collect();
            swept.sort_unstable();
            known.sort_unstable();
            assert_eq!(swept[..], known[..]);
        }
    };
}

sweeps! {
    a_kill_while_inserting_a_key_leaves_the_state_before_or_after: "insert",
    a_kill_while_overwriting_leaves_the_state_before_or_after: "overwrite",
    a_kill_on_the_straight_path_of_an_overwrite_leaves_the_state_before_or_after: "put",
    a_kill_on_the_straight_path_beside_a_pin_leaves_the_state_before_or_after: "put beside pins",
    a_kill_while_raising_the_floor_leaves_the_state_before_or_after: "trimming",
    a_kill_while_giving_blocks_back_unused_leaves_the_state_before_or_after: "dropped",
    a_kill_while_reaping_the_dead_leaves_the_state_before_or_after: "reaping",
    a_kill_while_removing_leaves_the_state_before_or_after: "remove",
    a_kill_while_popping_leaves_the_state_before_or_after: "pop",
    a_kill_in_a_transaction_of_64_keys_leaves_all_or_nothing: "transaction",
    a_kill_while_clearing_leaves_all_or_nothing: "clear",
    a_kill_while_the_index_grows_leaves_the_state_before_or_after: "growth",
    a_kill_while_the_index_drops_absent_keys_leaves_the_state_before_or_after: "dropping",
    a_kill_while_writing_a_large_value_leaves_the_state_before_or_after: "large",
    a_kill_while_writing_a_value_of_several_chunks_leaves_the_state_before_or_after: "chunks",
    a_kill_while_recycling_with_a_history_of_1_leaves_the_state_before_or_after: "recycling",
    a_kill_beside_a_pinned_snapshot_leaves_that_snapshot_alone: "pinned",
    a_kill_while_a_full_arena_drops_its_history_leaves_the_state_before_or_after: "history",
    a_kill_while_a_full_arena_merges_blocks_leaves_the_state_before_or_after: "merging",
    a_kill_while_a_full_arena_refuses_leaves_the_state_before: "refused",
    a_kill_while_removing_from_a_full_arena_leaves_the_state_before_or_after: "reserve",
    a_kill_while_aborting_leaves_the_state_before: "abort",
    a_kill_while_creating_a_namespace_leaves_none_or_a_whole_one: "namespace",
    a_kill_while_creating_an_arena_leaves_none_or_a_whole_one: "arena",
    a_kill_while_joining_leaves_the_state_alone: "join",
    a_kill_while_leaving_leaves_the_state_alone: "leave",
    a_kill_while_pinning_leaves_the_state_alone: "pin",
    a_kill_while_adding_seats_leaves_the_state_alone: "seats",
    a_kill_while_waiting_leaves_the_state_alone: "wait",
    a_kill_while_waking_up_leaves_the_state_alone: "watch",
    a_kill_while_verifying_leaves_the_state_alone: "verify",
    a_kill_while_joining_after_a_death_leaves_the_state_alone: "join after a death",
    a_kill_while_giving_back_what_the_dead_left_leaves_the_state_alone: "reap",
    a_kill_while_giving_back_a_dead_owners_lock_leaves_the_state_alone: "reap a lock",
}
