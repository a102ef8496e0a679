//! Writers that die after their commit was decided, while others sleep and nobody else writes.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shm_state::{Arena, Deadline, Namespace, On, Strategy, kill_at};

use super::point;
use super::scenario::{Template, all};
use crate::common::eventually;
use crate::common::model::{self, assert_same};
use crate::common::process::{Board, fork, start_fork, wait_for};

/// A sleeper in a process of its own.
struct Sleeper {
    pid: i32,
    world: super::scenario::World,
    at: u64,
}

fn open(arena: &Arena) -> Namespace {
    let arena = Arena::from_fd(arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
    arena.namespace("swept").unwrap()
}

/// Whether a process with one thread sleeps.
fn sleeps(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Kills a writer at every point at which the commit is decided; the sleeper must see the commit all the same.
pub fn run() {
    // SAFETY: a plain request to the kernel: SIGALRM, which nobody handles, ends this process if it hangs.
    unsafe { libc::alarm(300) };
    let scenario = all().into_iter().find(|s| s.name == "put").unwrap();
    let template = Template::of(&scenario);
    let stores = point::visit(&scenario, &template, u64::MAX, None).stores;
    let decided = (0..stores)
        .find(|at| point::visit(&scenario, &template, *at, None).is_after)
        .unwrap();
    let strategies = [Strategy::Block, Strategy::Spin, Strategy::default()];
    let sleepers: Vec<Sleeper> = (decided..stores)
        .flat_map(|at| strategies.map(|strategy| (at, strategy)))
        .map(|(at, strategy)| {
            let world = template.copy();
            let (seq, board) = (world.namespace.seq(), Board::new());
            let pid = start_fork(|| {
                let namespace = open(&world.arena);
                let (deadline, cancel) = (Deadline::after(Duration::from_secs(60)), AtomicBool::new(false));
                board.set(0, 1);
                let newer = |now| Ok((now > seq).then_some(now));
                let found = namespace.wait(On::Any, strategy, deadline, &cancel, newer).unwrap();
                assert_eq!(found, Ok(seq + 1));
            });
            board.wait_for(0, 1);
            if strategy != Strategy::Spin {
                eventually("the sleeper to fall asleep", || sleeps(pid));
            }
            let signal = fork(|| {
                let namespace = open(&world.arena);
                kill_at(at);
                point::put(&namespace, &scenario);
            });
            assert_eq!(signal, Some(libc::SIGKILL), "at {at} of {stores}");
            Sleeper { pid, world, at }
        })
        .collect();
    let count = sleepers.len();
    for mut sleeper in sleepers {
        // Only now does anybody else look at the arena.
        assert_eq!(
            wait_for(sleeper.pid),
            None,
            "the sleeper beside a writer that died at {}",
            sleeper.at
        );
        sleeper.world.model = model::after(&sleeper.world.model, &scenario.changes);
        assert_same(
            &model::contents(&sleeper.world.namespace),
            &sleeper.world.model,
            "what the sleeper saw",
        );
    }
    println!("\nswept sleepers: {count} sleepers beside writers that died after the decision");
}
