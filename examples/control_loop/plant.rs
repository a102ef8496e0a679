//! The plant: pendulums that are moved on at each tick, and the ticks themselves.

use std::os::fd::OwnedFd;

use hdrhistogram::Histogram;

use crate::controller::Controller;
use crate::pendulum::Motion;
use crate::realtime::{now_ns, sleep_until};
use crate::{Answer, Result, Settings, futex_wire, report, state_wire};

/// How often a pendulum is pushed, in seconds of its own time, and by how much.
const PUSHES: f64 = 2.5;
const PUSH: f64 = 0.3;
/// With so many ticks in a row unanswered, a pendulum may fall.
const TOLERABLE: u64 = 100;
/// Nobody is held to the first tick's time before it.
const LEAD_NS: u64 = 20_000_000;

/// What a loop is closed over.
pub enum Wire {
    State(Box<state_wire::Plant>),
    Futex(futex_wire::Plant),
}

impl Wire {
    pub const STATE: &str = "zproc";
    pub const FUTEX: &str = "bare futex";

    pub fn state() -> Result<Self> {
        Ok(Self::State(Box::new(state_wire::Plant::new()?)))
    }

    pub fn futex() -> Result<Self> {
        Ok(Self::Futex(futex_wire::Plant::new()?))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::State(_) => Self::STATE,
            Self::Futex(_) => Self::FUTEX,
        }
    }

    pub fn memory(&self) -> Result<OwnedFd> {
        match self {
            Self::State(wire) => wire.memory(),
            Self::Futex(wire) => wire.memory(),
        }
    }

    fn publish(&self, tick: u64, due_ns: u64, motion: &Motion) -> Result<()> {
        match self {
            Self::State(wire) => wire.publish(tick, due_ns, motion),
            Self::Futex(wire) => {
                wire.publish(tick, due_ns, motion);
                Ok(())
            }
        }
    }

    fn answer(&self) -> Result<Option<Answer>> {
        match self {
            Self::State(wire) => wire.answer(),
            Self::Futex(wire) => Ok(wire.answer()),
        }
    }

    fn end(&self, tick: u64) -> Result<()> {
        match self {
            Self::State(wire) => wire.end(tick),
            Self::Futex(wire) => {
                wire.end(tick);
                Ok(())
            }
        }
    }
}

/// A loop: a pendulum, and its controller.
pub struct Loop {
    wire: Wire,
    controller: Controller,
    motion: Motion,
    force: f64,
    published_ns: u64,
    round_trips: Histogram<u64>,
    missed: u64,
    missed_in_a_row: u64,
    most_in_a_row: u64,
}

/// What came of a loop.
pub struct Ran {
    pub name: &'static str,
    /// Nanoseconds from when a tick was due until the controller had it.
    pub lateness: Histogram<u64>,
    /// Nanoseconds from the publication of a tick until its answer, of those answered in time.
    pub round_trips: Histogram<u64>,
    /// Ticks without an answer in time. Those that the plant itself was too late for are among them.
    pub missed: u64,
    /// Of them, how many all loops missed.
    pub missed_by_all: u64,
    /// Nanoseconds from when a tick was due until the plant ran.
    pub timer: Histogram<u64>,
    /// Ticks that the plant published, those that do not count included.
    pub published: u64,
    handled: u64,
    motion: Motion,
    most_in_a_row: u64,
}

impl Loop {
    pub fn new(wire: Wire, controller: Controller) -> Result<Self> {
        Ok(Self {
            wire,
            controller,
            motion: Motion::START,
            force: 0.0,
            published_ns: 0,
            round_trips: report::histogram()?,
            missed: 0,
            missed_in_a_row: 0,
            most_in_a_row: 0,
        })
    }

