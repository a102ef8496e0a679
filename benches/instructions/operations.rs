//! What is counted: 100 times each, over keys of 20 bytes with integers of 8 bytes, 1,000 of them unless the name of the
//! operation says otherwise.

use std::hint::black_box;

use zproc::State;
use zproc_bench::counted::BY_KEYS;
use zproc_bench::keys::{Draws, distinct};

use crate::steps::between_marks;

/// How often an operation is done.
pub const TIMES: usize = 100;
/// No operation: what there is around one.
pub const NOTHING: &str = "nothing";
/// All operations.
pub const NAMES: &[&str] = &[
    "get",
    "get, 10 keys",
    "get, 100,000 keys",
    "handle get",
    "set",
    "set, 10 keys",
    "set, 100,000 keys",
    "handle set",
    "snapshot",
    "atomic",
];

/// Does an operation, after having done it as often to warm up.
pub fn run(name: &str) -> Result<(), String> {
    let (operation, keys) = number_of_keys(name)?;
    let state = State::anonymous().expect("there is room for a state");
    state.extend(distinct(keys).iter().zip(0u64..)).expect("there is room");
    let draws = Draws::from(distinct(keys), TIMES);
    let keys = [draws.pass(0), draws.pass(1)];
    let handle = state.handle::<u64>(keys[0][0]).expect("the state is open");
    match operation {
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

fn number_of_keys(name: &str) -> Result<(&str, usize), String> {
    let Some((operation, keys)) = name.split_once(BY_KEYS) else {
        return Ok((name, 1000));
    };
    let keys = keys.trim_end_matches(" keys").replace(',', "");
    let keys = keys
        .parse()
        .map_err(|_| format!("'{name}' does not say how many keys"))?;
    Ok((operation, keys))
}

fn twice(keys: [&[&'static str]; 2], mut work: impl FnMut(&'static str)) {
    let [warm_up, counted] = keys;
    // Until the history is full, and every commit recycles what an older one left.
    (0..50).for_each(|_| warm_up.iter().for_each(|key| work(key)));
    between_marks(|| counted.iter().for_each(|key| work(key)));
}
