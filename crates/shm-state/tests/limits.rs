//! When room runs out: an error with the numbers in it, a state that stays readable, and a way on.

mod common;

use common::model::{self, Change, Model, assert_same, put, remove};
use common::process::{Board, Kid, Role};
use common::{assert_clean, is_full, key};
use shm_state::{Arena, ArenaOptions, Deadline, Error, History, Namespace};

/// An arena of the least size.
fn tiny() -> ArenaOptions {
    ArenaOptions {
        capacity: 640 * 1024,
        history: History {
            count: 8,
            bytes: 1 << 20,
        },
        ..ArenaOptions::default()
    }
}

fn commit(namespace: &Namespace, model: &mut Model, changes: &[Change]) -> shm_state::Result<u64> {
    let result = model::commit(namespace, changes, Deadline::never());
    if result.is_ok() {
        *model = model::after(model, changes);
    }
    result
}

/// Sets keys `prefix…` until there is no room. Returns how many, and the error.
fn fill(namespace: &Namespace, model: &mut Model, prefix: &str, len: usize) -> (usize, Error) {
    for number in 0.. {
        if let Err(error) = commit(namespace, model, &[put(format!("{prefix}{number}"), len)]) {
            assert!(is_full(&error), "{error}");
            return (number, error);
        }
    }
    unreachable!()
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "pinner" => {
            let namespace = role.arena().namespace("n").unwrap();
            let pinned = namespace.pin().unwrap();
            let before = model::contents_of(&pinned);
            role.board.set(0, pinned.seq());
            role.board.wait_for(1, 1);
            assert_same(
                &model::contents_of(&pinned),
                &before,
                "a pinned snapshot beside a full arena",
            );
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_full_arena_is_an_error_with_the_numbers_and_the_state_stays_readable() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let (count, error) = fill(&namespace, &mut model, "k", 3000);
    assert!(count > 50, "only {count} values of 3,000 bytes fit");
    let Error::Full {
        requested,
        free,
        committed,
        capacity,
        ref pins,
    } = error
    else {
        panic!("{error}")
    };
    assert!((3000..4096).contains(&requested) && free < 128 * 1024, "{error}");
    assert_eq!((committed, capacity), (640 * 1024, 640 * 1024));
    assert!(pins.is_empty());
    assert!(error.to_string().contains("655360"), "{error}");
    model::check(&arena, &namespace, &model, "full");
}

#[test]
fn every_key_can_be_removed_from_a_full_arena_one_by_one() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let (large, _) = fill(&namespace, &mut model, "large", 2000);
    let (small, _) = fill(&namespace, &mut model, "small", 5);
    for number in 0..small {
        commit(&namespace, &mut model, &[remove(format!("small{number}"))])
            .unwrap_or_else(|error| panic!("removing small key {number} of {small}: {error}"));
    }
    for number in 0..large {
        commit(&namespace, &mut model, &[remove(format!("large{number}"))])
            .unwrap_or_else(|error| panic!("removing large key {number} of {large}: {error}"));
    }
    assert!(namespace.is_empty().unwrap());
    assert_clean(&arena);
    let (again, _) = fill(&namespace, &mut model, "again", 2000);
    assert!(
        again * 10 >= large * 9,
        "{large} values fitted before, {again} afterwards"
    );
    model::check(&arena, &namespace, &model, "full again");
}

/// A thorough search for free blocks touched all 120 free lists, so that the commit record no longer fitted into the
/// control block and wanted a block of its own, which a full arena does not have: every removal was refused.
#[test]
fn removals_draw_on_the_reserve_when_a_snapshot_holds_everything() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    for round in 0..3 {
        let pinned = namespace.pin().unwrap();
        fill(&namespace, &mut model, "large", 2000);
        fill(&namespace, &mut model, "small", 5);
        // Not one granule is left.
        while commit(&namespace, &mut model, &[put("small0", 6)]).is_ok() {}
        let keys: Vec<Vec<u8>> = model.keys().rev().take(30).cloned().collect();
        for (number, key) in keys.into_iter().enumerate() {
            commit(&namespace, &mut model, &[remove(key)])
                .unwrap_or_else(|error| panic!("round {round}, removal {number}: {error}"));
        }
        drop(pinned);
        model::check(&arena, &namespace, &model, "after the removals");
        let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
        for key in keys {
            commit(&namespace, &mut model, &[remove(key)]).unwrap();
        }
    }
    model::check(&arena, &namespace, &model, "at the end");
}

