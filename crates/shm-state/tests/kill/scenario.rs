//! The operations that are swept: the state that each begins with, and what it does.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, ArenaOptions, Deadline, History, KeyRef, Namespace, On, Strategy};

use crate::common::is_full;
use crate::common::model::{self, Change, Model, put, remove};

/// What the child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Commits the changes.
    Commit,
    /// Sets the one key of the changes, on the straight path of an overwrite.
    Put,
    /// Makes the changes in a transaction and drops it.
    Abort,
    /// Tries to commit the changes, which do not fit.
    BeRefused,
    /// Creates an arena.
    CreateArena,
    /// Creates a namespace.
    CreateNamespace,
    /// Opens arena and namespace. All others open first and are only killed afterwards.
    Join,
    /// Closes arena and namespace, after having used them.
    Leave,
    /// Pins a snapshot twice, and another one.
    Pin,
    /// Waits for a commit in vain.
    Wait,
}

/// One operation.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub act: Act,
    /// The arena.
    pub options: ArenaOptions,
    /// Makes the state before the operation, in the parent.
    pub setup: fn(&mut World),
    /// How many snapshots the parent pins then.
    pub pins: usize,
    /// The pins are dropped after the next commit, since little else is possible beside them.
    pub unpin: bool,
    /// Goes on with the state after the pins were taken.
    pub setup_after_pins: fn(&mut World),
    /// What is changed.
    pub changes: Vec<Change>,
    /// What is committed next, under the number that the operation would have had. Must work before and after.
    pub next: Vec<Change>,
    /// At most so many points are visited unless all are.
    pub most_points: u64,
    /// An operation with fewer stores than this did not do what it is here for.
    pub least_stores: u64,
}

/// The state that an operation begins with, as bytes: a copy of them is an arena.
pub struct Template {
    capacity: u64,
    bytes: Vec<u8>,
    model: Model,
}

impl Template {
    /// Makes the state of a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        let arena = Arena::anonymous(&scenario.options).unwrap();
        let namespace = arena.namespace("swept").unwrap();
        let mut world = World {
            arena,
            namespace,
            model: Model::new(),
        };
        (scenario.setup)(&mut world);
        let stats = world.arena.stats().unwrap();
        let mut bytes = vec![0; stats.committed as usize];
        let file = File::from(world.arena.fd().unwrap().try_clone_to_owned().unwrap());
        file.read_exact_at(&mut bytes, 0).unwrap();
        Self {
            capacity: stats.capacity,
            bytes,
            model: world.model,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same with other bytes and contents.
    pub fn with(&self, bytes: Vec<u8>, model: Model) -> Self {
        Self {
            capacity: self.capacity,
            bytes,
            model,
        }
    }

    /// A copy that nobody has attached yet but this process.
    pub fn copy(&self) -> World {
        let file = File::from(memfd_create("swept", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(self.capacity).unwrap();
        file.write_all_at(&self.bytes, 0).unwrap();
        let arena = Arena::from_fd(file.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let namespace = arena.namespace("swept").unwrap();
        World {
            arena,
            namespace,
            model: self.model.clone(),
        }
    }
}

/// An arena, and what must be in it.
pub struct World {
    /// The arena.
    pub arena: Arena,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its contents.
    pub model: Model,
}

impl World {
    /// Commits some changes as one transaction, in arena and model.
    pub fn commit(&mut self, changes: &[Change]) {
        model::commit(&self.namespace, changes, Deadline::never()).unwrap();
        self.model = model::after(&self.model, changes);
    }

    /// Commits each change by itself.
    pub fn commit_each(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.commit(&[change]));
    }

    /// Sets keys to values of `len` bytes until the arena is full. Returns how many.
    fn fill(&mut self, prefix: &str, len: usize) -> usize {
        for number in 0.. {
            let change = [put(format!("{prefix}{number}"), len)];
            match model::commit(&self.namespace, &change, Deadline::never()) {
                Ok(_) => self.model = model::after(&self.model, &change),
                Err(error) if is_full(&error) => return number,
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!()
    }
}

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
        },
        setup,
        pins: 0,
        unpin: false,
        setup_after_pins: |_| {},
        changes,
        next: vec![put("next", 9), remove("b")],
        most_points: 700,
        least_stores: 1,
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
        capacity: 512 * 1024,
        history: History {
            count: 8,
            bytes: 1 << 20,
        },
    }
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
    };
    vec![
        scenario("insert", few, vec![put("new", 20)]),
        scenario("overwrite", worn, vec![put("d", 17)]),
        Scenario {
            act: Act::Put,
            ..scenario("put", worn, vec![put("a", 12)])
        },
        scenario("remove", worn, vec![remove("a")]),
        scenario("pop", few, vec![Change::Pop]),
        Scenario {
            most_points: 4000,
            ..scenario(
                "transaction",
                |world| {
                    few(world);
                    world.commit_each((0..64).filter(|n| n % 4 != 0).map(|n| put(format!("t{n}"), n)));
                },
                (0..64).map(mix).collect(),
            )
        },
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
        Scenario {
            most_points: 1500,
            ..scenario("large", few, vec![put("e", 9_000)])
        },
        Scenario {
            most_points: 400,
            ..scenario("chunks", few, vec![put("e", 150_000), put("a", 70_000)])
        },
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
            most_points: 1500,
            ..scenario("merging", full_with_room_in_the_history, vec![put("f1", 6000)])
        },
        Scenario {
            act: Act::BeRefused,
            options: tiny(),
            next: vec![remove("f4")],
            most_points: 1500,
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
        Scenario {
            most_points: 2000,
            ..other("namespace", Act::CreateNamespace)
        },
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
    ]
}
