//! Small file systems that we and others fill: an error with the sizes in it and never a SIGBUS, whoever takes the last
//! page and whenever; readers go on, and so do writers once there is room.
//!
//! Each test runs in a mount namespace of its own, with a file system of its own on /dev/shm.

mod common;
mod limit;

use std::path::Path;
use std::time::Duration;

use common::model::{self, Change, Model, put, remove};
use common::process::{Board, Kid, Role};
use common::{Name, Random, assert_clean, is_full, key};
use limit::sandbox::{self, own_shm, skipped};
use shm_state::{Arena, ArenaOptions, Deadline, Error, History, Namespace};

const MIB: u64 = 1 << 20;

fn options(capacity: u64) -> ArenaOptions {
    let history = History { count: 8, bytes: MIB };
    ArenaOptions {
        capacity,
        history,
        ..ArenaOptions::default()
    }
}

fn alone(role: &str) {
    Kid::start(role, 0, None, &Board::new()).succeeds();
}

/// A new tmpfs on /dev/shm for this process and its children, or loud words.
fn mounted(options: &str) -> bool {
    let mounted = own_shm(options);
    if !mounted {
        skipped(
            "small file systems",
            "no permission to mount one (needs root or user namespaces)",
        );
    }
    mounted
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "2 MiB" => in_two_mib(),
        "8 MiB" => in_eight_mib_that_others_fill(),
        "64 MiB" => in_the_64_mib_of_a_container(),
        "inodes" => without_inodes(),
        "read-only" => where_nothing_can_be_written(),
        "not there" => where_there_is_no_dev_shm(),
        "filler" => fill_and_empty(&role),
        "writer" => write_what_fits(&role),
        "reader" => read_all_the_time(&role),
        other => panic!("no role {other}"),
    }
}

/// Commits changes, and makes them in the model if that worked.
fn commit(namespace: &Namespace, model: &mut Model, changes: &[Change]) -> shm_state::Result<u64> {
    let result = model::commit(namespace, changes, Deadline::never());
    if result.is_ok() {
        changes.iter().for_each(|change| model::apply(model, change));
    }
    result
}

/// Sets keys `prefix…` until there is no room. Returns how many, and the error.
fn fill(namespace: &Namespace, model: &mut Model, prefix: &str, len: usize) -> (usize, Error) {
    for number in 0.. {
        if let Err(error) = commit(namespace, model, &[put(format!("{prefix}{number}"), len)]) {
            assert!(is_full(&error), "{error}");
            return (number, error);
        }
    }
    unreachable!()
}

#[test]
fn a_full_file_system_is_an_error_and_never_a_sigbus() {
    alone("2 MiB");
}

fn in_two_mib() {
    if !mounted("size=2m") {
        return;
    }
    let name = Name::new("tmpfs");
    let ballast = Path::new("/dev/shm/somebody-else");
    let options = options(64 * MIB);
    let occupy = |bytes: usize| std::fs::write(ballast, vec![7u8; bytes]);

    occupy(3 << 20).expect_err("the ballast fills the file system");
    let error = Arena::create(&name, &options)
        .err()
        .expect("an arena in a full file system");
    assert!(matches!(error, Error::FileSystemFull { .. }), "{error}");
    assert!(matches!(Arena::open(&name), Err(Error::NotFound { .. })));

    occupy(1 << 20).unwrap();
    let arena = Arena::create(&name, &options).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    let (count, error) = fill(&namespace, &mut model, "k", 5000);
    assert!(count > 20, "{count}");
    let Error::FileSystemFull {
        requested,
        committed,
        capacity,
        size,
    } = error
    else {
        panic!("{error}")
    };
    assert!(
        requested >= 64 * 1024 && committed < 2 << 20 && capacity == 64 << 20 && size == 2 << 20,
        "{error}"
    );
    model::check(&arena, &namespace, &model, "with the file system full");
    assert!(matches!(arena.namespace("another"), Err(Error::FileSystemFull { .. })));
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    tx.put(&key("k0"), 1, &[1; 300_000]).unwrap_err();
    drop(tx);
    commit(&namespace, &mut model, &[remove("k0"), remove("k1"), remove("k2")]).unwrap();
    commit(&namespace, &mut model, &[put("k0", 5000)]).unwrap();
    // It is opened when not a page is left.
    std::fs::write("/dev/shm/the-rest", vec![7u8; 2 << 20]).expect_err("the rest");
    drop((namespace, arena));
    let arena = Arena::open(&name).unwrap();
    let namespace = arena.namespace("n").unwrap();
    model::check(&arena, &namespace, &model, "opened in a full file system");
    for number in 3..count {
        commit(&namespace, &mut model, &[remove(format!("k{number}"))]).unwrap();
    }
    model::check(&arena, &namespace, &model, "after all was removed");

    std::fs::remove_file("/dev/shm/the-rest").unwrap();
    std::fs::remove_file(ballast).unwrap();
    let (more, _) = fill(&namespace, &mut model, "more", 5000);
    assert!(more > 100, "{more}");
    model::check(&arena, &namespace, &model, "after room was made");
}

