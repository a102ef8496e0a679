//! Chain reaction: each of twenty processes sleeps until the one before it has fallen, and then falls itself.
//!
//! ```text
//! cargo run --example chain_reaction
//! ```
//!
//! What a process has done before it writes comes before whatever another does once it has seen that. So the lines are in
//! order, although nobody but the state keeps it.

mod common;

use std::process::{self, ExitCode};

use common::{Result, Stage};
use zproc::State;

const DOMINOES: u32 = 20;

fn main() -> ExitCode {
    common::run("chain_reaction", push, |state, role| fall(state, role.parse()?))
}

/// What the process does that the user starts.
fn push(stage: &Stage) -> Result {
    // The last one first: in which order they start plays no part.
    let dominoes = stage.start((1..=DOMINOES).rev())?;
    println!("push");
    stage.state.insert("fallen", 0)?;
    stage.state.get_when_equal("fallen", DOMINOES)?;
    println!("all have fallen");
    dominoes.finish()
}

/// What each domino does.
fn fall(state: &State, number: u32) -> Result {
    // If that is past already, because this process started late, it is found in the history.
    state.get_when_equal("fallen", number - 1)?;
    println!("domino {number} falls (process {})", process::id());
    state.insert("fallen", number)?;
    Ok(())
}
