//! What is done at one point: the kill, and what comes after it.

use std::collections::BTreeSet;

use shm_state::{Arena, Deadline, KeyRef, Namespace, Pinned, Place, kill_at, kill_points_passed};

use super::act;
pub use super::act::commit;
use super::aftermath::{self, SOON};
use super::end_within;
use super::scenario::{Act, Scenario, Template, World};
use super::sleeper::{Sleeper, Sleepers, sleeps};
use crate::common::Name;
use crate::common::model::{self, Model, assert_same, put};
use crate::common::process::{Board, fork, start_fork, wait_for};

/// The seconds after which a point counts as a hang.
pub const HANG: u32 = 30;

/// What came of a point.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The operation was killed; otherwise it ended first.
    pub killed: bool,
    /// The state is that after the operation.
    pub is_after: bool,
    /// Stores of the whole operation, if it ended.
    pub stores: u64,
}

/// Where the operation is killed, and what happens besides.
#[derive(Clone, Copy)]
pub struct Kill {
    /// The number of the store.
    pub at: u64,
    /// A process comes along and commits too, and is killed before its store of this number.
    pub recoverer: Option<u64>,
}

impl Kill {
    /// The operation alone is killed.
    pub fn at(at: u64) -> Self {
        Self { at, recoverer: None }
    }
}

/// Kills the operation, and checks everything that must hold afterwards. With `sleepers`, a watcher sleeps meanwhile.
pub fn visit(scenario: &Scenario, template: &Template, kill: Kill, sleepers: Option<&mut Sleepers>) -> Outcome {
    end_within(HANG);
    if scenario.act == Act::CreateArena {
        return visit_creation(scenario, kill.at);
    }
    let mut world = template.copy();
    let pinners: Vec<Namespace> = (0..scenario.pins).map(|_| world.namespace.fork().unwrap()).collect();
    let pinned = world.model.clone();
    let mut held: Vec<Pinned<'_>> = pinners.iter().map(|namespace| namespace.pin().unwrap()).collect();
    (scenario.setup_after_pins)(&mut world);
    let reader = world.namespace.fork().unwrap();
    let keys: BTreeSet<Vec<u8>> = world
        .history
        .iter()
        .flat_map(|(_, model)| model.keys().cloned())
        .collect();
    let places = places(&reader, &keys);
    // It would take the slot of the dead process for which the operation is there.
    let sleepers = sleepers.filter(|_| !scenario.unmarked);
    let sleeper = sleepers.as_ref().map(|_| Sleeper::start(&world));

    let (board, base) = (Board::new(), world.namespace.seq());
    let (killed, seen) = run_child(scenario, &mut world, kill.at, &board);
    let died = Sleeper::now();
    let after = model::after(&world.model, &scenario.changes);
    aftermath::check_readers(&world, base, &after, seen);
    let mut expected = vec![world.model.clone(), after];
    match (scenario.commits(), killed) {
        (true, true) => {}
        (true, false) => drop(expected.remove(0)),
        (false, _) => expected.truncate(1),
    }
    if let Some(at) = kill.recoverer {
        second_death(scenario, &world, at, &mut expected);
    }
    let is_after = aftermath::recover(scenario, &mut world, &expected, sleeper.as_ref().map(Sleeper::pid));
    check_places(&reader, &places, &world.model);
    let check_pins = |held: &[Pinned<'_>], when| {
        held.iter()
            .for_each(|pin| assert_same(&model::contents_of(pin), &pinned, when));
    };
    check_pins(&held, "pinned all along");
    if scenario.unpin {
        held.clear();
    }
    aftermath::care(&mut world);
    check_pins(&held, "pinned, after more commits");
    check_places(&reader, &places, &world.model);
    aftermath::check_namespaces(scenario, &world.arena, killed);
    if let (Some(sleepers), Some(sleeper)) = (sleepers, sleeper) {
        sleepers.park(sleeper, died, kill.at);
    }
    Outcome {
        killed,
        is_after,
        stores: board.get(0),
    }
}