/// Places on the board.
const STOP: u64 = 0;
const READY: u64 = 8;
const WORKED: u64 = 16;
const REFUSED: u64 = 24;
const GREW: u64 = 32;

#[test]
fn others_fill_the_file_system_at_any_time_and_nobody_gets_a_signal() {
    alone("8 MiB");
}

fn in_eight_mib_that_others_fill() {
    if !mounted("size=8m") {
        return;
    }
    let name = Name::new("contested");
    let arena = Arena::create(&name, &options(64 * MIB)).unwrap();
    let board = Board::new();
    let start = |role, number| {
        let mut command = Kid::command(role, number, Some(&arena), &board);
        Kid::spawn(&mut command)
    };
    let kids: Vec<Kid> = [
        ("writer", 0),
        ("writer", 1),
        ("reader", 2),
        ("filler", 3),
        ("filler", 4),
    ]
    .map(|(role, number)| start(role, number))
    .into();
    let writers = 2;
    for writer in 0..writers {
        board.wait_for(READY + writer, 1);
    }
    // No process holds back for the others: each ends by itself, with success, not by a signal.
    for writer in 0..writers {
        common::eventually("a writer to have met a full file system, and room", || {
            board.get(REFUSED + writer) > 200 && board.get(WORKED + writer) > 1000
        });
    }
    common::eventually("the arena to have grown while others took room", || {
        board.get(GREW) >= 3
    });
    board.set(STOP, 1);
    kids.into_iter().for_each(Kid::succeeds);
    let numbers = |place| (0..5).map(|number| board.get(place + number)).collect::<Vec<_>>();
    eprintln!("  committed {:?}, refused {:?}", numbers(WORKED), numbers(REFUSED));
    assert_clean(&arena);
    // Nobody else is there now: everything fits that the file system has room for.
    let namespace = arena.namespace("w0").unwrap();
    let mut model = model::contents(&namespace);
    let (more, error) = fill(&namespace, &mut model, "more", 5000);
    let text = error.to_string();
    assert!(text.contains("8388608") && text.contains("--shm-size"), "{text}");
    eprintln!("  {more} more values fit, then: {text}");
    model::check(&arena, &namespace, &model, "at the end");
}

/// Takes room and gives it back, also by arenas of its own.
fn fill_and_empty(role: &Role) {
    let mut random = Random::new(role.number);
    let ballast = format!("/dev/shm/ballast-{}", role.number);
    let own = Name::new("filler");
    while role.board.get(STOP) == 0 {
        if random.below(4) == 0 {
            match Arena::create(&own, &options(MIB)) {
                Ok(arena) => {
                    let _ = arena.namespace("n");
                    Arena::remove(&own).unwrap();
                }
                Err(error) => assert!(matches!(error, Error::FileSystemFull { .. }), "{error}"),
            }
        }
        // Up to all there is; what was written when it failed stays.
        let _ = std::fs::write(&ballast, vec![7; random.below(8 * MIB) as usize]);
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        if random.below(2) == 0 {
            let _ = std::fs::remove_file(&ballast);
            std::thread::sleep(Duration::from_micros(random.below(3000)));
        }
    }
    let _ = std::fs::remove_file(&ballast);
}

