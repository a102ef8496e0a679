//! Creating and opening arenas: one creator wins, and what is no arena is refused with the reason.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use common::model::{self, put};
use common::process::{Board, Kid, Role};
use common::{Name, assert_clean};
use shm_state::{Arena, ArenaOptions, Deadline, Error, History};

const CREATORS: u64 = 10;
/// Places on the board of the creators: ready, go, then how each of them fared.
const READY: u64 = 0;
const GO: u64 = 20;
const FARED: u64 = 21;
const WON: u64 = 1;
const LOST: u64 = 2;

fn small() -> ArenaOptions {
    ArenaOptions {
        capacity: 4 << 20,
        history: History {
            count: 16,
            bytes: 1 << 20,
        },
        ..ArenaOptions::default()
    }
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let name = std::env::var("SHM_STATE_TEST_NAME").unwrap();
    role.board.set(READY + role.number, 1);
    role.board.wait_for(GO, 1);
    match role.name.as_str() {
        "create" => {
            let fared = match Arena::create(&name, &small()) {
                Ok(arena) => {
                    model::commit(&arena.namespace("n").unwrap(), &[put("winner", 8)], Deadline::never()).unwrap();
                    WON
                }
                Err(Error::AlreadyExists { .. }) => {
                    // Whoever lost sees a whole one.
                    Arena::open(&name).unwrap().namespace("n").unwrap().seq();
                    LOST
                }
                Err(error) => panic!("{error}"),
            };
            role.board.set(FARED + role.number, fared);
        }
        "open_or_create" => {
            let arena = Arena::open_or_create(&name, &small()).unwrap();
            let namespace = arena.namespace("n").unwrap();
            let change = [put(format!("from {}", role.number), 8)];
            model::commit(&namespace, &change, Deadline::never()).unwrap();
        }
        other => panic!("no role {other}"),
    }
}

/// Starts children that all begin at once, and waits for them.
fn race(role: &str, name: &str) -> Board {
    let board = Board::new();
    let start = |number| {
        let mut command = Kid::command(role, number, None, &board);
        Kid::spawn(command.env("SHM_STATE_TEST_NAME", name))
    };
    let kids: Vec<Kid> = (0..CREATORS).map(start).collect();
    (0..CREATORS).for_each(|number| board.wait_for(READY + number, 1));
    board.set(GO, 1);
    kids.into_iter().for_each(Kid::succeeds);
    board
}

#[test]
fn of_ten_creators_exactly_one_wins() {
    for _ in 0..3 {
        let name = Name::new("creators");
        let board = race("create", &name);
        let fared: Vec<u64> = (0..CREATORS).map(|number| board.get(FARED + number)).collect();
        assert_eq!(fared.iter().filter(|f| **f == WON).count(), 1, "{fared:?}");
        assert!(fared.iter().all(|f| [WON, LOST].contains(f)), "{fared:?}");
        assert_clean(&Arena::open(&name).unwrap());
    }
}

#[test]
fn ten_who_open_or_create_all_get_the_same_arena() {
    for _ in 0..3 {
        let name = Name::new("openers");
        race("open_or_create", &name);
        let arena = Arena::open(&name).unwrap();
        let namespace = arena.namespace("n").unwrap();
        assert_eq!((namespace.seq(), namespace.len().unwrap() as u64), (CREATORS, CREATORS));
        assert_clean(&arena);
    }
}

#[test]
fn an_arena_lives_until_its_last_user_has_gone() {
    let name = Name::new("life");
    let arena = Arena::create(&name, &small()).unwrap();
    assert_eq!(name.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(
        Arena::create(&name, &small()),
        Err(Error::AlreadyExists { .. })
    ));
    let namespace = arena.namespace("n").unwrap();
    model::commit(&namespace, &[put("a", 8)], Deadline::never()).unwrap();
    Arena::remove(&name).unwrap();
    assert!(matches!(Arena::remove(&name), Err(Error::NotFound { .. })));
    assert!(matches!(Arena::open(&name), Err(Error::NotFound { .. })));
    model::commit(&namespace, &[put("b", 8)], Deadline::never()).unwrap();
    assert_eq!(namespace.len().unwrap(), 2);
    let other = Arena::create(&name, &small()).unwrap();
    assert_eq!(
        other.namespace("n").unwrap().len().unwrap(),
        0,
        "another arena of the same name"
    );
}

