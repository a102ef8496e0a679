//! A controller and a plant in two processes, closed over a state a thousand times a second: an upright pendulum that
//! falls unless it is held up.
//!
//! ```text
//! cargo run --release --example control_loop -- [--seconds N] [--hz N] [--block|--spin] [--bare] [--svg FILE]
//! ```
//!
//! This process is the plant. At each tick it moves the pendulum on by one period under the last force, and publishes
//! what can be measured of it, with the number of the tick. The controller waits for that number (`get_when_equal`), works
//! out the force, and writes it back. It has one period for that: a force that is not there by the next tick is a missed
//! deadline.
//!
//! `--bare` closes a second loop over a bare futex, as a control: with a pendulum and a controller process of its own, on
//! the same ticks and CPUs, so that whatever the machine does to one loop it does to the other. `--block`, which is the
//! default, lets the controllers sleep until a tick, `--spin` has them look for it all the time.
//!
//! It prints how late the controllers had their ticks and how long the answers took, and draws the former as
//! `control_loop.svg`. `docs/real-time.md` tells what all of it means.

mod chart;
mod controller;
mod futex_wire;
mod pendulum;
mod plant;
mod realtime;
mod report;
mod state_wire;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use zproc::WaitStrategy;

use controller::Controller;
use plant::{Loop, Wire};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// How a controller passes the time until a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Block,
    Spin,
}

impl Waiting {
    fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Spin => "spin",
        }
    }

    fn named(name: &str) -> Result<Self> {
        [Self::Block, Self::Spin]
            .into_iter()
            .find(|waiting| waiting.name() == name)
            .ok_or_else(|| format!("there is no way to wait called {name}").into())
    }

    fn strategy(self) -> WaitStrategy {
        match self {
            Self::Block => WaitStrategy::Block,
            Self::Spin => WaitStrategy::Spin,
        }
    }
}

/// What a controller answered.
#[derive(Clone, Copy, Debug)]
struct Answer {
    tick: u64,
    force: f64,
    at_ns: u64,
}

/// What was asked for.
struct Settings {
    seconds: u64,
    hz: u64,
    waiting: Waiting,
    bare: bool,
    svg: PathBuf,
}

impl Settings {
    /// Ticks that count.
    fn ticks(&self) -> u64 {
        self.seconds * self.hz
    }

    /// Ticks before them, in which everything is done for the first time.
    fn warm_up(&self) -> u64 {
        self.hz.div_ceil(5)
    }

    fn period_ns(&self) -> u64 {
        1_000_000_000 / self.hz
    }

    fn parse(arguments: &[String]) -> Result<Self> {
        let mut settings = Self {
            seconds: 10,
            hz: 1000,
            waiting: Waiting::Block,
            bare: false,
            svg: "control_loop.svg".into(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seconds" => settings.seconds = value()?.parse()?,
                "--hz" => settings.hz = value()?.parse()?,
                "--block" => settings.waiting = Waiting::Block,
                "--spin" => settings.waiting = Waiting::Spin,
                "--bare" => settings.bare = true,
                "--svg" => settings.svg = value()?.into(),
                _ => return Err(format!("{argument}: see the head of its source for what there is").into()),
            }
        }
        if !(1..=3600).contains(&settings.seconds) || !(10..=10_000).contains(&settings.hz) {
            return Err("--seconds goes from 1 to 3,600, --hz from 10 to 10,000".into());
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match &arguments[..] {
        [role, rest @ ..] if role == controller::ROLE => controller::be(rest),
        _ => Settings::parse(&arguments).and_then(|settings| direct(&settings)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control_loop: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the loops, all at once if their controllers sleep. Two that spin would need a CPU each, so they take turns.
fn direct(settings: &Settings) -> Result<()> {
    let (own, others) = realtime::cpus()?;
    report::print_head(settings, own, others);
    let wires: &[fn() -> Result<Wire>] = match settings.bare {
        true => &[Wire::state, Wire::futex],
        false => &[Wire::state],
    };
    let at_once = match settings.waiting {
        Waiting::Block => wires.len(),
        Waiting::Spin => 1,
    };
    let mut loops = Vec::new();
    for wires in wires.chunks(at_once) {
        let running: Result<Vec<Loop>> = wires
            .iter()
            .map(|wire| {
                let wire = wire()?;
                let controller = Controller::start(&wire, others, settings)?;
                Loop::new(wire, controller)
            })
            .collect();
        let running = running?;
        let notes = realtime::prepare(own, settings.waiting == Waiting::Spin && own == others)?;
        if loops.is_empty() {
            report::print_notes(&notes);
        }
        loops.extend(plant::run(running, settings)?);
    }
    report::print_table(&loops);
    chart::draw(&settings.svg, &loops)?;
    println!("\ndrawn as {}", settings.svg.display());
    loops.iter().try_for_each(|ran| ran.check(settings))
}