/// Runs the operation in a forked child until it is killed or ends. Says whether it was killed, and what else somebody
/// may see of it: nothing, or for [`Act::Watch`] the commit that the parent made meanwhile.
fn run_child(scenario: &Scenario, world: &mut World, at: u64, board: &Board) -> (bool, Option<u64>) {
    let pid = start_fork(|| child(scenario, world, at, board));
    let mut seen = None;
    if scenario.act == Act::Watch {
        while !sleeps(pid) && !has_ended(pid) {
            std::thread::yield_now();
        }
        world.commit(&[put("watched", 5)]);
        seen = Some(world.namespace.seq());
    }
    let signal = wait_for(pid);
    assert!(
        matches!(signal, None | Some(libc::SIGKILL)),
        "the child was ended by signal {signal:?}"
    );
    (signal.is_some(), seen)
}

/// Whether a child of this process has ended. It stays there to be waited for.
fn has_ended(pid: i32) -> bool {
    // SAFETY: all zeroes is a `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call.
    let result = unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, flags) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: filled by `waitid`, or all zeroes.
    unsafe { info.si_pid() != 0 }
}

fn child(scenario: &Scenario, world: &World, at: u64, board: &Board) {
    act::carry_out(scenario, world, || kill_at(at), || end(board));
}

/// Ends the child before it closes anything, which would be further stores.
fn end(board: &Board) -> ! {
    board.set(0, kill_points_passed());
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Another process commits, and is killed as well. What it may have left behind is added to what is expected.
fn second_death(scenario: &Scenario, world: &World, at: u64, expected: &mut Vec<Model>) {
    let change = [scenario.next[0].clone()];
    let signal = fork(|| {
        let arena = Arena::from_fd(world.arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
        kill_at(at);
        let namespace = arena.namespace("swept").unwrap();
        model::commit(&namespace, &change, Deadline::after(SOON)).unwrap();
    });
    assert!(
        matches!(signal, None | Some(libc::SIGKILL)),
        "the recoverer was ended by signal {signal:?}"
    );
    let committed: Vec<Model> = expected.iter().map(|model| model::after(model, &change)).collect();
    if signal.is_none() {
        expected.clear();
    }
    expected.extend(committed);
}

/// Where the keys are, resolved before the operation.
fn places<'n, 'k>(reader: &'n Namespace, keys: &'k BTreeSet<Vec<u8>>) -> Vec<(&'k [u8], Place<'n>)> {
    let find = |key: &'k Vec<u8>| Some((&key[..], reader.place(&KeyRef::new(0, key)).unwrap()?));
    keys.iter().filter_map(find).collect()
}

/// What is read through a place that was resolved long ago is the value of its key, or nothing.
fn check_places(reader: &Namespace, places: &[(&[u8], Place<'_>)], model: &Model) {
    for (key, place) in places {
        let through_place = place.peek(|_, bytes| bytes.to_vec());
        let expected = model.get(*key);
        if let Some(found) = through_place {
            assert_eq!(found.as_ref(), expected, "read through a place: {key:?}");
        }
        let found = reader
            .get(&KeyRef::new(0, key))
            .unwrap()
            .map(|value| value.into_bytes());
        assert_eq!(found.as_ref(), expected, "{key:?}");
    }
}

/// As [`visit`], for the creation of an arena: those who open it see none or a whole one.
fn visit_creation(scenario: &Scenario, at: u64) -> Outcome {
    let (name, board) = (Name::new("swept"), Board::new());
    let signal = fork(|| {
        kill_at(at);
        let _arena = Arena::create(&name, &scenario.options).unwrap();
        end(&board);
    });
    let found = Arena::open(&name);
    let is_after = match &found {
        Ok(_) => true,
        Err(shm_state::Error::NotFound { .. }) if signal.is_some() => false,
        Err(error) => panic!("opening what a dead creator left: {error}"),
    };
    let arena = Arena::open_or_create(&name, &scenario.options).unwrap();
    let namespace = arena.namespace("swept").unwrap();
    let mut world = World::new(arena, namespace, Model::new());
    (scenario.setup)(&mut world);
    aftermath::care(&mut world);
    Outcome {
        killed: signal.is_some(),
        is_after,
        stores: board.get(0),
    }
}
