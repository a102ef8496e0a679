//! Pins against recycling: a pin that was granted is at or above every `recyclable` that is stored while it stands, and
//! what it holds stays readable.
//!
//! A writer sets a key, gives up all history and sets another key, whose new value may take the first one's old block.
//! Meanwhile a reader pins, compares the pin with `recyclable` (by a read-modify-write, which sees the newest value) and
//! reads. It may die: its pin then stands, and nothing else changes.

use super::fixture::{Dict, drop_history, key, set};
use super::*;
use crate::Namespace;
use crate::sync::Word;

/// Key `a` holds the number of the last commit, 5.
fn dict() -> Arc<Dict> {
    Dict::new(1, |namespace| {
        set(namespace, "b", 100);
        set(namespace, "a", 2);
        set(namespace, "a", 3);
        drop_history(namespace.space());
        set(namespace, "b", 101);
        set(namespace, "a", 5);
    })
}

/// Thread 1 writes, thread 2 pins.
fn scene(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let (writer, reader) = (Namespace::new(Arc::clone(&space), 1), Namespace::new(space, 2));
        // So that the seat is taken before the scene begins.
        drop(reader.pin().expect("a seat is free"));
        spawn(move || {
            set(&writer, "a", 6);
            drop_history(writer.space());
            set(&writer, "b", 102);
        });
        spawn(move || {
            let pinned = reader.pin().expect("a seat is free");
            let seq = pinned.seq();
            let check = || {
                let recyclable = reader
                    .space()
                    .control()
                    .writer
                    .recyclable
                    .fetch_or(0, Ordering::Relaxed);
                claim(recyclable <= seq, || {
                    format!("blocks up to {recyclable} are used again beside a pin of {seq}")
                });
            };
            check();
            let payload = pinned.get(&key("a")).expect("no damage").expect("it was set");
            let a = u64::from_le_bytes(payload.bytes().try_into().expect("eight bytes"));
            claim(a == seq.min(6), || format!("key a is {a} in snapshot {seq}"));
            check();
        });
    }
}

#[test]
fn a_granted_pin_holds_up_recycling() {
    let dict = dict();
    holds("pin against raising", &Setup::default(), scene(&dict));
    holds_at_each_death(
        "pin against raising, the reader",
        &Setup::default(),
        2,
        true,
        scene(&dict),
    );
}

#[test]
fn weaker_pins_are_found() {
    let dict = dict();
    let setup = Setup::default();
    let control = dict.space().control();
    let (floor, seat) = (at(&control.reader.floor), at(&control.seats[0].pin));
    let pin = [Fault::Relaxed(Kind::Exchange, Ordering::SeqCst, seat)];
    finds("the pin is stored relaxed", &setup, &pin, scene(&dict));
    let look = [Fault::Relaxed(Kind::Load, Ordering::SeqCst, floor)];
    finds("the pinner looks at the floor relaxed", &setup, &look, scene(&dict));
    // Each of the two would do.
    let raiser = [
        Fault::NoFence(Ordering::SeqCst, 1),
        Fault::Relaxed(Kind::Load, Ordering::SeqCst, seat),
    ];
    finds("the raiser looks at the pins too early", &setup, &raiser, scene(&dict));
    finds(
        "the floor is not raised",
        &setup,
        &[Fault::NoStore(floor, None)],
        scene(&dict),
    );
}
