//! Luck test: five processes draw numbers until one of them draws the lucky one, and then all know who it was.
//!
//! ```text
//! cargo run --example luck_test
//! ```
//!
//! A draw is an atomic operation: it looks whether the game is over, and only if it is not, the draw counts. So there is
//! one winner, however close the others are behind.

mod common;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Result, Stage};
use zproc::{State, Transaction};

const PLAYERS: u32 = 5;
/// Numbers are drawn from 1 to this.
const HIGHEST: u64 = 100;
const LUCKY: u64 = 77;

fn main() -> ExitCode {
    common::run("luck_test", watch, |state, role| play(state, role.parse()?))
}

/// What the process does that the user starts: it sleeps until somebody is lucky.
fn watch(stage: &Stage) -> Result {
    let players = stage.start(1..=PLAYERS)?;
    // This is the state right after the lucky draw, whatever happens in the meantime.
    let end = stage.state.get_when(|game| Ok(game.get("number")? == Some(LUCKY)))?;
    let winner: u32 = end.get("player")?.unwrap_or(0);
    let draws: u32 = end.get("draws")?.unwrap_or(0);
    println!("draw {draws}: player {winner} has drawn {LUCKY}");
    players.finish()
}

/// What each player does.
fn play(state: &State, player: u32) -> Result {
    let draw = zproc::atomic(draw);
    while draw(state, (player, random_number()))? {
        thread::sleep(Duration::from_millis(1));
    }
    let end = state.get_when_equal("number", LUCKY)?;
    let winner: u32 = end.get("player")?.unwrap_or(0);
    println!("player {player} knows that player {winner} has won");
    Ok(())
}

/// Draws a number for a player. Returns false if the game is over, and then changes nothing.
fn draw(game: &mut Transaction<'_>, (player, number): (u32, u64)) -> zproc::Result<bool> {
    if game.get("number")? == Some(LUCKY) {
        return Ok(false);
    }
    game.insert("number", number)?;
    game.insert("player", player)?;
    game.modify_or("draws", 0, |draws: u32| draws + 1)?;
    Ok(true)
}

/// A number that is different for each process and each time. The keys of a hash map of std are.
fn random_number() -> u64 {
    RandomState::new().hash_one(()) % HIGHEST + 1
}
