//! Healthy arenas to be damaged, with every structure in them that an arena can have.

use std::fs::File;
use std::os::unix::fs::FileExt;

use shm_state::{Arena, ArenaOptions, Deadline, History, Namespace};

use super::layout::Image;
use crate::common::is_full;
use crate::common::model::{self, Change, put, remove};

/// Names of the images.
pub const NAMES: [&str; 3] = ["roomy", "tight", "wide"];

/// The image of a name.
pub fn image(name: &str) -> Image {
    match name {
        "tight" => tight(),
        // The same under tables so large that granules lead into the chunk map.
        "wide" => roomy(256 << 20),
        _ => roomy(16 << 20),
    }
}

fn commit(namespace: &Namespace, changes: &[Change]) {
    model::commit(namespace, changes, Deadline::never()).unwrap();
}

fn arena(capacity: u64) -> Arena {
    let history = History {
        count: 8,
        bytes: 1 << 20,
    };
    Arena::anonymous(&ArenaOptions {
        capacity,
        history,
        ..ArenaOptions::default()
    })
    .unwrap()
}

fn taken(arena: &Arena) -> Image {
    let mut bytes = vec![0; arena.stats().unwrap().committed as usize];
    let file = File::from(arena.fd().unwrap().try_clone_to_owned().unwrap());
    file.read_exact_at(&mut bytes, 0).unwrap();
    Image::parse(bytes)
}

/// Room to grow; several namespaces and runs; long keys, large values, further seats, a record and a list in blocks.
fn roomy(capacity: u64) -> Image {
    let arena = arena(capacity);
    let (a, b) = (arena.namespace("a").unwrap(), arena.namespace("b").unwrap());
    arena.namespace("c").unwrap();
    commit(&b, &[put("key 1", 3)]);
    for number in 0..40 {
        commit(&a, &[put(format!("key {number}"), number % 20)]);
    }
    commit(&a, &[put("large", 150_000)]);
    commit(&b, &[put("large", 70_000)]);
    commit(&a, &[put("larger", 200_000)]);
    commit(&a, &[put("large", 5_000)]);
    let long = |number| put(format!("a longer key than fits into a line {number}"), 70);
    for number in 10..20 {
        commit(&a, &[remove(format!("key {number}")), long(number)]);
    }
    let pins: Vec<_> = (0..70).map(|_| a.pin().unwrap()).collect();
    a.publish_cursor(a.seq());
    let fork = a.fork().unwrap();
    fork.publish_cursor(3);
    // A large commit, whose record and whose list for the log have blocks of their own; then a few small ones.
    commit(&a, &(0..70).map(|n| put(format!("many {n}"), n)).collect::<Vec<_>>());
    commit(&a, &(10..70).map(|n| remove(format!("many {n}"))).collect::<Vec<_>>());
    commit(&a, &(0..4).map(|n| put(format!("key {n}"), n)).collect::<Vec<_>>());
    for number in 0..3 {
        commit(&a, &[put("key 1", number), put("key 2", number)]);
        commit(&a, &[put("key 3", number)]);
    }
    commit(
        &a,
        &(0..130).map(|n| put(format!("last {n}"), n % 9)).collect::<Vec<_>>(),
    );
    let image = taken(&arena);
    drop(pins);
    image
}

/// The smallest arena, full, and partly emptied again from what is kept back for that.
fn tight() -> Image {
    let arena = arena(640 * 1024);
    let (a, b) = (arena.namespace("a").unwrap(), arena.namespace("b").unwrap());
    commit(&b, &[put("key 1", 3), put("large", 2_000)]);
    for number in 0.. {
        match model::commit(&a, &[put(format!("key {number}"), 400)], Deadline::never()) {
            Ok(_) => {}
            Err(error) if is_full(&error) => break,
            Err(error) => panic!("{error}"),
        }
    }
    for number in [3, 7, 20, 30, 31, 32] {
        commit(&a, &[remove(format!("key {number}"))]);
    }
    let _pinned = a.pin().unwrap();
    commit(&a, &[put("key 9", 30)]);
    commit(&a, &[put("key 8", 10)]);
    taken(&arena)
}
