//! Corrupt bytes: an error, or a wrong value, but never a panic, a crash, an endless loop, or memory by the gigabyte.
//!
//! `damage/layout.rs` names every word of a healthy arena, `damage/mutate.rs` draws damage in these names, `damage/rounds.rs`
//! has processes meet it, in which `damage/exercise.rs` does everything that the engine can do. What ever did harm is in
//! `corpus/damage`, with its story. ZPROC_DAMAGE_ROUNDS and ZPROC_DAMAGE_SEED make the search longer, or repeat it.

mod common;
#[path = "damage/exercise.rs"]
mod exercise;
#[path = "damage/images.rs"]
mod images;
#[path = "damage/layout.rs"]
mod layout;
#[path = "damage/live.rs"]
mod live;
#[path = "damage/mutate.rs"]
mod mutate;
#[path = "damage/rounds.rs"]
mod rounds;
#[path = "damage/truncated.rs"]
mod truncated;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::model::{self, put};
use common::number_from_env;
use common::process::Role;
use nix::sys::memfd::{MFdFlags, memfd_create};
use rounds::Subject;
use shm_state::{Arena, Deadline, Error};

const SUBJECT: Subject = Subject {
    names: &images::NAMES,
    image: images::image,
    run: exercise::run,
};

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "live" => live::play(&role),
        _ => SUBJECT.play(&role),
    }
}

/// Readers, a writer and a watcher at work, while another process damages what they work on, and mends it, and damages it.
#[test]
fn damage_under_the_hands_of_four_processes_ends_none_of_them() {
    let seconds = number_from_env("ZPROC_DAMAGE_LIVE").unwrap_or(4);
    let seed = number_from_env("ZPROC_DAMAGE_SEED").unwrap_or(u64::from(std::process::id()) << 32);
    live::run(seed, seconds);
}

#[test]
fn damage_is_an_error_and_never_a_crash_or_an_endless_loop() {
    let rounds = number_from_env("ZPROC_DAMAGE_ROUNDS").unwrap_or(800);
    let seed = number_from_env("ZPROC_DAMAGE_SEED").unwrap_or(u64::from(std::process::id()) << 32);
    let noticed = SUBJECT.rounds(seed, rounds);
    assert!(
        noticed * 4 > rounds || rounds < 100,
        "only {noticed} of {rounds} were noticed, ZPROC_DAMAGE_SEED={seed}"
    );
}

#[test]
fn what_did_harm_once_does_none() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/damage");
    assert!(SUBJECT.replay_all(&corpus) >= 10);
}

/// The tables of a large arena reach further than those of a small one, and a granule is only compared with the latter. So
/// unused space that seemed to begin in the chunk map was used: a new key went over the words that say whose the chunks
/// are.
#[test]
fn unused_space_that_begins_in_the_chunk_map_is_not_used() {
    let mut image = images::image("wide");
    let bump = image.find("a.control.bump").unwrap().at;
    image.set(bump, image.word(bump) >> 32 << 32 | 5150);
    let file = File::from(memfd_create("damaged", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(image.capacity).unwrap();
    file.write_all_at(&image.bytes, 0).unwrap();
    let arena = Arena::from_fd(file.try_clone().unwrap().into()).unwrap();
    let namespace = arena.namespace("a").unwrap();
    // In a class of its own, so that no free block serves.
    let error = model::commit(&namespace, &[put("new", 60_000)], Deadline::never()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let mut now = vec![0; image.bytes.len()];
    file.read_exact_at(&mut now, 0).unwrap();
    let chunk_map = 292 * 1024..324 * 1024;
    assert!(
        now[chunk_map.clone()] == image.bytes[chunk_map],
        "the chunk map was written"
    );
}

/// The second definition of the layout agrees with the engine's: it finds each structure, and each key in its place.
#[test]
fn the_fuzzer_knows_the_layout() {
    let image = images::image("roomy");
    let groups: BTreeSet<&str> = image.fields.iter().map(|field| field.group.as_str()).collect();
    let expected = "
        arena.committed arena.lock.word arena.namespaces chunk control.bump control.dense control.floor control.marker
        control.record control.recyclable control.reserve control.root control.seatsnext control.seq class dense.capacity
        dense.entry dense.inserted dense.len dense.link directory entry.hash entry.link entry.newest entry.v0.birth
        entry.v0.len entry.v0.older entry.v1.older event free.link free.retired head.magic lock.starving lock.word
        log.change log.counts log.list log.list.link log.seq participant.pid record.offset record.value reserve.link
        seat.cursor seat.owner seat.pin seats.link seats.next seats.pin slot table.link table.used";
    for group in expected.split_whitespace() {
        assert!(groups.contains(group), "no field of the group {group} in {groups:?}");
    }
    let first = image.places["a.entry.0"] as usize * layout::GRANULE;
    assert_eq!(&image.bytes[first + 40..first + 48], b"key 0\0\0\0");
    let used = image.find("a.table.used").map(|field| image.word(field.at)).unwrap();
    let entries = (0..)
        .take_while(|n| image.places.contains_key(&format!("a.entry.{n}")))
        .count();
    assert_eq!(used, entries as u64);
    let counts = image
        .fields
        .iter()
        .filter(|field| field.path.starts_with("a.log."))
        .count();
    assert!(counts > 50, "the log has {counts} words");
}