fn write_what_fits(role: &Role) {
    let arena = role.arena();
    // The namespace itself may not fit at first.
    let namespace = loop {
        match arena.namespace(&format!("w{}", role.number)) {
            Ok(namespace) => break namespace,
            Err(error) => assert!(is_full(&error), "{error}"),
        }
    };
    role.board.set(READY + role.number, 1);
    let (mut model, mut random) = (Model::new(), Random::new(role.number));
    let (mut worked, mut refused, mut committed) = (0, 0, 0);
    while role.board.get(STOP) == 0 {
        let key = format!("k{}", random.below(200));
        let change = match random.below(10) {
            0..=2 => remove(key),
            3 => put(key, 200_000 + random.below(100_000) as usize),
            _ => put(key, random.below(20_000) as usize),
        };
        let is_removal = matches!(change, Change::Remove(_));
        match commit(&namespace, &mut model, std::slice::from_ref(&change)) {
            Ok(_) => worked += 1,
            Err(error) => {
                assert!(matches!(error, Error::FileSystemFull { .. }), "{error}");
                refused += 1;
                // The reader's snapshot holds what removals free, so that the reserve may be used up: not for long.
                if is_removal {
                    common::eventually("a removal to work", || {
                        commit(&namespace, &mut model, std::slice::from_ref(&change)).is_ok()
                    });
                }
            }
        }
        if worked % 200 == 0 {
            model::assert_same(
                &model::contents(&namespace),
                &model,
                "among those who fill the file system",
            );
            let now = arena.stats().unwrap().committed;
            if now > committed {
                committed = now;
                role.board.set(GREW, role.board.get(GREW) + 1);
            }
        }
        // What is held is let go now and then, so that there is more to come.
        if model.len() > 150 {
            commit(&namespace, &mut model, &[Change::Clear]).unwrap();
        }
        role.board.set(WORKED + role.number, worked);
        role.board.set(REFUSED + role.number, refused);
    }
    model::check(&arena, &namespace, &model, "a writer at the end");
}

fn read_all_the_time(role: &Role) {
    let arena = role.arena();
    let mut read = 0;
    while role.board.get(STOP) == 0 {
        for name in arena.namespaces().unwrap() {
            let namespace = arena.namespace(&name).unwrap();
            // For as long as no seat is free and none can be made there is no snapshot: an error too.
            let pinned = match namespace.pin() {
                Ok(pinned) => pinned,
                Err(error) => {
                    assert!(is_full(&error), "{error}");
                    continue;
                }
            };
            for (key, value) in model::contents_of(&pinned) {
                assert!(
                    matches!(put(key, value.len()), Change::Put(_, whole) if whole == value),
                    "a torn value"
                );
                read += 1;
            }
        }
        role.board.set(WORKED + role.number, read);
    }
    assert!(read > 100, "{read}");
}

/// What Docker gives a container unless it is told otherwise, under arenas of the default size.
#[test]
fn in_the_64_mib_of_a_container_the_default_arena_works_until_they_are_full() {
    alone("64 MiB");
}

