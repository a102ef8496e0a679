//! Peanut processor: peanuts come faster than they can be eaten. Three consumers deal with that in three manners.
//!
//! ```text
//! cargo run --example peanut_processor
//! ```
//!
//! * `live` eats what comes while it is watching, and misses what comes while it is eating.
//! * `buffered` eats each one, and is late.
//! * `hybrid` eats each one, until it was away for a while: then it forgets what came meanwhile.

mod common;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use common::{Result, Stage};
use zproc::{Error, State};

const PEANUTS: u32 = 30;
const BETWEEN_TWO: Duration = Duration::from_millis(20);
const EATING: Duration = Duration::from_millis(40);
/// The hybrid consumer goes away after so many, and stays away for so long.
const BREAK_AFTER: usize = 5;
const BREAK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    common::run("peanut_processor", produce, consume)
}

/// What the process does that the user starts.
fn produce(stage: &Stage) -> Result {
    let consumers = stage.start(["live", "buffered", "hybrid"])?;
    stage.state.get_when_equal("consumers", 3)?;
    for peanut in 1..=PEANUTS {
        stage.state.insert("peanut", peanut)?;
        sleep(BETWEEN_TWO);
    }
    stage.state.insert("closed", true)?;
    consumers.finish()
}

/// What each consumer does.
fn consume(state: &State, manner: &str) -> Result {
    state.atomic(|dict| dict.modify_or("consumers", 0, |count: u32| count + 1))?;
    let eaten = match manner {
        "live" => eat_live(state)?,
        _ => eat_in_turn(state, manner == "hybrid")?,
    };
    let numbers: Vec<_> = eaten.iter().map(u32::to_string).collect();
    println!("{manner:<8} ate {:>2}: {}", eaten.len(), numbers.join(" "));
    Ok(())
}

fn eat_live(state: &State) -> Result<Vec<u32>> {
    let mut eaten = Vec::new();
    // It may miss the end as well. So it does not wait for ever, and looks at how things are.
    let watch = state.watch().live().timeout(10 * BETWEEN_TWO);
    while !state.contains_key("closed")? {
        match watch.get_when_change(["peanut"]) {
            Ok(now) => eaten.extend(now.get::<u32>("peanut")?),
            Err(Error::Timeout) => continue,
            Err(error) => return Err(error.into()),
        }
        sleep(EATING);
    }
    Ok(eaten)
}

fn eat_in_turn(state: &State, takes_a_break: bool) -> Result<Vec<u32>> {
    let mut eaten = Vec::new();
    loop {
        let now = state.get_when_change(["peanut", "closed"])?;
        if now.contains_key("closed")? {
            return Ok(eaten);
        }
        eaten.extend(now.get::<u32>("peanut")?);
        sleep(EATING);
        if takes_a_break && eaten.len() == BREAK_AFTER {
            sleep(BREAK);
            state.go_live()?;
            // In this order: what happens after the look is buffered again.
            if state.contains_key("closed")? {
                return Ok(eaten);
            }
        }
    }
}
