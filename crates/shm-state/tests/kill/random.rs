//! Random operations on one arena whose writers die again and again, against the model.

use std::time::Duration;

use shm_state::{Arena, ArenaOptions, Deadline, History, kill_at};

use crate::common::model::{self, Change, Model, put, remove};
use crate::common::process::fork;
use crate::common::{Random, number_from_env};

const ROUNDS: u64 = 400;

fn changes(random: &mut Random) -> Vec<Change> {
    let change = |random: &mut Random| {
        let key = format!("{}{}", "key ".repeat(random.below(5) as usize), random.below(40));
        let wide = random.below(12) == 0;
        match random.below(20) {
            0..=10 => put(key, random.below(if wide { 5000 } else { 60 }) as usize),
            11..=17 => remove(key),
            18 => Change::Pop,
            _ => Change::Clear,
        }
    };
    let count = 1 + if random.below(6) == 0 {
        random.below(40)
    } else {
        random.below(4)
    };
    (0..count).map(|_| change(random)).collect()
}

/// Each round: a transaction of a process that is killed somewhere in it, then transactions over what was recovered.
pub fn run() {
    let seed = number_from_env("ZPROC_SWEEP_OFFSET").unwrap_or(u64::from(std::process::id()));
    let mut random = Random::new(seed);
    let history = History {
        count: 1 + random.below(20) as u32,
        bytes: 1 << 20,
    };
    let arena = Arena::anonymous(&ArenaOptions {
        capacity: 4 << 20,
        history,
        ..ArenaOptions::default()
    })
    .unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let (mut killed, mut after) = (0, 0);
    super::end_within(300);
    for round in 0..ROUNDS {
        let dying = changes(&mut random);
        let at = random.below(if round % 3 == 0 { 2000 } else { 150 });
        let signal = fork(|| {
            let arena = Arena::from_fd(arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
            let namespace = arena.namespace("n").unwrap();
            kill_at(at);
            model::commit(&namespace, &dying, Deadline::never()).unwrap();
            kill_at(u64::MAX);
        });
        killed += u64::from(signal.is_some());
        let when = format!("round {round}, killed before store {at}, ZPROC_SWEEP_OFFSET={seed}");
        let tx = namespace.begin(Deadline::after(Duration::from_secs(10))).expect(&when);
        let found = model::contents_in(&tx);
        drop(tx);
        let committed = model::after(&model, &dying);
        let is_before = signal.is_some() && model::same(&found, &model);
        assert!(
            is_before || model::same(&found, &committed),
            "{when}: an impossible state"
        );
        after += u64::from(!is_before);
        model = found;
        for _ in 0..random.below(6) {
            let change = changes(&mut random);
            model::commit(&namespace, &change, Deadline::never()).expect(&when);
            model = model::after(&model, &change);
        }
        model::check(&arena, &namespace, &model, &when);
    }
    assert!(
        killed > ROUNDS / 8 && after > ROUNDS / 8,
        "{killed} killed, {after} committed"
    );
    println!("\nswept random: {ROUNDS} rounds, {killed} killed, {after} committed, ZPROC_SWEEP_OFFSET={seed}");
}
