//! An optimistic read against recycling: a get that passes its check has returned no byte of a recycled block.
//!
//! A writer sets key `a`, gives up all history, and sets key `b` until the new value of `b` lies in the block of the old
//! value of `a`; meanwhile a reader gets `a`. In a second scene the floor is raised by one writer and the block
//! overwritten by the next, who learns from the lock alone that it may be.

use super::fixture::{Dict, drop_history, get, key, newest, set};
use super::*;
use crate::Namespace;

/// The old value of `a` lies in the second block of its free list from where the scene begins.
fn dict() -> Arc<Dict> {
    Dict::new(1, |namespace| {
        set(namespace, "b", 100);
        set(namespace, "a", 10);
        set(namespace, "a", 11);
        drop_history(namespace.space());
        set(namespace, "b", 101);
    })
}

/// Reads key `a`; `None` if it takes more than this way of reading.
type Read = fn(&Namespace) -> Option<u64>;

/// The whole get, with further attempts and a pin at last.
fn whole_get(reader: &Namespace) -> Option<u64> {
    let a = get(reader, "a");
    claim(a.is_some(), || "the key is there, and was not found".into());
    a
}

/// One attempt.
fn peek(reader: &Namespace) -> Option<u64> {
    let small = reader.peek(&key("a")).ok()?;
    claim(small.is_some(), || "the key is there, and was not found".into());
    small.map(|small| small.with(|_, bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))))
}

/// Thread 1 writes, thread 2 reads. `handed_over`: a thread 3 does the second half of the writing.
fn scene(dict: &Arc<Dict>, handed_over: bool, read: Read) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let namespace = |identity| Namespace::new(Arc::clone(&space), identity);
        let (first, second, reader) = (namespace(1), namespace(2), namespace(3));
        let block = newest(&space, "a");
        let raise = move || {
            set(&first, "a", 12);
            drop_history(first.space());
            set(&first, "b", 102);
        };
        let overwrite = move || {
            set(&second, "b", 103);
            let reused = newest(second.space(), "b") == block;
            claim(reused, || format!("{UNSET}: nothing was recycled"));
        };
        // Numbers are given in the order of spawning: the reader comes second.
        let (writer, reader) = (
            move || {
                raise();
                if handed_over { spawn(overwrite) } else { overwrite() }
            },
            move || {
                let a = read(&reader);
                claim(matches!(a, None | Some(11 | 12)), || format!("key a was never {a:?}"));
            },
        );
        spawn(writer);
        spawn(reader);
    }
}

#[test]
fn a_valid_read_saw_no_recycled_block() {
    let dict = dict();
    holds(
        "get against recycling",
        &Setup::default(),
        scene(&dict, false, whole_get),
    );
    holds(
        "get against recycling by the next writer",
        &Setup::default(),
        scene(&dict, true, peek),
    );
}

#[test]
fn weaker_checks_are_found() {
    let dict = dict();
    let setup = Setup::default();
    let floor = at(&dict.space().control().reader.floor);
    finds(
        "no fence before the reader's look at the floor",
        &setup,
        &[Fault::NoFence(Ordering::Acquire, 2)],
        scene(&dict, false, peek),
    );
    finds(
        "the floor is not raised",
        &setup,
        &[Fault::NoStore(floor, None)],
        scene(&dict, false, peek),
    );
    // Each of the two would do: raising has a fence of its own, and the next transaction begins with one.
    let fences = [
        Fault::NoFence(Ordering::SeqCst, 1),
        Fault::NoFence(Ordering::Release, 1),
    ];
    finds(
        "no fence between floor and overwriting",
        &setup,
        &fences,
        scene(&dict, false, peek),
    );
    finds(
        "no fence where the next writer begins",
        &setup,
        &[Fault::NoFence(Ordering::Release, 3)],
        scene(&dict, true, peek),
    );
}
