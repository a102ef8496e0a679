//! What is done at one point: the kill, and everything that must hold afterwards.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shm_state::{Arena, Deadline, Filter, KeyRef, Namespace, Next, On, Pinned, Strategy, kill_at, kill_points_passed};

use super::scenario::{Act, Scenario, Template, World};
use crate::common::model::{self, Change, Model, assert_same, remove};
use crate::common::process::{Board, fork};
use crate::common::{Name, assert_clean, is_full};

/// The longest that a commit after a death may wait for the lock.
const SOON: Duration = Duration::from_secs(2);
/// The seconds after which a point counts as a hang.
const HANG: u32 = 30;

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

/// Kills the operation before its store number `at`. With `recoverer`, kills a process that comes along and commits,
/// too, before its store of that number.
pub fn visit(scenario: &Scenario, template: &Template, at: u64, recoverer: Option<u64>) -> Outcome {
    // SAFETY: a plain request to the kernel: SIGALRM, which nobody handles, ends this process if it hangs.
    unsafe { libc::alarm(HANG) };
    if scenario.act == Act::CreateArena {
        return visit_creation(scenario, at);
    }
    let mut world = template.copy();
    let pinners: Vec<Namespace> = (0..scenario.pins).map(|_| world.namespace.fork().unwrap()).collect();
    let pinned = world.model.clone();
    let mut held: Vec<Pinned<'_>> = pinners.iter().map(|namespace| namespace.pin().unwrap()).collect();
    (scenario.setup_after_pins)(&mut world);

    let board = Board::new();
    let signal = fork(|| child(scenario, &world.arena, at, &board));
    assert!(
        matches!(signal, None | Some(libc::SIGKILL)),
        "the child was ended by signal {signal:?}"
    );
    let mut expected = vec![world.model.clone(), model::after(&world.model, &scenario.changes)];
    let killed = signal.is_some();
    match scenario.act {
        Act::Commit | Act::Put if killed => {}
        Act::Commit | Act::Put => drop(expected.remove(0)),
        _ => expected.truncate(1),
    }
    if let Some(at) = recoverer {
        second_death(scenario, &world.arena, at, &mut expected);
    }
    let is_after = recover(scenario, &mut world, &expected);
    held.iter()
        .for_each(|pin| assert_same(&model::contents_of(pin), &pinned, "pinned all along"));
    if scenario.unpin {
        held.clear();
    }
    after_care(&mut world);
    held.iter()
        .for_each(|pin| assert_same(&model::contents_of(pin), &pinned, "pinned, after more commits"));
    check_namespaces(scenario, &world.arena, killed);
    Outcome {
        killed,
        is_after,
        stores: board.get(0),
    }
}