fn in_the_64_mib_of_a_container() {
    if !mounted("size=64m") {
        return;
    }
    let names: Vec<Name> = (0..3).map(|_| Name::new("container")).collect();
    let mut arenas: Vec<Arena> = names
        .iter()
        .map(|name| Arena::open_or_create(name, &ArenaOptions::default()).unwrap())
        .collect();
    let namespaces: Vec<Namespace> = arenas.iter().map(|arena| arena.namespace("n").unwrap()).collect();
    let mut models = vec![Model::new(); 3];
    for (namespace, model) in namespaces[..2].iter().zip(&mut models) {
        let all: Vec<Change> = (0..100).map(|number| put(format!("k{number}"), 100_000)).collect();
        all.iter()
            .for_each(|change| assert!(commit(namespace, model, std::slice::from_ref(change)).is_ok()));
    }
    let (count, error) = fill(&namespaces[2], &mut models[2], "k", 100_000);
    let text = error.to_string();
    eprintln!("  after {count} values: {text}");
    assert!(count > 300, "{count} values of 100,000 bytes beside 200 fit");
    assert!(
        matches!(
            error,
            Error::FileSystemFull {
                size: 67_108_864,
                capacity: 1_073_741_824,
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.contains("67108864") && text.contains("docker run --shm-size="),
        "{text}"
    );
    // The others meet the same end, and all can be read and emptied.
    for (at, namespace) in namespaces.iter().enumerate() {
        let (_, error) = fill(namespace, &mut models[at], "more", 100_000);
        assert!(matches!(error, Error::FileSystemFull { .. }), "{error}");
        commit(namespace, &mut models[at], &[remove("k1")]).unwrap();
        model::check(&arenas[at], namespace, &models[at], "in a full container");
    }
    let fourth = Name::new("container");
    let error = Arena::create(&fourth, &ArenaOptions::default()).err();
    if let Some(error) = error {
        assert!(error.to_string().contains("67108864"), "{error}");
    }
    // With one of them gone the next can grow.
    let mut namespaces = namespaces;
    Arena::remove(&names[1]).unwrap();
    drop((namespaces.remove(1), arenas.remove(1), models.remove(1)));
    let (more, _) = fill(&namespaces[1], &mut models[1], "again", 100_000);
    assert!(more > 90, "{more} values more when 100 went");
    // And so it can when the file system is enlarged, without being opened again.
    assert!(sandbox::mount(c"/dev/shm", libc::MS_REMOUNT, "size=96m"));
    let (more, error) = fill(&namespaces[0], &mut models[0], "larger", 100_000);
    assert!(more > 250 && error.to_string().contains("100663296"), "{more}: {error}");
    for at in 0..2 {
        model::check(&arenas[at], &namespaces[at], &models[at], "at the end");
    }
}

#[test]
fn a_file_system_without_room_for_a_file_is_an_error() {
    alone("inodes");
}

fn without_inodes() {
    if !mounted("size=8m,nr_inodes=3") {
        return;
    }
    let (one, two) = (Name::new("one"), Name::new("two"));
    let arena = Arena::create(&one, &options(MIB)).unwrap();
    std::fs::write("/dev/shm/last", b"").unwrap();
    let error = Arena::create(&two, &options(MIB)).err().expect("a fourth inode");
    let text = error.to_string();
    eprintln!("  {text}");
    assert!(text.contains("No space left") && text.contains("df -i"), "{text}");
    fill(&arena.namespace("n").unwrap(), &mut Model::new(), "k", 5000);
    assert_clean(&arena);
    std::fs::remove_file("/dev/shm/last").unwrap();
    drop(Arena::create(&two, &options(MIB)).unwrap());
}

#[test]
fn where_nothing_can_be_written_opening_is_an_error() {
    alone("read-only");
}

fn where_nothing_can_be_written() {
    if !mounted("size=8m") {
        return;
    }
    let (made, new) = (Name::new("made"), Name::new("new"));
    drop(Arena::create(&made, &options(MIB)).unwrap());
    assert!(sandbox::mount(c"/dev/shm", libc::MS_REMOUNT | libc::MS_RDONLY, ""));
    for result in [
        Arena::open(&made),
        Arena::create(&new, &options(MIB)),
        Arena::open_or_create(&made, &options(MIB)),
    ] {
        let text = result.err().expect("in a read-only file system").to_string();
        eprintln!("  {text}");
        assert!(text.contains("Read-only") && text.contains("remount"), "{text}");
    }
    assert!(sandbox::mount(c"/dev/shm", libc::MS_REMOUNT, ""));
    fill(
        &Arena::open(&made).unwrap().namespace("n").unwrap(),
        &mut Model::new(),
        "k",
        5000,
    );
}

#[test]
fn where_there_is_no_dev_shm_creating_says_so() {
    alone("not there");
}

fn where_there_is_no_dev_shm() {
    if !mounted("size=8m") {
        return;
    }
    // An empty /dev.
    assert!(sandbox::mount(c"/dev", 0, "size=1m"));
    let name = Name::new("nowhere");
    let refuse = |text: String| {
        eprintln!("  {text}");
        assert!(text.contains("a tmpfs must be mounted on /dev/shm"), "{text}");
    };
    assert!(matches!(Arena::open(&name), Err(Error::NotFound { .. })));
    refuse(Arena::create(&name, &options(MIB)).err().unwrap().to_string());
    refuse(Arena::open_or_create(&name, &options(MIB)).err().unwrap().to_string());
    std::fs::write("/dev/shm", b"a file").unwrap();
    refuse(Arena::create(&name, &options(MIB)).err().unwrap().to_string());
    // One without a name needs none.
    fill(
        &Arena::anonymous(&options(MIB)).unwrap().namespace("n").unwrap(),
        &mut Model::new(),
        "k",
        5000,
    );
}