    /// Looks whether `tick` was answered until its `deadline`.
    fn settle(&mut self, tick: u64, deadline_ns: u64, counts: bool) -> Result<bool> {
        let answer = self.wire.answer()?;
        let in_time = answer.filter(|answer| answer.tick == tick && answer.at_ns <= deadline_ns);
        // A late one is better than the one before.
        self.force = answer.map_or(self.force, |answer| answer.force);
        self.missed_in_a_row = if in_time.is_some() { 0 } else { self.missed_in_a_row + 1 };
        self.most_in_a_row = self.most_in_a_row.max(self.missed_in_a_row);
        match in_time {
            _ if !counts => {}
            Some(answer) => self
                .round_trips
                .saturating_record(answer.at_ns.saturating_sub(self.published_ns)),
            None => self.missed += 1,
        }
        Ok(in_time.is_some())
    }

    fn publish(&mut self, tick: u64, due_ns: u64, settings: &Settings) -> Result<()> {
        let seconds = 1.0 / settings.hz as f64;
        self.motion = self.motion.after(seconds, self.force);
        if tick.is_multiple_of((PUSHES / seconds) as u64) {
            self.motion.turn += PUSH;
        }
        self.published_ns = now_ns();
        self.wire.publish(tick, due_ns, &self.motion)
    }
}

/// Runs loops at once, on the same ticks.
pub fn run(mut loops: Vec<Loop>, settings: &Settings) -> Result<Vec<Ran>> {
    let period_ns = settings.period_ns();
    let mut timer = report::histogram()?;
    let (mut tick, mut counted, mut missed_by_all) = (0, 0, 0);
    let mut due_ns = now_ns() + LEAD_NS;
    loop {
        sleep_until(due_ns)?;
        let woken_ns = now_ns();
        if tick > 0 {
            let counts = tick > settings.warm_up();
            let mut in_time = 0;
            for each in &mut loops {
                in_time += usize::from(each.settle(tick - 1, due_ns, counts)?);
            }
            missed_by_all += u64::from(counts && in_time == 0);
        }
        if counted == settings.ticks() {
            break;
        }
        let counts = tick >= settings.warm_up();
        if counts {
            timer.saturating_record(woken_ns - due_ns);
        }
        // By turns, so that none is always the first to wake its controller.
        let odd = tick % 2 == 1;
        if odd {
            loops
                .iter_mut()
                .rev()
                .try_for_each(|each| each.publish(tick, due_ns, settings))?;
        } else {
            loops
                .iter_mut()
                .try_for_each(|each| each.publish(tick, due_ns, settings))?;
        }
        counted += u64::from(counts);
        tick += 1;
        due_ns += period_ns;
    }
    loops
        .into_iter()
        .map(|each| each.finish(tick, &timer, missed_by_all))
        .collect()
}

impl Loop {
    fn finish(self, tick: u64, timer: &Histogram<u64>, missed_by_all: u64) -> Result<Ran> {
        self.wire.end(tick)?;
        let account = self.controller.finish()?;
        Ok(Ran {
            name: self.wire.name(),
            lateness: account.lateness,
            round_trips: self.round_trips,
            missed: self.missed,
            missed_by_all,
            timer: timer.clone(),
            published: tick,
            handled: account.handled,
            motion: self.motion,
            most_in_a_row: self.most_in_a_row,
        })
    }
}

impl Ran {
    /// Fails unless all ticks are accounted for and the pendulum stands.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        let name = self.name;
        let accounted = self.round_trips.len() + self.missed;
        if accounted != settings.ticks() {
            return Err(format!("{name}: {accounted} ticks are accounted for, of {}", settings.ticks()).into());
        }
        // A bare futex has no history, so its controller may have missed some.
        let all = self.published;
        if self.handled > all || (name == Wire::STATE && self.handled != all) {
            return Err(format!("{name}: the controller saw {} of {all} ticks", self.handled).into());
        }
        if self.motion.has_fallen() && self.most_in_a_row <= TOLERABLE {
            return Err(format!("{name}: the pendulum fell: {:?}", self.motion).into());
        }
        Ok(())
    }

    /// How the pendulum ended.
    pub fn outcome(&self) -> String {
        if self.motion.has_fallen() {
            format!("fell, {} ticks in a row unanswered", self.most_in_a_row)
        } else {
            format!("stands, {:.4} rad from upright", self.motion.angle.abs())
        }
    }
}
