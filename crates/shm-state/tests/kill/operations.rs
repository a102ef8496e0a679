//! The operations that are swept, with the state that each begins with.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shm_state::{ArenaOptions, Deadline, History, KeyRef, On, Strategy};

use super::scenario::{Act, Scenario, World};
use super::stranger;
use crate::common::model::{self, Change, put, remove};

fn scenario(name: &'static str, setup: fn(&mut World), changes: Vec<Change>) -> Scenario {
    Scenario {
        name,
        act: Act::Commit,
        options: ArenaOptions {
            capacity: 8 << 20,
            history: History {
                count: 8,
                bytes: 1 << 20,
            },
            ..ArenaOptions::default()
        },
        setup,
        pins: 0,
        unpin: false,
        setup_after_pins: |_| {},
        changes,
        next: vec![put("next", 9), remove("b")],
        most_points: 150,
        least_stores: 1,
        unmarked: false,
    }
}

fn few(world: &mut World) {
    world.commit_each([put("a", 8), put("b", 3), put("c", 40), put("d", 16), put("e", 100)]);
    world.commit_each([put("a", 9), remove("c"), put("b", 60), put("d", 16)]);
}

/// As [`few`], and enough commits that blocks are used again.
fn worn(world: &mut World) {
    few(world);
    for round in 0..14 {
        world.commit_each([put("a", 8 + round), put("worn", 50)]);
    }
    world.commit_each([remove("worn")]);
    // Somebody has slept here, so the next commit wakes.
    let (soon, never) = (Deadline::after(Duration::from_millis(1)), AtomicBool::new(false));
    for on in [On::Any, On::Keys(&[KeyRef::new(0, b"a").hash()])] {
        let ended = world
            .namespace
            .wait(on, Strategy::Block, soon, &never, |_| Ok(None::<()>));
        ended.unwrap().unwrap_err();
    }
}

/// A full arena whose keys `f…` have values of 2,000 bytes, side by side.
fn full(world: &mut World) {
    world.commit_each((0..160).map(|number| put(format!("f{number}"), 5)));
    let keys = world.fill("f", 2000);
    assert!((40..160).contains(&keys), "{keys} values fill the arena");
    // So full that not even a small value fits.
    world.fill("s", 8);
}

/// A full arena in which a snapshot that was taken before holds everything: only the reserve is left.
fn full_to_the_last_granule(world: &mut World) {
    world.fill("f", 2000);
    world.fill("s", 8);
    while model::commit(&world.namespace, &[put("s0", 9)], Deadline::never()).is_ok() {}
    world.model = model::contents(&world.namespace);
}

fn full_with_room_in_the_history(world: &mut World) {
    full(world);
    world.commit(&(10..20).map(|number| remove(format!("f{number}"))).collect::<Vec<_>>());
}

fn tiny() -> ArenaOptions {
    ArenaOptions {
        capacity: 640 * 1024,
        history: History {
            count: 8,
            bytes: 1 << 20,
        },
        ..ArenaOptions::default()
    }
}

/// A history that the next commit makes too long, so that it raises the floor.
fn full_history(world: &mut World) {
    few(world);
    for round in 0..30 {
        world.commit_each([put("a", round % 16)]);
    }
    // The ring of the log is twice the history.
    while world.namespace.seq() + 1 - world.namespace.floor() < 16 {
        world.commit_each([put("a", 7)]);
    }
}

/// An arena in which a dead process's snapshot holds the memory that the next commit needs.
fn held_by_the_dead(world: &mut World) {
    stranger::pins_and_dies(world);
    world.commit(&(10..20).map(|number| remove(format!("f{number}"))).collect::<Vec<_>>());
}

/// The one of that name.
pub fn named(name: &str) -> Scenario {
    let found = all().into_iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| panic!("no scenario {name:?}"))
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut all = commits();
    all.extend(in_full_arenas());
    all.extend(others());
    all
}

