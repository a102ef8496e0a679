//! The loop over a state: the plant publishes a tick in one update, and the controller waits for its number.

use std::os::fd::OwnedFd;

use zproc::{Builder, Error, Snapshot, State};

use crate::pendulum::Motion;
use crate::realtime::now_ns;
use crate::{Answer, Result, Waiting};

/// Updates that are kept, two for each tick: a controller that does not run for a second misses none.
const HISTORY: u32 = 4096;
/// More than a loop uses, so that nothing is added while it runs.
const MEMORY: u64 = 4 << 20;

const TICK: &str = "tick";
const LAST: &str = "last tick";

/// The plant's side.
pub struct Plant(State);

impl Plant {
    pub fn new() -> Result<Self> {
        let state = Builder::anonymous()
            .history(HISTORY, 64 << 20)
            .prefault(MEMORY)
            .create()?;
        state.insert(LAST, false)?;
        Ok(Self(state))
    }

    /// The memory, for the controller.
    pub fn memory(&self) -> Result<OwnedFd> {
        Ok(self.0.fd().ok_or("the state has no descriptor")?.try_clone_to_owned()?)
    }

    /// Publishes a tick: what is measured, and when. All of it or nothing is seen.
    pub fn publish(&self, tick: u64, due_ns: u64, motion: &Motion) -> Result<()> {
        Ok(self.0.atomic(|dict| {
            dict.insert("position", motion.position)?;
            dict.insert("speed", motion.speed)?;
            dict.insert("angle", motion.angle)?;
            dict.insert("turn", motion.turn)?;
            dict.insert("due", due_ns)?;
            dict.insert(TICK, tick)
        })?)
    }

    /// The last tick that was answered, and how.
    pub fn answer(&self) -> Result<Option<Answer>> {
        let now = self.0.snapshot()?;
        let Some(tick) = now.get("answered tick")? else {
            return Ok(None);
        };
        let (force, at_ns) = (now.get("force")?, now.get("answered at")?);
        let (Some(force), Some(at_ns)) = (force, at_ns) else {
            return Err("half an answer".into());
        };
        Ok(Some(Answer { tick, force, at_ns }))
    }

    /// Ends the controller.
    pub fn end(&self, tick: u64) -> Result<()> {
        Ok(self.0.atomic(|dict| {
            dict.insert(LAST, true)?;
            dict.insert(TICK, tick)
        })?)
    }
}

/// The controller's side: calls `ready` when it is, and `late` with how late it has each tick, until the last. Returns how
/// many it had.
pub fn control(
    memory: OwnedFd,
    waiting: Waiting,
    ready: impl FnOnce() -> Result<()>,
    mut late: impl FnMut(u64),
) -> Result<u64> {
    let state = Builder::anonymous()
        .wait_strategy(waiting.strategy())
        .prefault(MEMORY)
        .since(0)
        .from_fd(memory)?;
    let (mut tick, mut handled) = (0, 0);
    ready()?;
    loop {
        // One that came and went while this process did not run is found too, as long as it is in the history.
        let now = match state.get_when_equal(TICK, tick) {
            Err(Error::Lagged { .. }) => {
                tick = state.get(TICK)?.unwrap_or(tick);
                continue;
            }
            now => now?,
        };
        if now.get(LAST)? == Some(true) {
            return Ok(handled);
        }
        let due_ns: u64 = figure(&now, "due")?;
        late(now_ns().saturating_sub(due_ns));
        let motion = Motion {
            position: figure(&now, "position")?,
            speed: figure(&now, "speed")?,
            angle: figure(&now, "angle")?,
            turn: figure(&now, "turn")?,
        };
        drop(now);
        state.atomic(|dict| {
            dict.insert("force", motion.force())?;
            dict.insert("answered tick", tick)?;
            dict.insert("answered at", now_ns())
        })?;
        tick += 1;
        handled += 1;
    }
}

fn figure<T: zproc::FromValue>(now: &Snapshot<'_>, key: &str) -> Result<T> {
    Ok(now.get(key)?.ok_or_else(|| format!("a tick without {key}"))?)
}
