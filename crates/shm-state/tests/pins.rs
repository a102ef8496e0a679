//! Snapshots that are held: many at once, by processes that live and that died.

mod common;

use common::model::{self, Model, assert_same, put, remove};
use common::process::{Board, Kid, Role};
use common::{assert_clean, eventually};
use shm_state::{Arena, ArenaOptions, Deadline, History, Namespace, NamespaceStats, Pinned};

fn arena() -> Arena {
    Arena::anonymous(&ArenaOptions {
        capacity: 8 << 20,
        history: History {
            count: 8,
            bytes: 1 << 20,
        },
        ..ArenaOptions::default()
    })
    .unwrap()
}

fn stats(arena: &Arena) -> NamespaceStats {
    arena.stats().unwrap().namespaces.swap_remove(0)
}

const HELD: u64 = 0;
const LET_GO: u64 = 1;

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let arena = role.arena();
    let namespace = arena.namespace("n").unwrap();
    match role.name.as_str() {
        "hold" => {
            let held: Vec<Pinned<'_>> = (0..role.number).map(|_| namespace.pin().unwrap()).collect();
            let before = model::contents(&namespace);
            role.board.set(HELD, 1);
            role.board.wait_for(LET_GO, 1);
            held.iter()
                .for_each(|pinned| assert_same(&model::contents_of(pinned), &before, "held by the child"));
        }
        "attach" => {
            role.board.set(HELD, 1);
            role.board.wait_for(LET_GO, 1);
        }
        other => panic!("no role {other}"),
    }
}

fn hold(arena: &Arena, count: u64) -> (Kid, Board) {
    let board = Board::new();
    let kid = Kid::start("hold", count, Some(arena), &board);
    board.wait_for(HELD, 1);
    (kid, board)
}

/// Commits that change every key, with values that wander through the free lists.
fn churn(namespace: &Namespace, model: &mut Model, rounds: usize) {
    for round in 0..rounds {
        let changes = [
            put("a", round % 90),
            put(format!("k{}", round % 7), round % 40),
            remove(format!("k{}", round % 5)),
        ];
        model::commit(namespace, &changes, Deadline::never()).unwrap();
        *model = model::after(model, &changes);
    }
}

#[test]
fn hundreds_of_snapshots_at_once_stay_as_they_were() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let mut sizes = Vec::new();
    for _ in 0..5 {
        let mut held: Vec<(Pinned<'_>, Model)> = Vec::new();
        for _ in 0..200 {
            churn(&namespace, &mut model, 1);
            held.push((namespace.pin().unwrap(), model.clone()));
        }
        assert_eq!(stats(&arena).pins.len(), 200);
        assert_clean(&arena);
        churn(&namespace, &mut model, 100);
        for (pinned, then) in &held {
            assert_same(&model::contents_of(pinned), then, "one of 200");
            assert_eq!(pinned.len().unwrap(), then.len());
        }
        drop(held);
        assert_eq!(stats(&arena).pins, []);
        churn(&namespace, &mut model, 100);
        model::check(&arena, &namespace, &model, "after all were dropped");
        sizes.push(stats(&arena).live_bytes);
    }
    assert_eq!(sizes[4], sizes[3], "seats are used again: {sizes:?} bytes are alive");
}

#[test]
fn old_commits_can_be_pinned_while_they_are_in_the_history() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let (mut model, mut states) = (Model::new(), vec![Model::new()]);
    for _ in 0..60 {
        churn(&namespace, &mut model, 1);
        states.push(model.clone());
        for (seq, then) in states.iter().enumerate() {
            let pinned = namespace.pin_at(seq as u64).unwrap();
            assert_eq!(pinned.is_some(), seq as u64 >= namespace.floor());
            if let Some(pinned) = pinned {
                assert_same(&model::contents_of(&pinned), then, "an old commit");
            }
        }
        assert!(
            namespace.seq() - namespace.floor() >= 8.min(namespace.seq()),
            "the history is at least 8 commits long"
        );
    }
}

#[test]
fn seats_of_dead_processes_are_used_again() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let mut sizes = Vec::new();
    for _ in 0..8 {
        churn(&namespace, &mut model, 5);
        let (first, _first_board) = hold(&arena, 50);
        let (second, board) = hold(&arena, 50);
        let own: Vec<Pinned<'_>> = (0..30).map(|_| namespace.pin().unwrap()).collect();
        let before = model.clone();
        first.kill();
        churn(&namespace, &mut model, 200);
        own.iter()
            .for_each(|pinned| assert_same(&model::contents_of(pinned), &before, "beside a dead process"));
        board.set(LET_GO, 1);
        second.succeeds();
        drop(own);
        sizes.push(stats(&arena).live_bytes);
    }
    assert_eq!(sizes[7], sizes[6], "seats are used again: {sizes:?} bytes are alive");
    // More dead ones than there is room for, at last, and one who asks for a seat.
    let all: Vec<Pinned<'_>> = (0..250).map(|_| namespace.pin().unwrap()).collect();
    let dead = stats(&arena)
        .pins
        .iter()
        .filter(|pin| pin.pid != std::process::id())
        .count();
    assert_eq!(dead, 0, "they were cleared to make room");
    drop(all);
    model::check(&arena, &namespace, &model, "at the end");
}

/// The seat names a slot of the table of processes, and a generation of it. Only the slot was looked at, so a pin of a
/// dead process was attributed to whoever got its slot.
#[test]
fn a_dead_process_s_snapshot_is_not_attributed_to_another() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    churn(&namespace, &mut Model::new(), 3);
    let (dead, _board) = hold(&arena, 3);
    dead.kill();
    let board = Board::new();
    let heir = Kid::start("attach", 0, Some(&arena), &board);
    board.wait_for(HELD, 1);
    let pins = stats(&arena).pins;
    assert!(
        pins.iter().all(|pin| pin.pid != heir.pid()),
        "{pins:?} names the heir {}",
        heir.pid()
    );
    board.set(LET_GO, 1);
    heir.succeeds();
}

#[test]
fn a_dead_process_s_snapshot_does_not_hold_up_recycling_for_ever() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    churn(&namespace, &mut model, 10);
    let (dead, _board) = hold(&arena, 2);
    dead.kill();
    let mut commits = 0;
    // The lag at which dead pins are looked for is a number of log rings, not a shortage: 8 MiB are not needed.
    eventually("the pins of the dead process to go", || {
        churn(&namespace, &mut model, 100);
        commits += 100;
        stats(&arena).pins.is_empty()
    });
    assert!(commits < 20_000, "{commits}");
    model::check(&arena, &namespace, &model, "afterwards");
}

#[test]
fn snapshots_in_many_threads_of_one_namespace_do_not_meet() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    model::commit(&namespace, &[put("a", 8), put("b", 8)], Deadline::never()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let pinned = namespace.pin().unwrap();
                    let (one, two) = (model::contents_of(&pinned), model::contents_of(&pinned));
                    assert_same(&one, &two, "one snapshot, read twice");
                    // Both keys are always set together.
                    assert_eq!(one[&b"a"[..]].len(), one[&b"b"[..]].len());
                }
            });
        }
        for round in 0..3000 {
            let changes = [put("a", round % 100), put("b", round % 100)];
            model::commit(&namespace, &changes, Deadline::never()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(stats(&arena).pins, []);
    assert_clean(&arena);
}