/// Opens the arena of the parent in a forked child.
fn open(arena: &Arena) -> Arena {
    Arena::from_fd(arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap()
}

fn child(scenario: &Scenario, arena: &Arena, at: u64, board: &Board) {
    if scenario.act == Act::Join {
        kill_at(at);
    }
    let arena = open(arena);
    let namespace = arena.namespace("swept").unwrap();
    if scenario.act == Act::Leave {
        drop(namespace.pin().unwrap());
        namespace.publish_cursor(3);
        model::commit(&namespace, &[], Deadline::never()).unwrap();
    }
    if scenario.act != Act::Join {
        kill_at(at);
    }
    match scenario.act {
        Act::Commit => drop(model::commit(&namespace, &scenario.changes, Deadline::never()).unwrap()),
        Act::Put => put(&namespace, scenario),
        Act::BeRefused => {
            let error = model::commit(&namespace, &scenario.changes, Deadline::never()).unwrap_err();
            assert!(is_full(&error), "{error}");
        }
        Act::Abort => {
            let mut tx = namespace.begin(Deadline::never()).unwrap();
            scenario
                .changes
                .iter()
                .for_each(|change| model::apply_in(&mut tx, change).unwrap());
        }
        Act::CreateNamespace => drop(arena.namespace("new").unwrap()),
        Act::Pin => {
            drop(namespace.pin().unwrap());
            let (_one, _two) = (namespace.pin().unwrap(), namespace.pin().unwrap());
        }
        Act::Wait => {
            let cancel = AtomicBool::new(false);
            let deadline = Deadline::after(Duration::from_millis(1));
            let nothing = |_| Ok(None::<()>);
            namespace
                .wait(On::Any, Strategy::Block, deadline, &cancel, nothing)
                .unwrap()
                .unwrap_err();
            namespace
                .wait(On::Keys(&[1 << 40, 7]), Strategy::Block, deadline, &cancel, nothing)
                .unwrap()
                .unwrap_err();
        }
        Act::Leave => drop((namespace, arena)),
        Act::Join | Act::CreateArena => {}
    }
    end(board);
}

/// Commits the changes of a scenario in a forked child that opens the arena of its parent.
pub fn commit_afresh(scenario: &Scenario, arena: &Arena) {
    let namespace = open(arena).namespace("swept").unwrap();
    model::commit(&namespace, &scenario.changes, Deadline::never()).unwrap();
}

/// Sets the one key of the scenario.
pub fn put(namespace: &Namespace, scenario: &Scenario) {
    let Change::Put(key, value) = &scenario.changes[0] else {
        panic!("not a put")
    };
    namespace
        .put(&KeyRef::new(0, key), None, 1, value, Deadline::never())
        .unwrap();
}

/// Ends the child before it closes anything, which would be further stores.
fn end(board: &Board) -> ! {
    board.set(0, kill_points_passed());
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Another process commits, and is killed as well. What it may have left behind is added to what is expected.
fn second_death(scenario: &Scenario, arena: &Arena, at: u64, expected: &mut Vec<Model>) {
    let change = [scenario.next[0].clone()];
    let signal = fork(|| {
        let arena = open(arena);
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

/// The next commit, at once. Says whether the operation had been committed.
pub fn recover(scenario: &Scenario, world: &mut World, expected: &[Model]) -> bool {
    let deadline = Deadline::after(SOON);
    let mut tx = world
        .namespace
        .begin(deadline)
        .expect("the next writer after the death");
    let found = model::contents_in(&tx);
    let Some(which) = expected.iter().position(|model| model::same(model, &found)) else {
        let expected: Vec<String> = expected.iter().map(model::brief).collect();
        panic!(
            "an impossible state:\n   found {}\nexpected {}",
            model::brief(&found),
            expected.join("\n      or ")
        );
    };
    scenario
        .next
        .iter()
        .for_each(|change| model::apply_in(&mut tx, change).unwrap());
    let seq = tx.commit().unwrap();
    world.model = model::after(&found, &scenario.next);
    assert_eq!(world.namespace.seq(), seq);
    assert_eq!(world.namespace.len().unwrap(), world.model.len());
    assert_clean(&world.arena);
    check_log(&world.namespace);
    which > 0 || (expected.len() == 1 && matches!(scenario.act, Act::Commit | Act::Put))
}

/// Other commits, with room made for them if there was none; then everything is looked at again.
pub fn after_care(world: &mut World) {
    let large = |world: &World, count| -> Vec<Vec<u8>> {
        world
            .model
            .keys()
            .filter(|key| key.starts_with(b"f"))
            .take(count)
            .cloned()
            .collect()
    };
    world.commit_each(large(world, 6).into_iter().map(remove));
    let more: Vec<Change> = large(world, 30).into_iter().map(remove).collect();
    world.commit(&more);
    world.commit(&[model::put("a", 1), model::put("other", 33), remove("e")]);
    for round in 0..12 {
        world.commit(&[
            model::put(format!("churn{}", round % 5), 7 * round),
            model::put("a", round),
        ]);
        world.commit_each([remove(format!("churn{}", (round + 2) % 5)), model::put("b", 30)]);
    }
    model::check(&world.arena, &world.namespace, &world.model, "after more commits");
    check_log(&world.namespace);
}

/// Every commit of the history can be read.
fn check_log(namespace: &Namespace) {
    let until = namespace.seq();
    let mut cursor = namespace.floor();
    for seq in cursor + 1..=until {
        let next = namespace
            .next_match(&mut cursor, until, Filter::Any, true, None)
            .unwrap();
        assert_eq!(next, Next::Match(seq));
        let record = namespace.record(seq).unwrap().expect("a commit above the floor");
        assert_eq!(
            namespace.changed_keys(&record).unwrap().expect("its keys").len(),
            record.changes.len()
        );
    }
}

/// A namespace that was being made is whole, or is made by the next who asks; further ones too.
fn check_namespaces(scenario: &Scenario, arena: &Arena, killed: bool) {
    let names = arena.namespaces().unwrap();
    let makes = scenario.act == Act::CreateNamespace;
    let allowed: &[&[&str]] = match (makes, killed) {
        (false, _) => &[&["swept"]],
        (true, true) => &[&["swept"], &["swept", "new"]],
        (true, false) => &[&["swept", "new"]],
    };
    assert!(
        allowed.contains(&names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()),
        "{names:?}"
    );
    if !makes {
        return;
    }
    for name in ["third", "new"] {
        let namespace = arena.namespace(name).unwrap();
        let model = Model::from([(b"k".to_vec(), b"v".to_vec())]);
        let change = model::Change::Put(b"k".to_vec(), b"v".to_vec());
        model::commit(&namespace, &[change], Deadline::after(SOON)).unwrap();
        model::check(arena, &namespace, &model, name);
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
    let mut world = World {
        arena,
        namespace,
        model: Model::new(),
    };
    (scenario.setup)(&mut world);
    after_care(&mut world);
    Outcome {
        killed: signal.is_some(),
        is_after,
        stores: board.get(0),
    }
}
