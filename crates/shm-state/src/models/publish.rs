//! Publication against readers: all of a commit or nothing, the newest of a key as `seq` says, and no key's value under
//! another key's handle.

use super::fixture::{Dict, drop_history, get, key, set};
use super::*;
use crate::signature::Signature;
use crate::write::Transaction;
use crate::{Deadline, Namespace};

/// Sets `a` and `b` to one value, in one commit.
fn set_both(namespace: &Namespace, value: u64) {
    let mut transaction = namespace.begin(Deadline::never()).expect("the lock is free");
    for name in ["a", "b"] {
        transaction
            .put(&key(name), 1, &value.to_le_bytes())
            .expect("there is room");
    }
    transaction.commit().expect("there is room");
}

/// After commit n both keys hold n.
fn dict() -> Arc<Dict> {
    Dict::new(8, |namespace| (1..6).for_each(|n| set_both(namespace, n)))
}

/// Thread 1 runs `write`; if it is killed, the next owner of the lock finishes or forgets what it did. Thread 2 runs
/// `read`. In the end both keys hold the number of the newest commit.
fn scene(
    dict: &Arc<Dict>,
    write: impl Fn(&Namespace, u64) + Copy + Send + Sync + 'static,
    read: impl Fn(&Namespace) + Copy + Send + Sync + 'static,
) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, reader) = (
            Namespace::new(Arc::clone(&space), 1),
            Namespace::new(Arc::clone(&space), 2),
        );
        // So that the seat is taken before the scene begins.
        drop(reader.pin().expect("a seat is free"));
        let base = space.seq();
        let of_next = Arc::clone(&space);
        spawn(move || {
            if !survives(|| write(&writer, base + 1)) {
                spawn(move || {
                    drop(Transaction::begin(&of_next, Signature::NOBODY, Deadline::never()).expect("its owner is dead"))
                });
            }
        });
        spawn(move || read(&reader));
        join();
        let namespace = Namespace::new(space, 3);
        let (a, b) = (get(&namespace, "a"), get(&namespace, "b"));
        let seq = namespace.seq();
        claim(a == Some(seq) && b == a, || {
            format!("{a:?} and {b:?} after commit {seq}")
        });
    }
}

/// Looks at both keys of one snapshot.
fn look_at_snapshot(reader: &Namespace) {
    let pinned = reader.pin().expect("a seat is free");
    let read = |name| {
        let payload = pinned.get(&key(name)).expect("no damage")?;
        Some(u64::from_le_bytes(payload.bytes().try_into().expect("eight bytes")))
    };
    let (a, b, seq) = (read("a"), read("b"), pinned.seq());
    claim(a == Some(seq) && b == a, || {
        format!("snapshot {seq} has {a:?} and {b:?}")
    });
}

/// Gets one key after the other, which must not lead back.
fn look_twice(reader: &Namespace) {
    let before = reader.seq();
    let a = get(reader, "a");
    let b = get(reader, "b");
    claim(Some(before) <= a && a <= b, || {
        format!("at commit {before} {a:?}, then {b:?}")
    });
}

fn set_a_and_b(writer: &Namespace, value: u64) {
    set_both(writer, value);
}

/// Looks for a key that thread 1 inserts with commit 6.
fn look_for_new(reader: &Namespace) {
    let before = reader.seq();
    let c = get(reader, "c");
    let right = c == Some(6) || c.is_none() && before < 6;
    claim(right, || format!("at commit {before} the new key is {c:?}"));
}

fn insert_c(writer: &Namespace, value: u64) {
    let mut transaction = writer.begin(Deadline::never()).expect("the lock is free");
    for name in ["a", "b", "c"] {
        transaction
            .put(&key(name), 1, &value.to_le_bytes())
            .expect("there is room");
    }
    transaction.commit().expect("there is room");
}

