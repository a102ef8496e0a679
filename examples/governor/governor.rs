//! The governor: switches the mode when the load crosses a threshold.

use zproc::{Snapshot, State};

use crate::{ORDER, Result, STOP, child, sampler, wait_until};

pub const BUSY: &str = "busy";
pub const CALM: &str = "calm";

const MODE: &str = "mode";
/// Each mode must have been switched to so often.
const LEAST_SWITCHES: u32 = 3;

/// The loads at which the mode becomes busy and calm: parts of one processor. They differ, so that a load in between
/// does not make the mode flap; and they are low, so that the load crosses the upper one even if it has to share its
/// processor with a dozen other programs.
const UPPER: f64 = 0.05;
const LOWER: f64 = 0.02;

/// What the governor does until it is told to stop.
pub fn govern(state: &State) -> Result<()> {
    state.insert(MODE, CALM)?;
    child::committed()?;
    let mut mode = CALM;
    loop {
        wait_until(state, |now| Ok(is_stopped(now)? || next_mode(now, mode)? != mode))?;
        if is_stopped(&state.snapshot()?)? {
            return Ok(());
        }
        mode = if mode == CALM { BUSY } else { CALM };
        // Both or neither: whoever sees the mode sees it counted.
        state.atomic(|dict| {
            dict.insert(MODE, mode)?;
            dict.modify_or(switches_to(mode), 0, |count: u32| count + 1)
        })?;
        child::committed()?;
    }
}

/// The key that tells how often the mode was switched to this one.
fn switches_to(mode: &str) -> String {
    format!("switches to {mode}")
}

/// The mode that the load asks for.
fn next_mode(now: &Snapshot<'_>, mode: &'static str) -> zproc::Result<&'static str> {
    Ok(match now.get::<f64>(sampler::LOAD)? {
        Some(load) if load > UPPER => BUSY,
        Some(load) if load < LOWER => CALM,
        _ => mode,
    })
}

fn is_stopped(now: &Snapshot<'_>) -> zproc::Result<bool> {
    Ok(now.get::<String>(ORDER)?.as_deref() == Some(STOP))
}

pub fn mode_is(now: &Snapshot<'_>, mode: &str) -> zproc::Result<bool> {
    Ok(now.get::<String>(MODE)?.as_deref() == Some(mode))
}

/// Fails unless the mode has changed often enough.
pub fn check_switches(now: &Snapshot<'_>) -> Result<()> {
    for mode in [BUSY, CALM] {
        let count = now.get::<u32>(switches_to(mode))?.unwrap_or(0);
        if count < LEAST_SWITCHES {
            return Err(format!("the mode became {mode} only {count} times, not {LEAST_SWITCHES}").into());
        }
    }
    Ok(())
}
