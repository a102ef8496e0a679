//! One process and the dict.

use std::hint::black_box;

use super::field::{Field, in_bulk, over_keys};
use super::{Bench, Group, Unit};
use crate::for_each_rival;
use crate::keys::{Draws, distinct};
use crate::rivals::{Client, Contents, Operation, Rival};

const KEYS: [usize; 5] = [10, 100, 1000, 10_000, 100_000];

fn named(keys: usize) -> String {
    match keys {
        0..1000 => format!("{keys} keys"),
        _ => format!("{},{:03} keys", keys / 1000, keys % 1000),
    }
}

fn draws(keys: usize) -> Draws {
    Draws::from(distinct(keys), if keys > 10_000 { 1 << 15 } else { 1 << 13 })
}

/// What `needs` are with so many keys.
fn needs(operation: Operation, keys: usize) -> Vec<Operation> {
    let many = (keys > 10_000).then_some(Operation::ManyKeys);
    [operation].into_iter().chain(many).collect()
}

/// The numbers of keys to measure with; the quick run has those that goals are about.
fn sizes(bench: &Bench, full: &[usize], quick: &[usize]) -> Vec<usize> {
    if bench.quick { quick.to_vec() } else { full.to_vec() }
}

/// Reading by key.
pub fn get(bench: &Bench) -> Group {
    fn add<R: Rival + 'static>(field: &mut Field, keys: usize) {
        field.add::<R, _>(&needs(Operation::Get, keys), &Contents::numbers(keys), |rival, _| {
            let mut client = R::Client::open(&rival.address());
            over_keys(draws(keys), move |key| {
                black_box(client.get(key)).expect("is present");
            })
        });
    }
    let column = |keys| {
        let mut field = Field::new();
        for_each_rival!(add(&mut field, keys));
        field.run(named(keys), keys as f64, bench.time(1200))
    };
    Group {
        id: "get",
        title: "Get, by number of keys",
        text: format!("Reading an integer of 8 bytes under a key of 20, keys in random order. {FLAT}"),
        unit: Unit::Time,
        columns: sizes(bench, &KEYS, &[1000, 100_000]).into_iter().map(column).collect(),
    }
}

/// What makes the cost of zproc grow with the keys, and what does not.
const FLAT: &str = "zproc executes as many instructions whatever the number of keys, which each check counts \
                    (`benches/instructions.toml`); what grows are misses of the caches, as in a map of one process.";

/// Overwriting by key.
pub fn set(bench: &Bench) -> Group {
    fn add<R: Rival + 'static>(field: &mut Field, keys: usize) {
        field.add::<R, _>(&needs(Operation::Set, keys), &Contents::numbers(keys), |rival, _| {
            let mut client = R::Client::open(&rival.address());
            let mut value = 0;
            over_keys(draws(keys), move |key| {
                value += 1;
                client.set(key, value);
            })
        });
    }
    let column = |keys| {
        let mut field = Field::new();
        for_each_rival!(add(&mut field, keys));
        field.run(named(keys), keys as f64, bench.time(1200))
    };
    Group {
        id: "set",
        title: "Set, by number of keys",
        text: format!(
            "Overwriting an integer of 8 bytes under a key of 20, keys in random order. Others may watch; nobody does. \
             {FLAT}"
        ),
        unit: Unit::Time,
        columns: sizes(bench, &KEYS, &[1000, 100_000]).into_iter().map(column).collect(),
    }
}

/// Reading through something that knows where the value is.
pub fn get_held(bench: &Bench) -> Group {
    fn add<R: Rival + 'static>(field: &mut Field) {
        field.add::<R, _>(&[Operation::GetHeld], &Contents::numbers(1000), |rival, _| {
            let mut client = R::Client::open(&rival.address());
            let key = distinct(1000)[500].as_str();
            in_bulk(move |count| {
                black_box(client.get_held(black_box(key), count));
            })
        });
    }
    let mut field = Field::new();
    for_each_rival!(add(&mut field));
    Group {
        id: "handle get",
        title: "Get through a handle",
        text: "Reading the same integer again and again, looked up once, of 1,000 keys. iceoryx2 reads with a copy under a \
               counter, as zproc does; its entry cannot go away, and is written by one process."
            .into(),
        unit: Unit::Time,
        columns: vec![field.run("1,000 keys", 1000.0, bench.time(2000))],
    }
}

/// Overwriting through something that knows where the value is.
pub fn set_held(bench: &Bench) -> Group {
    fn add<R: Rival + 'static>(field: &mut Field) {
        field.add::<R, _>(&[Operation::SetHeld], &Contents::numbers(1000), |rival, _| {
            let mut client = R::Client::open(&rival.address());
            let key = distinct(1000)[500].as_str();
            in_bulk(move |count| client.set_held(black_box(key), count))
        });
    }
    let mut field = Field::new();
    for_each_rival!(add(&mut field));
    Group {
        id: "handle set",
        title: "Set through a handle",
        text: "Overwriting the same integer again and again, looked up once, of 1,000 keys. iceoryx2 is far ahead here, and \
               will stay so: it copies into a cell that one process writes, without a lock, without a transaction, and \
               without a history that anybody could wait for or take a snapshot of. zproc takes its lock, writes a new \
               version, and makes it visible together with a record for watchers."
            .into(),
        unit: Unit::Time,
        columns: vec![field.run("1,000 keys", 1000.0, bench.time(2000))],
    }
}

/// The whole dict at one instant.
pub fn snapshot(bench: &Bench) -> Group {
    fn add<R: Rival + 'static>(field: &mut Field, keys: usize) {
        field.add::<R, _>(
            &needs(Operation::Snapshot, keys),
            &Contents::numbers(keys),
            |rival, _| {
                let mut client = R::Client::open(&rival.address());
                over_keys(draws(keys), move |key| {
                    black_box(client.snapshot(key)).expect("is present");
                })
            },
        );
    }
    let column = |keys| {
        let mut field = Field::new();
        for_each_rival!(add(&mut field, keys));
        field.run(named(keys), keys as f64, bench.time(1500))
    };
    Group {
        id: "snapshot",
        title: "Snapshot",
        text: "Getting hold of the whole dict as it is at one instant, reading one key of it, letting it go. zproc and LMDB \
               keep old versions instead of copying."
            .into(),
        unit: Unit::Time,
        columns: sizes(bench, &[10, 1000, 100_000], &[1000]).into_iter().map(column).collect(),
    }
}