fn commits() -> Vec<Scenario> {
    let mix = |number: usize| match number % 4 {
        0 => put(format!("new key number {number} of the transaction"), number),
        1 => put(format!("t{number}"), 3 * number),
        2 => remove(format!("t{number}")),
        _ => put(format!("t{number}"), 8),
    };
    let most = |number: u32| ArenaOptions {
        history: History {
            count: number,
            bytes: 1 << 20,
        },
        capacity: 8 << 20,
        ..ArenaOptions::default()
    };
    vec![
        scenario("insert", few, vec![put("new", 20)]),
        scenario("overwrite", worn, vec![put("d", 17)]),
        Scenario {
            act: Act::Put,
            ..scenario("put", worn, vec![put("a", 20)])
        },
        scenario("remove", worn, vec![remove("a")]),
        scenario("pop", few, vec![Change::Pop]),
        scenario(
            "transaction",
            |world| {
                few(world);
                world.commit_each((0..64).filter(|n| n % 4 != 0).map(|n| put(format!("t{n}"), n)));
            },
            (0..64).map(mix).collect(),
        ),
        scenario(
            "clear",
            |world| {
                few(world);
                world.commit(&(0..20).map(|n| put(format!("t{n}"), n)).collect::<Vec<_>>());
            },
            vec![Change::Clear, put("after the clear", 30)],
        ),
        Scenario {
            least_stores: 120,
            ..scenario(
                "growth",
                |world| world.commit_each((0..12).map(|n| put(format!("g{n}"), n))),
                vec![put("g12", 10)],
            )
        },
        Scenario {
            options: most(1),
            ..scenario(
                "dropping",
                |world| {
                    world.commit_each((0..10).map(|n| put(format!("g{n}"), n)));
                    world.commit_each((0..8).map(|n| remove(format!("g{n}"))));
                    world.commit_each((0..4).map(|n| put("g9", n)));
                },
                vec![put("g3", 10), put("g10", 10)],
            )
        },
        scenario("large", few, vec![put("e", 9_000)]),
        scenario("chunks", few, vec![put("e", 150_000), put("a", 70_000)]),
        Scenario {
            options: most(1),
            ..scenario("recycling", worn, vec![put("a", 12), put("b", 12)])
        },
        Scenario {
            pins: 1,
            setup_after_pins: |world| {
                for round in 0..30 {
                    world.commit_each([put("a", round), put("b", 60 + round), remove("d"), put("d", round)]);
                }
            },
            ..scenario("pinned", worn, vec![put("a", 8), remove("e"), put("new", 8)])
        },
        Scenario {
            act: Act::Put,
            pins: 1,
            setup_after_pins: |world| world.commit_each([put("d", 30), put("b", 9)]),
            ..scenario("put beside pins", worn, vec![put("a", 20)])
        },
        // More blocks than were free before the floor was raised.
        scenario(
            "trimming",
            full_history,
            (0..20).map(|n| put(format!("n{n}"), 12)).collect(),
        ),
        // Blocks that are taken and given back unused: values that become larger, keys that come and go.
        scenario(
            "dropped",
            worn,
            vec![
                put("a", 60),
                put("b", 60),
                put("new", 60),
                put("brief", 60),
                put("a", 400),
                put("b", 400),
                put("new", 400),
                remove("brief"),
                remove("new"),
            ],
        ),
        Scenario {
            act: Act::Abort,
            ..scenario("abort", worn, vec![put("a", 90_000), remove("b"), put("new", 8)])
        },
    ]
}

fn in_full_arenas() -> Vec<Scenario> {
    vec![
        Scenario {
            options: tiny(),
            next: vec![put("f3", 2000), remove("f4")],
            ..scenario("history", full_with_room_in_the_history, vec![put("f1", 2001)])
        },
        Scenario {
            options: tiny(),
            next: vec![put("f3", 2000), remove("f4")],
            ..scenario("merging", full_with_room_in_the_history, vec![put("f1", 6000)])
        },
        Scenario {
            options: tiny(),
            next: vec![remove("f4")],
            setup_after_pins: held_by_the_dead,
            ..scenario(
                "reaping",
                |world| {
                    world.fill("f", 2000);
                },
                vec![put("f1", 2001)],
            )
        },
        Scenario {
            act: Act::BeRefused,
            options: tiny(),
            next: vec![remove("f4")],
            ..scenario("refused", full, vec![remove("f1"), put("f2", 6000)])
        },
        Scenario {
            options: tiny(),
            next: vec![remove("f4")],
            pins: 1,
            unpin: true,
            setup_after_pins: full_to_the_last_granule,
            ..scenario("reserve", few, vec![remove("f1")])
        },
    ]
}

fn others() -> Vec<Scenario> {
    let other = |name, act| Scenario {
        act,
        ..scenario(name, few, vec![])
    };
    vec![
        other("namespace", Act::CreateNamespace),
        other("arena", Act::CreateArena),
        other("join", Act::Join),
        other("leave", Act::Leave),
        other("pin", Act::Pin),
        Scenario {
            // The last ones that can be taken before another block of seats is added.
            pins: 56,
            least_stores: 200,
            ..other("seats", Act::Pin)
        },
        other("wait", Act::Wait),
        other("watch", Act::Watch),
        other("verify", Act::Verify),
        Scenario {
            setup_after_pins: stranger::dies_unmarked,
            unmarked: true,
            // One more than otherwise: the dead one's lock is marked.
            least_stores: 12,
            ..other("join after a death", Act::Join)
        },
        Scenario {
            setup_after_pins: stranger::pins_and_dies,
            ..other("reap", Act::Reap)
        },
        Scenario {
            setup_after_pins: stranger::dies_unmarked,
            unmarked: true,
            ..other("reap a lock", Act::Reap)
        },
    ]
}
