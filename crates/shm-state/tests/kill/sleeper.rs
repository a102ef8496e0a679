//! Watchers that sleep while a writer is killed: none sleeps on.
//!
//! Two questions. With a next writer at once ([`Sleepers`], at every point of the sweep): does every watcher learn of what
//! was committed? And when nobody else ever comes ([`run`], at every point at which a commit is decided): does it
//! finish the dead writer's commit itself? Either way it must be awake within a second and what a loaded machine adds.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use shm_state::{Deadline, On, Strategy, kill_at};

use super::point::{self, Kill};
use super::scenario::{Scenario, Template, World};
use super::{end_within, operations};
use crate::common::eventually;
use crate::common::model::{self, assert_same};
use crate::common::process::{Board, end_of, fork, start_fork};

/// A sleeper looks for itself after a second. The rest is for a machine that is overloaded.
const BOUND: Duration = Duration::from_secs(1 + 4);
/// Those who were awake by then did not need that look.
const AT_ONCE: Duration = Duration::from_millis(500);
/// What a sleeper leaves on its board: when it was awake, in ns.
const AWAKE: u64 = 0;
/// How many sleepers are left to themselves before the first is waited for.
const PARKED: usize = 48;

/// Whether a process with one thread sleeps.
pub fn sleeps(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// A process that waits for the next commit.
pub struct Sleeper {
    pid: i32,
    board: Board,
}

impl Sleeper {
    /// Starts one, and waits until it sleeps.
    pub fn start(world: &World) -> Self {
        let sleeper = Self::start_with(world, Strategy::Block);
        eventually("the sleeper to fall asleep", || sleeps(sleeper.pid));
        sleeper
    }

    fn start_with(world: &World, strategy: Strategy) -> Self {
        let (seq, board) = (world.namespace.seq(), Board::new());
        let pid = start_fork(|| {
            // SAFETY: a plain request to the kernel: this process ends with its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            std::panic::set_hook(Box::new(|info| eprintln!("a sleeper: {info}")));
            let (_arena, namespace) = world.open();
            let (deadline, cancel) = (Deadline::after(Duration::from_secs(60)), AtomicBool::new(false));
            let newer = |now| Ok((now > seq).then_some(now));
            board.set(1, 1);
            let found = namespace.wait(On::Any, strategy, deadline, &cancel, newer).unwrap();
            assert!(
                found.is_ok_and(|now| now > seq),
                "{found:?} instead of a commit after {seq}"
            );
            board.set(AWAKE, Self::now().as_nanos() as u64);
        });
        board.wait_for(1, 1);
        Self { pid, board }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The time, as all processes see it.
    pub fn now() -> Duration {
        clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
    }

    /// Waits until it is awake; returns how long after `since` it was.
    fn end(self, since: Duration) -> Duration {
        let status = end_of(self.pid);
        assert!(status.success(), "the sleeper: {status}");
        Duration::from_nanos(self.board.get(AWAKE)).saturating_sub(since)
    }
}

/// Sleepers whose points have been visited, and who should wake up by themselves.
#[derive(Default)]
pub struct Sleepers {
    parked: VecDeque<(Sleeper, Duration, u64)>,
    /// How many woke up.
    pub woken: u64,
    /// How many of them only when they looked for themselves.
    pub late: u64,
}

impl Sleepers {
    /// Leaves a sleeper to itself, whose writer died at that time before that store.
    pub fn park(&mut self, sleeper: Sleeper, died: Duration, at: u64) {
        self.parked.push_back((sleeper, died, at));
        if self.parked.len() > PARKED {
            self.settle_first();
        }
    }

    fn settle_first(&mut self) {
        let Some((sleeper, died, at)) = self.parked.pop_front() else {
            return;
        };
        let took = sleeper.end(died);
        assert!(
            took <= BOUND,
            "the sleeper beside a writer that was killed before store {at} slept on for {took:?}"
        );
        self.woken += 1;
        self.late += u64::from(took > AT_ONCE);
    }

    /// Waits for all.
    pub fn settle(&mut self) {
        end_within(point::HANG);
        while !self.parked.is_empty() {
            self.settle_first();
        }
    }
}

/// A commit that is decided, whose writer is dead, and that nobody but the sleeper can make visible.
struct Alone {
    world: World,
    sleeper: Sleeper,
    died: Duration,
    at: u64,
}

impl Alone {
    fn start(scenario: &Scenario, template: &Template, at: u64, strategy: Strategy) -> Self {
        let mut world = template.copy();
        (scenario.setup_after_pins)(&mut world);
        let sleeper = Sleeper::start_with(&world, strategy);
        if strategy != Strategy::Spin {
            eventually("the sleeper to fall asleep", || sleeps(sleeper.pid));
        }
        let signal = fork(|| {
            let (_arena, namespace) = world.open();
            kill_at(at);
            point::commit(&namespace, scenario);
        });
        assert_eq!(signal, Some(libc::SIGKILL), "{} at {at}", scenario.name);
        let died = Sleeper::now();
        Self {
            world,
            sleeper,
            died,
            at,
        }
    }

    /// Nobody looks at the arena before the sleeper has ended.
    fn end(self, scenario: &Scenario) {
        let took = self.sleeper.end(self.died);
        let what = format!("{}, killed before store {}", scenario.name, self.at);
        assert!(took <= BOUND, "{what}: the sleeper slept on for {took:?}");
        let after = model::after(&self.world.model, &scenario.changes);
        assert_same(&model::contents(&self.world.namespace), &after, &what);
        model::check(&self.world.arena, &self.world.namespace, &after, &what);
    }
}

/// Kills writers at every point at which their commit is decided; a lone sleeper must see the commit all the same.
pub fn run() {
    let strategies = [Strategy::Block, Strategy::Spin, Strategy::default()];
    let mut summary = Vec::new();
    for name in [
        "insert",
        "put",
        "remove",
        "clear",
        "growth",
        "recycling",
        "transaction",
        "dropped",
    ] {
        let scenario = operations::named(name);
        let template = Template::of(&scenario);
        let stores = point::visit(&scenario, &template, Kill::at(u64::MAX), None).stores;
        // The first point at which the commit is decided, by bisection: it is decided from there on.
        let (mut before, mut decided) = (0, stores);
        while before < decided {
            let middle = before.midpoint(decided);
            if point::visit(&scenario, &template, Kill::at(middle), None).is_after {
                decided = middle;
            } else {
                before = middle + 1;
            }
        }
        // Every strategy at every point of small commits; of large ones each point with one of them.
        let many = (stores - decided) > 40;
        let cases: Vec<(u64, Strategy)> = (decided..stores)
            .flat_map(|at| strategies.map(|strategy| (at, strategy)))
            .enumerate()
            .filter(|(number, (at, _))| !many || *number as u64 % 3 == *at % 3)
            .map(|(_, case)| case)
            .collect();
        for cases in cases.chunks(PARKED) {
            end_within(120);
            let alone: Vec<Alone> = cases
                .iter()
                .map(|(at, strategy)| Alone::start(&scenario, &template, *at, *strategy))
                .collect();
            alone.into_iter().for_each(|alone| alone.end(&scenario));
        }
        summary.push(format!("{} beside {name}", cases.len()));
    }
    println!("\nswept sleepers: {}", summary.join(", "));
}