/// Six keys, as many as the index takes, of which one was removed so long ago that nobody can see it.
fn full_dict() -> Arc<Dict> {
    Dict::new(1, |namespace| {
        for (n, name) in ["gone", "a", "b", "c", "d", "e"].into_iter().enumerate() {
            set(namespace, name, n as u64);
        }
        let mut transaction = namespace.begin(Deadline::never()).expect("the lock is free");
        transaction.remove(&key("gone")).expect("there is room");
        transaction.commit().expect("there is room");
        drop_history(namespace.space());
    })
}

/// Thread 1 has the index made anew without the removed key, and puts another key's entry where that key's was. Thread 2
/// has a handle of the removed key.
fn handle(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, reader) = (
            Namespace::new(Arc::clone(&space), 1),
            Namespace::new(Arc::clone(&space), 2),
        );
        let entry = reader
            .locate(&key("gone"))
            .expect("no damage")
            .expect("its entry stays")
            .entry;
        spawn(move || {
            set(&writer, "f", 100);
            drop_history(writer.space());
            let mut entries = Vec::new();
            for name in ["g", "h", "i", "j", "k"] {
                set(&writer, name, 200);
                entries.push(writer.locate(&key(name)).expect("no damage").expect("it was set").entry);
                if entries.contains(&entry) {
                    break;
                }
            }
            claim(entries.contains(&entry), || {
                format!("{UNSET}: entry {entry} was not recycled: {entries:?}")
            });
        });
        spawn(move || {
            let Some(place) = reader.place(&key("gone")).expect("no damage") else {
                return;
            };
            let seen = place.peek(|_, bytes| bytes.to_vec());
            claim(!matches!(seen, Some(Some(_))), || {
                format!("the removed key has {seen:?}")
            });
        });
    }
}

#[test]
fn a_commit_is_seen_as_a_whole() {
    let dict = dict();
    let setup = Setup::default();
    holds(
        "snapshot against commit",
        &setup,
        scene(&dict, set_a_and_b, look_at_snapshot),
    );
    holds("two gets against commit", &setup, scene(&dict, set_a_and_b, look_twice));
    holds("get against insertion", &setup, scene(&dict, insert_c, look_for_new));
}

#[test]
fn a_dead_writers_commit_is_seen_as_a_whole() {
    let dict = dict();
    let setup = Setup::default();
    holds_at_each_death(
        "snapshot against commit",
        &setup,
        1,
        true,
        scene(&dict, set_a_and_b, look_at_snapshot),
    );
    holds_at_each_death(
        "get against insertion",
        &setup,
        1,
        true,
        scene(&dict, insert_c, look_for_new),
    );
}

#[test]
fn a_handle_never_leads_to_another_key() {
    holds("handle against a new index", &Setup::default(), handle(&full_dict()));
}

#[test]
fn weaker_orders_are_found() {
    let dict = dict();
    let setup = Setup::default();
    let control = dict.space().control();
    let (seq, marker) = (at(&control.reader.seq), at(&control.writer.marker));
    let a = at(&dict.entry("a").newest);
    let relaxed = |kind, order, word| [Fault::Relaxed(kind, order, word)];
    let pair = || scene(&dict, set_a_and_b, look_at_snapshot);
    finds(
        "seq is stored relaxed",
        &setup,
        &relaxed(Kind::Store, Ordering::Release, seq),
        pair(),
    );
    finds(
        "seq is loaded relaxed",
        &setup,
        &relaxed(Kind::Load, Ordering::Acquire, seq),
        pair(),
    );
    // A living writer has made a fence by then, for its log slot.
    finds_at_some_death(
        "newest is stored relaxed",
        &relaxed(Kind::Store, Ordering::Release, a),
        1,
        pair(),
    );
    finds(
        "newest is loaded relaxed",
        &setup,
        &relaxed(Kind::Load, Ordering::Acquire, a),
        pair(),
    );
    finds("seq before an assignment", &setup, &[Fault::Swapped(a, seq)], pair());
    let value = at(&control.record[1]);
    finds_at_some_death("marker before the record", &[Fault::Swapped(value, marker)], 1, pair());
    let full = full_dict();
    let generation = at(&full.space().control().reader.generation);
    finds(
        "the generation stays",
        &setup,
        &[Fault::NoStore(generation, None)],
        handle(&full),
    );
}