#[test]
fn opening_twice_in_a_process_gives_one_attachment() {
    let name = Name::new("twice");
    let one = Arena::create(&name, &small()).unwrap();
    let two = Arena::open(&name).unwrap();
    let (first, second) = (one.namespace("n").unwrap(), two.namespace("n").unwrap());
    assert_ne!(first.identity(), second.identity());
    let tx = first.begin(Deadline::never()).unwrap();
    assert!(matches!(second.begin(Deadline::never()), Err(Error::Deadlock)));
    drop(tx);
    second.begin(Deadline::never()).unwrap();
}

#[test]
fn names_that_cannot_be_file_names_are_refused() {
    for name in ["", ".hidden", "a/b", "../up", "new\nline", "nul\0", &"x".repeat(201)] {
        assert!(
            matches!(Arena::create(name, &small()), Err(Error::InvalidName { .. })),
            "{name:?}"
        );
        assert!(matches!(Arena::open(name), Err(Error::InvalidName { .. })), "{name:?}");
        assert!(
            matches!(Arena::remove(name), Err(Error::InvalidName { .. })),
            "{name:?}"
        );
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let refuse = |options: ArenaOptions| {
        assert!(
            matches!(Arena::anonymous(&options), Err(Error::InvalidOption { .. })),
            "{options:?}"
        );
    };
    refuse(ArenaOptions {
        capacity: 511 * 1024,
        ..small()
    });
    refuse(ArenaOptions {
        capacity: u64::MAX,
        ..small()
    });
    refuse(ArenaOptions {
        history: History { count: 0, bytes: 0 },
        ..small()
    });
    refuse(ArenaOptions {
        history: History {
            count: u32::MAX,
            bytes: 0,
        },
        ..small()
    });
}

/// Damages a good arena's file, and returns why it is refused.
#[track_caller]
fn reason_after(damage: impl FnOnce(&File)) -> String {
    let name = Name::new("damaged");
    let arena = Arena::create(&name, &small()).unwrap();
    model::commit(&arena.namespace("n").unwrap(), &[put("a", 8)], Deadline::never()).unwrap();
    drop(arena);
    damage(&File::options().read(true).write(true).open(name.path()).unwrap());
    reason_of(Arena::open(&name))
}

#[track_caller]
fn reason_of(result: shm_state::Result<Arena>) -> String {
    match result {
        Err(Error::Incompatible { reason, .. }) => reason,
        Err(Error::Corrupt { what }) => what,
        Err(error) => panic!("refused, but by {error:?}"),
        Ok(_) => panic!("accepted"),
    }
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn a_truncated_arena_is_refused() {
    for size in [0, 1, 87, 88, 4096, 65_536, (4 << 20) - 1] {
        let reason = reason_after(|file| file.set_len(size).unwrap());
        let expected = if size < 88 { "too short" } else { "truncated" };
        assert!(
            reason.contains(expected) && reason.contains(&size.to_string()),
            "{size}: {reason}"
        );
    }
}

#[test]
fn an_arena_of_another_size_is_refused() {
    let reason = reason_after(|file| file.set_len(5 << 20).unwrap());
    assert!(
        reason.contains(&(5 << 20).to_string()) && reason.contains(&(4 << 20).to_string()),
        "{reason}"
    );
}

#[test]
fn the_file_of_another_program_is_refused_and_not_removed() {
    let name = Name::new("foreign");
    for contents in [&b"#!/bin/sh\n"[..], &[0; 1 << 20], &[0xff; 4096]] {
        std::fs::write(name.path(), contents).unwrap();
        let reason = reason_of(Arena::open(&name));
        assert!(reason.contains("no arena") || reason.contains("too short"), "{reason}");
        reason_of(Arena::open_or_create(&name, &small()));
        assert!(matches!(Arena::remove(&name), Err(Error::Incompatible { .. })));
        assert_eq!(std::fs::read(name.path()).unwrap(), contents, "it was left alone");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let name = Name::new("directory");
    std::fs::create_dir(name.path()).unwrap();
    assert!(Arena::open(&name).is_err());
    assert!(Arena::remove(&name).is_err());
    std::fs::remove_dir(name.path()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", name.path()).unwrap();
    assert!(Arena::open(&name).is_err(), "a symbolic link is not followed");
    assert!(Path::new("/etc/passwd").exists());
}

/// The words of the head: magic, version, layout, capacity, PID namespace, boot id (2), history (2), value format,
/// checksum.
#[test]
fn an_arena_of_another_version_layout_or_boot_is_refused_by_name() {
    let older = reason_after(|file| file.write_all_at(&0u64.to_le_bytes(), 8).unwrap());
    assert!(older.contains("format version 0"), "{older}");
    let newer = reason_after(|file| file.write_all_at(&77u64.to_le_bytes(), 8).unwrap());
    assert!(newer.contains("format version 77"), "{newer}");
    let layout = reason_after(|file| flip(file, 16));
    assert!(layout.contains("layout"), "{layout}");
    for word in 3..11 {
        let damaged = reason_after(|file| flip(file, word * 8));
        assert!(damaged.contains("checksum"), "word {word}: {damaged}");
    }
}

#[test]
fn an_arena_for_other_values_is_refused_by_whoever_asks() {
    let name = Name::new("format");
    let options = ArenaOptions {
        value_format: 7,
        ..small()
    };
    let created = Arena::create(&name, &options).unwrap();
    let opened = Arena::open(&name).unwrap();
    let handed = Arena::from_fd(created.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
    let asked = Arena::open_or_create(&name, &small()).unwrap();
    for arena in [&created, &opened, &handed, &asked] {
        assert_eq!(arena.value_format(), 7, "whatever was asked for: the arena was there");
        arena.check_value_format(7, |_| unreachable!()).unwrap();
        let reason = reason_of(
            arena
                .check_value_format(8, |format| format!("of kind {format}"))
                .map(|()| opened.clone()),
        );
        assert!(
            reason.contains("its values are of kind 7, and those of this program are of kind 8"),
            "{reason}"
        );
    }
    assert_eq!(Arena::anonymous(&small()).unwrap().value_format(), 0);
}

#[test]
fn a_half_made_arena_is_refused() {
    // The head is there, the tables behind it never were.
    let holes = reason_after(|file| {
        let mut head = [0; 88];
        file.read_exact_at(&mut head, 0).unwrap();
        file.set_len(0).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&head, 0).unwrap();
    });
    assert!(holes.contains("not backed"), "{holes}");
    // The tables are there, the head is not.
    let headless = reason_after(|file| file.write_all_at(&[0; 88], 0).unwrap());
    assert!(headless.contains("no arena"), "{headless}");
}

/// A core dump reads every page of a mapping. Of an anonymous arena, whose file has no name, the dump of one process would
/// so have backed the whole capacity with memory, for everybody and for good.
#[test]
fn a_core_dump_leaves_arenas_out() {
    let arena = Arena::anonymous(&small()).unwrap();
    arena.namespace("n").unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps
        .lines()
        .skip_while(|line| !(line.contains("memfd:") && line.contains(" rw-s ")));
    let flags = lines
        .find_map(|line| line.strip_prefix("VmFlags:"))
        .expect("the arena is mapped");
    assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
}
