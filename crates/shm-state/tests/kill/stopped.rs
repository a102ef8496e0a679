//! Writers that are stopped before each of their stores and go on later: they hold up writers and nobody else.
//!
//! While the writer is stopped, readers see the state before or after its commit at once, another writer learns at its
//! deadline who has the lock, and nobody robs it. When it goes on, its commit is made, and a watcher that slept all
//! the time is woken, and does not only find out by itself.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shm_state::{Deadline, Error, kill_points_passed, stop_at};

use super::scenario::{Scenario, Template};
use super::sleeper::{Sleeper, Sleepers};
use super::{aftermath, end_within, operations, point};
use crate::common::model;
use crate::common::process::{Board, start_fork, wait_for};

/// A watcher that is woken may still be late when the machine is overloaded, but not every time.
const TRIES: usize = 4;

/// Whether a writer was stopped at that point, and whether its watcher had to find out by itself.
struct Outcome {
    stopped: bool,
    late: bool,
    stores: u64,
}

fn visit(scenario: &Scenario, template: &Template, at: u64) -> Outcome {
    end_within(point::HANG);
    let mut world = template.copy();
    let (base, board) = (world.namespace.seq(), Board::new());
    let after = model::after(&world.model, &scenario.changes);
    let sleeper = Sleeper::start(&world);
    let child = start_fork(|| {
        let (_arena, namespace) = world.open();
        stop_at(at);
        point::commit(&namespace, scenario);
        board.set(0, kill_points_passed());
        // SAFETY: ends this process before it closes anything.
        unsafe { libc::_exit(0) };
    });
    let pid = Pid::from_raw(child);
    let stopped = matches!(
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap(),
        WaitStatus::Stopped(_, Signal::SIGSTOP)
    );
    if stopped {
        aftermath::check_readers(&world, base, &after, None);
        let holder = world.namespace.lock_holder().map(|(pid, _)| pid);
        match (holder, world.namespace.begin(Deadline::at_once())) {
            // It is before its lock, or behind its unlock.
            (None, Ok(tx)) => drop(tx),
            (Some(holder), Err(Error::LockTimeout { pid, .. })) => {
                assert_eq!([holder, pid], [child.cast_unsigned(); 2], "who has the lock");
            }
            (_, result) => panic!(
                "beside a stopped writer that has the lock ({holder:?}): {:?}",
                result.err()
            ),
        }
        kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(wait_for(child), None, "the writer that was continued");
    }
    let mut sleepers = Sleepers::default();
    sleepers.park(sleeper, Sleeper::now(), at);
    sleepers.settle();
    world.committed(base + 1, after);
    model::check(&world.arena, &world.namespace, &world.model, "after the writer went on");
    aftermath::care(&mut world);
    Outcome {
        stopped,
        late: sleepers.late > 0,
        stores: board.get(0),
    }
}

/// Stops a writer at every point. Returns how many there were.
pub fn sweep(scenario: &Scenario) -> u64 {
    let template = Template::of(scenario);
    let stores = visit(scenario, &template, u64::MAX).stores;
    for at in 0..stores {
        let on_time = (0..TRIES).any(|_| {
            let outcome = visit(scenario, &template, at);
            assert!(outcome.stopped, "the operation ended before its store {at} of {stores}");
            !outcome.late
        });
        assert!(
            on_time,
            "{}, stopped before store {at}: its commit wakes nobody",
            scenario.name
        );
    }
    stores
}

/// Sweeps some commits.
pub fn run() {
    let sweep = |name| format!("{name} at {} points", sweep(&operations::named(name)));
    let summary = ["put", "insert", "remove", "growth"].map(sweep);
    println!("\nswept stopped: {}", summary.join(", "));
}
