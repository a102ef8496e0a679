//! What is counted: 100 times each, over 1,000 keys of 20 bytes with integers of 8 bytes.

use std::hint::black_box;

use zproc::State;
use zproc_bench::keys::{Draws, distinct};

use crate::steps::between_marks;

/// How often an operation is done.
pub const TIMES: usize = 100;
/// No operation: what there is around one.
pub const NOTHING: &str = "nothing";
/// All operations.
pub const NAMES: &[&str] = &["get", "handle get", "set", "handle set", "snapshot", "atomic"];

/// Does an operation, after having done it as often to warm up.
pub fn run(name: &str) -> Result<(), String> {
    let state = State::anonymous().expect("there is room for a state");
    state.extend(distinct(1000).iter().zip(0u64..)).expect("there is room");
    let draws = Draws::from(distinct(1000), TIMES);
    let keys = [draws.pass(0), draws.pass(1)];
    let handle = state.handle::<u64>(keys[0][0]).expect("the state is open");
    match name {
        NOTHING => twice(keys, |key| _ = black_box(key)),
        "get" => twice(keys, |key| {
            black_box(state.get::<u64>(key).expect("is a number"));
        }),
        "handle get" => twice(keys, |_| {
            black_box(handle.get().expect("is a number"));
        }),
        "set" => twice(keys, |key| state.insert(key, black_box(7u64)).expect("there is room")),
        "handle set" => twice(keys, |_| handle.set(black_box(7)).expect("there is room")),
        "snapshot" => twice(keys, |_| {
            black_box(state.snapshot().expect("a seat is free").seq());
        }),
        "atomic" => twice(keys, |key| {
            let add = |dict: &mut zproc::Transaction<'_>| dict.modify(key, |count: u64| count + 1);
            black_box(state.atomic(add).expect("is present"));
        }),
        _ => return Err(format!("there is no operation '{name}'")),
    }
    Ok(())
}

fn twice(keys: [&[&'static str]; 2], mut work: impl FnMut(&'static str)) {
    let [warm_up, counted] = keys;
    // Until the history is full, and every commit recycles what an older one left.
    (0..50).for_each(|_| warm_up.iter().for_each(|key| work(key)));
    between_marks(|| counted.iter().for_each(|key| work(key)));
}
