//! Atomicity: fifty processes contend to increment a counter, in a way that loses increments and in one that cannot.
//!
//! ```text
//! cargo run --example atomicity
//! ```
//!
//! `get` is atomic and `insert` is atomic, but others come in between. What is inside of `atomic` happens as if in one
//! instant: no other process writes meanwhile.

mod common;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Result, Stage};
use zproc::State;

const PROCESSES: u32 = 50;
/// How often each of them increments each counter.
const INCREMENTS: u32 = 20;

fn main() -> ExitCode {
    common::run("atomicity", contest, |state, _role| increment(state))
}

/// What the process does that the user starts.
fn contest(stage: &Stage) -> Result {
    let state = &stage.state;
    state.extend([("careless", 0), ("atomic", 0)])?;
    let processes = stage.start(1..=PROCESSES)?;
    // They wait for this, so that they run against each other.
    state.insert("go", true)?;
    processes.finish()?;

    let all = PROCESSES * INCREMENTS;
    let careless: u32 = state.get("careless")?.unwrap_or(0);
    let atomic: u32 = state.get("atomic")?.unwrap_or(0);
    println!("{PROCESSES} processes made {INCREMENTS} increments each, which is {all}.");
    println!("get and insert: {careless} counted, {} lost", all - careless);
    println!("atomic:         {atomic} counted, {} lost", all - atomic);
    Ok(())
}

/// What each of the fifty does.
fn increment(state: &State) -> Result {
    state.get_when_available("go")?;
    for _ in 0..INCREMENTS {
        let count: u32 = state.get("careless")?.unwrap_or(0);
        thread::sleep(Duration::from_millis(1)); // thinking; meanwhile others read the same number
        state.insert("careless", count + 1)?;

        state.atomic(|dict| dict.modify("atomic", |count: u32| count + 1))?;
    }
    Ok(())
}