#[test]
fn a_living_process_keeps_its_snapshot_and_is_named_and_a_dead_one_does_not() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    commit(
        &namespace,
        &mut model,
        &(0..20).map(|n| put(format!("k{n}"), 3000)).collect::<Vec<_>>(),
    )
    .unwrap();
    let (survivor_board, board) = (Board::new(), Board::new());
    let survivor = Kid::start("pinner", 0, Some(&arena), &survivor_board);
    survivor_board.wait_for(0, 1);
    let victim = Kid::start("pinner", 0, Some(&arena), &board);
    board.wait_for(0, 1);

    let overwrite = |model: &mut Model| -> Error {
        for round in 0..10_000 {
            if let Err(error) = commit(&namespace, model, &[put(format!("k{}", round % 20), 2900 + round % 50)]) {
                return error;
            }
        }
        panic!("the pinned versions were overwritten");
    };
    let error = overwrite(&mut model);
    let Error::Full { ref pins, .. } = error else {
        panic!("{error}")
    };
    let mut pids: Vec<u32> = pins.iter().map(|pin| pin.pid).collect();
    pids.sort_unstable();
    let mut expected = [survivor.pid(), victim.pid()];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    let program = std::env::current_exe().unwrap();
    let program = &program.file_name().unwrap().to_str().unwrap()[..15];
    let expected = format!("process {} ({program}) pins commit", survivor.pid());
    assert!(error.to_string().contains(&expected), "{error}");
    model::check(&arena, &namespace, &model, "full because of two snapshots");
    // The reserve, and what removals free, let removals go on.
    for number in 0..20 {
        commit(&namespace, &mut model, &[remove(format!("k{number}"))]).unwrap();
    }

    victim.kill();
    commit(&namespace, &mut model, &[put("k0", 2000)]).unwrap_err();
    let stats = arena.stats().unwrap();
    assert_eq!(
        stats.namespaces[0].pins.len(),
        1,
        "the pin of the dead process was dropped"
    );
    survivor_board.set(1, 1);
    survivor.succeeds();
    for round in 0..200 {
        commit(
            &namespace,
            &mut model,
            &[put(format!("k{}", round % 20), 2900 + round % 50)],
        )
        .unwrap();
    }
    model::check(&arena, &namespace, &model, "after both are gone");
}

#[test]
fn a_transaction_that_meets_a_full_arena_can_go_on_or_be_dropped() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    fill(&namespace, &mut model, "k", 3000);
    commit(&namespace, &mut model, &[remove("k0"), remove("k1")]).unwrap();

    let mut tx = namespace.begin(Deadline::never()).unwrap();
    assert!(!tx.put(&key("first"), 1, &[1; 2500]).unwrap());
    let error = tx.put(&key("second"), 1, &[2; 50_000]).unwrap_err();
    assert!(is_full(&error), "{error}");
    assert_eq!(tx.get(&key("second")).unwrap(), None);
    assert_eq!(tx.get(&key("first")).unwrap().unwrap().bytes(), [1; 2500]);
    assert!(tx.put(&key("first"), 1, &[9; 60_000]).is_err());
    assert_eq!(
        tx.get(&key("first")).unwrap().unwrap().bytes(),
        [1; 2500],
        "as if the call had not been made"
    );
    drop(tx);
    model::check(&arena, &namespace, &model, "after the transaction was dropped");

    let mut tx = namespace.begin(Deadline::never()).unwrap();
    tx.put(&key("k7"), 1, &[1; 2500]).unwrap();
    tx.put(&key("second"), 1, &[2; 50_000]).unwrap_err();
    tx.commit().unwrap();
    model.insert(b"k7".to_vec(), vec![1; 2500]);
    model::check(&arena, &namespace, &model, "after it was committed");
}

#[test]
fn an_index_that_cannot_grow_refuses_the_key_and_keeps_the_rest() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let (count, error) = fill(&namespace, &mut model, "", 0);
    assert!(count > 500, "{count}");
    let Error::Full { requested, .. } = error else {
        panic!("{error}")
    };
    assert!(
        requested > 4096,
        "not the index is what did not fit, but {requested} bytes"
    );
    model::check(&arena, &namespace, &model, "full");
    // Values of existing keys need no index.
    commit(&namespace, &mut model, &[put("7", 16)]).unwrap();
    for number in 0..count {
        commit(&namespace, &mut model, &[remove(number.to_string())]).unwrap();
    }
    commit(&namespace, &mut model, &[put("new", 16)]).unwrap();
    model::check(&arena, &namespace, &model, "after all was removed");
}

#[test]
fn a_large_transaction_that_does_not_fit_leaves_no_trace() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    commit(&namespace, &mut model, &[put("a", 8), put("b", 8)]).unwrap();
    // In the values, in the index, in the list of changes: wherever it ends, all of it is gone.
    let mut refused = 0;
    for keys in (500..3500).step_by(100) {
        let changes: Vec<Change> = (0..keys).map(|n| put(format!("n{n}"), 1)).collect();
        match model::commit(&namespace, &changes, Deadline::never()) {
            Ok(_) => {
                let all: Vec<Change> = (0..keys).map(|n| remove(format!("n{n}"))).collect();
                for some in all.chunks(20) {
                    model::commit(&namespace, some, Deadline::never()).unwrap();
                }
            }
            Err(error) => {
                assert!(is_full(&error), "{error}");
                refused += 1;
            }
        }
        model::check(&arena, &namespace, &model, &format!("after {keys} keys"));
    }
    assert!(refused > 5, "{refused} transactions were refused");
}

#[test]
fn a_namespace_that_does_not_fit_is_refused_and_the_others_work_on() {
    let arena = Arena::anonymous(&tiny()).unwrap();
    let mut names = 0;
    let error = loop {
        match arena.namespace(&format!("n{names}")) {
            Ok(namespace) => drop(model::commit(&namespace, &[put("a", 8)], Deadline::never()).unwrap()),
            Err(error) => break error,
        }
        names += 1;
    };
    assert!(is_full(&error) && names >= 2, "{names}: {error}");
    assert_eq!(arena.namespaces().unwrap().len(), names);
    for number in 0..names {
        let namespace = arena.namespace(&format!("n{number}")).unwrap();
        model::commit(&namespace, &[put("b", 8)], Deadline::never()).unwrap();
    }
    assert_clean(&arena);
}
