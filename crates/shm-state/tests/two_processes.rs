//! Random transactions of two processes at once, against the model.
//!
//! Each process makes its own sequence of transactions, which a seed determines, and notes the number that each commit
//! got. Afterwards the transactions are applied to the model in the order of these numbers: every snapshot that either
//! process took on the way, and the end, must be what the model was after that many commits.

mod common;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use common::model::{self, Change, Model, put, remove};
use common::process::{Board, Kid, Role};
use common::{Random, number_from_env};
use shm_state::{Arena, ArenaOptions, Deadline, History, Namespace};

const TRANSACTIONS: u64 = 600;
/// Places on the board: readiness, then three numbers a transaction and process (commit, snapshot, its hash).
const READY: u64 = 0;
const NOTES: u64 = 16;

fn place(process: u64, transaction: u64) -> u64 {
    NOTES + 3 * (process * TRANSACTIONS + transaction)
}

/// The transaction number `number` of a process.
fn transaction(seed: u64, process: u64, number: u64) -> Vec<Change> {
    let mut random = Random::new(seed ^ process << 40 ^ number << 8);
    let count = 1 + if random.below(6) == 0 {
        random.below(40)
    } else {
        random.below(4)
    };
    let change = |random: &mut Random| {
        let key = format!("{}{}", "key ".repeat(random.below(5) as usize), random.below(60));
        let len = if random.below(10) == 0 {
            random.below(6000)
        } else {
            random.below(60)
        } as usize;
        match random.below(20) {
            0..=10 => put(key, len),
            11..=17 => remove(key),
            18 => Change::Pop,
            _ if random.below(8) == 0 => Change::Clear,
            _ => put(key, 8),
        }
    };
    let mut changes: Vec<Change> = (0..count).map(|_| change(&mut random)).collect();
    // So that no transaction is without an effect, and gets a number.
    changes.push(put(format!("last of {process}"), number as usize % 100));
    changes
}

fn hash(model: &Model) -> u64 {
    let mut hasher = DefaultHasher::new();
    model.iter().for_each(|pair| pair.hash(&mut hasher));
    hasher.finish()
}

fn run(namespace: &Namespace, board: &Board, seed: u64, process: u64) {
    for number in 0..TRANSACTIONS {
        let seq = model::commit(namespace, &transaction(seed, process, number), Deadline::never()).unwrap();
        let at = place(process, number);
        board.set(at, seq);
        if number % 5 == 0 {
            let pinned = namespace.pin().unwrap();
            let contents = model::contents_of(&pinned);
            assert_eq!(pinned.len().unwrap(), contents.len());
            board.set(at + 1, pinned.seq());
            board.set(at + 2, hash(&contents));
        }
    }
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let namespace = role.arena().namespace("n").unwrap();
    role.board.set(READY, 1);
    role.board.wait_for(READY, 2);
    run(&namespace, &role.board, role.number, 1);
}

fn two_processes_agree_with_the_model(history: History) {
    let seed = number_from_env("SHM_STATE_TEST_SEED").unwrap_or(u64::from(std::process::id()));
    println!("SHM_STATE_TEST_SEED={seed}");
    let arena = Arena::anonymous(&ArenaOptions {
        history,
        ..ArenaOptions::default()
    })
    .unwrap();
    let namespace = arena.namespace("n").unwrap();
    let board = Board::new();
    let kid = Kid::start("run", seed, Some(&arena), &board);
    board.wait_for(READY, 1);
    board.set(READY, 2);
    run(&namespace, &board, seed, 0);
    kid.succeeds();

    let mut commits = BTreeMap::new();
    let mut snapshots = Vec::new();
    for (process, number) in (0..2).flat_map(|process| (0..TRANSACTIONS).map(move |number| (process, number))) {
        let at = place(process, number);
        let before = commits.insert(board.get(at), transaction(seed, process, number));
        assert!(before.is_none(), "two commits have the number {}", board.get(at));
        if number % 5 == 0 {
            snapshots.push((board.get(at + 1), board.get(at + 2)));
        }
    }
    assert!(
        commits.keys().copied().eq(1..=2 * TRANSACTIONS),
        "the numbers have no gap"
    );
    let mut states = vec![hash(&Model::new())];
    let mut model = Model::new();
    for changes in commits.values() {
        model = model::after(&model, changes);
        states.push(hash(&model));
    }
    for (seq, found) in snapshots {
        assert_eq!(found, states[seq as usize], "the snapshot of commit {seq}");
    }
    model::check(&arena, &namespace, &model, "at the end");
}

#[test]
fn two_processes_agree_with_the_model_with_a_history() {
    two_processes_agree_with_the_model(History {
        count: 256,
        bytes: 64 << 20,
    });
}

#[test]
fn two_processes_agree_with_the_model_with_hardly_any_history() {
    two_processes_agree_with_the_model(History { count: 1, bytes: 0 });
}
