//! Snapshot holders: take some snapshots, hold them for a while, and look again and again whether they changed.
//!
//! What is compared is a copy of everything, made when the snapshot was taken. The history is short, so nearly every
//! snapshot soon shows values that only its pin keeps from being recycled. A holder is usually killed while it holds.

use std::time::{Duration, Instant};

use zproc::{Key, Snapshot, State, Value};

use crate::board::Word;
use crate::kid::Role;
use crate::model::{self, HISTORY};

const MOST: u64 = 6;

pub fn run(mut role: Role) {
    let state = role.state(|settings| settings);
    while role.board.get(Word::Stop, 0) < 2 && !role.is_orphaned() {
        hold(&mut role, &state);
    }
}

fn hold(role: &mut Role, state: &State) {
    let mut held: Vec<(Snapshot<'_>, Vec<(Key, Value)>)> = Vec::new();
    for _ in 0..=role.random.below(MOST) {
        let snapshot = state.snapshot().unwrap();
        model::check(&snapshot);
        let contents = model::contents(&snapshot);
        held.push((snapshot, contents));
        role.board.set(Word::Held, role.number, held[0].0.seq() + 1);
        std::thread::sleep(Duration::from_micros(role.random.below(2_000)));
    }
    let long = if role.random.once_in(10) { 300 } else { 40 };
    let until = Instant::now() + Duration::from_millis(role.random.below(long));
    while Instant::now() < until {
        std::thread::sleep(Duration::from_micros(role.random.below(10_000)));
        let (snapshot, contents) = &held[role.random.below(held.len() as u64) as usize];
        look_again(role, state, snapshot, contents);
    }
    role.board.set(Word::Held, role.number, 0);
    while !held.is_empty() {
        let (snapshot, contents) = held.swap_remove(role.random.below(held.len() as u64) as usize);
        look_again(role, state, &snapshot, &contents);
    }
}

fn look_again(role: &Role, state: &State, snapshot: &Snapshot<'_>, contents: &[(Key, Value)]) {
    model::check(snapshot);
    assert_eq!(
        model::contents(snapshot),
        contents,
        "snapshot {} changed",
        snapshot.seq()
    );
    // Twice the history, and one for the commit under way: this snapshot cannot be taken any more.
    if state.seq().unwrap() - snapshot.seq() > 2 * u64::from(HISTORY) + 1 {
        role.board.add(Word::OldChecks, role.number, 1);
    }
}
