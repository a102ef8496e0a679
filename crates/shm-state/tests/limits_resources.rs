//! Processes with tight resource limits: every call that needs more than there is fails with an error that says what
//! and how much, nothing is left half done, and with the limit lifted everything works.

mod common;
mod limit;

use common::model::{self, Model, put};
use common::process::{Board, Kid, Role, fork};
use common::{Name, assert_clean, is_full, key};
use limit::sandbox::{self, get_limit, lift_limit, set_limit, skipped};
use limit::words::Words;
use shm_state::{Arena, ArenaOptions, Deadline, Error, History};

const MIB: u64 = 1 << 20;

fn options(capacity: u64) -> ArenaOptions {
    let history = History { count: 8, bytes: MIB };
    ArenaOptions {
        capacity,
        history,
        ..ArenaOptions::default()
    }
}

/// Plays a role in a process of its own, which must end by itself and with success.
fn alone(role: &str, arena: Option<&Arena>) {
    Kid::start(role, 0, arena, &Board::new()).succeeds();
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "file size" => with_a_file_size_limit(&role),
        "address space" => with_little_address_space(),
        "large value" => with_no_room_for_a_value(&role),
        "exact address space" => with_just_enough_address_space(),
        "descriptors" => with_few_descriptors(&role),
        "threads" => without_threads(),
        "locked memory" => without_locked_memory(),
        other => panic!("no role {other}"),
    }
}

/// The error of a call that must fail, with its text shown.
#[track_caller]
fn refused<T>(what: &str, result: shm_state::Result<T>) -> Error {
    match result {
        Ok(_) => panic!("{what} worked"),
        Err(error) => {
            eprintln!("  {what}: {error}");
            error
        }
    }
}

/// The kernel answers a file that grows beyond RLIMIT_FSIZE with SIGXFSZ, which ends the process: a program under
/// `ulimit -f` died of creating an arena.
#[test]
fn a_file_size_limit_is_an_error_and_no_signal() {
    let arena = Arena::anonymous(&options(8 * MIB)).unwrap();
    drop(arena.namespace("n").unwrap());
    alone("file size", Some(&arena));
    assert_clean(&arena);
}

fn with_a_file_size_limit(role: &Role) {
    set_limit(libc::RLIMIT_FSIZE, MIB);
    let name = Name::new("fsize");
    for error in [
        refused(
            "an anonymous arena beyond RLIMIT_FSIZE",
            Arena::anonymous(&options(2 * MIB)),
        ),
        refused(
            "a named arena beyond RLIMIT_FSIZE",
            Arena::create(&name, &options(2 * MIB)),
        ),
    ] {
        let text = error.to_string();
        assert!(text.contains("2097152") && text.contains("1048576"), "{text}");
        assert!(text.contains("RLIMIT_FSIZE") && text.contains("ulimit -f"), "{text}");
    }
    assert!(matches!(Arena::open(&name), Err(Error::NotFound { .. })));
    // Exactly the limit is no problem, and that is filled up to its end.
    let arena = Arena::create(&name, &options(MIB)).unwrap();
    fill(&arena, MIB);
    drop(arena);
    fill(&Arena::open(&name).unwrap(), 0);
    // What another process sized grows under the limit too: no file becomes longer.
    fill(&role.arena(), 8 * MIB);
}

/// Fills an arena until it is full, and looks at what it then shows; at least so many bytes must fit, tables included.
fn fill(arena: &Arena, least: u64) {
    let namespace = arena.namespace("n").unwrap();
    let mut model = model::contents(&namespace);
    let (mut error, mut number) = (None, 0);
    while error.is_none() {
        let change = [put(format!("{}-{number}", std::process::id()), 3000)];
        match model::commit(&namespace, &change, Deadline::never()) {
            Ok(_) => model = model::after(&model, &change),
            Err(other) => error = Some(other),
        }
        number += 1;
    }
    let error = error.unwrap();
    assert!(is_full(&error), "{error}");
    assert!(arena.stats().unwrap().committed >= least, "{error}");
    model::check(arena, &namespace, &model, "full");
}

#[test]
fn too_little_address_space_is_an_error_that_says_how_much_is_needed() {
    alone("address space", None);
}

fn with_little_address_space() {
    let name = Name::new("as");
    let made = Arena::create(&name, &options(4 * MIB)).unwrap();
    drop(made);
    let limit = sandbox::address_space() + 64 * MIB;
    set_limit(libc::RLIMIT_AS, limit);
    let capacity = 1 << 30;
    let big = Name::new("as-big");
    for error in [
        refused(
            "an arena of 1 GiB in 64 MiB of address space",
            Arena::anonymous(&options(capacity)),
        ),
        refused("a named one", Arena::create(&big, &options(capacity))),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("1073741824") && text.contains(&limit.to_string()),
            "{text}"
        );
        assert!(text.contains("RLIMIT_AS") && text.contains("ulimit -v"), "{text}");
    }
    assert!(!big.path().exists(), "half an arena is left");
    fill(&Arena::open(&name).unwrap(), 4 * MIB);
    lift_limit(libc::RLIMIT_AS);
    drop(Arena::create(&big, &options(capacity)).unwrap());
    set_limit(libc::RLIMIT_AS, sandbox::address_space() + 64 * MIB);
    let before = sandbox::descriptors();
    refused("opening it", Arena::open(&big));
    assert_eq!(sandbox::descriptors(), before);
}

/// A value that the reader has no room to copy ended it: the standard library aborts where memory is missing.
#[test]
fn a_value_that_does_not_fit_into_the_reader_is_an_error() {
    let arena = Arena::anonymous(&options(128 * MIB)).unwrap();
    let namespace = arena.namespace("n").unwrap();
    // More than the C library keeps for small things of a thread.
    for (name, len) in [("large", 80 << 20), ("small", 3000)] {
        namespace
            .put(&key(name), None, 1, &vec![7; len], Deadline::never())
            .unwrap();
    }
    alone("large value", Some(&arena));
    assert_clean(&arena);
}

fn with_no_room_for_a_value(role: &Role) {
    let arena = role.arena();
    let namespace = arena.namespace("n").unwrap();
    let pinned = namespace.pin().unwrap();
    let limit = sandbox::address_space() + 16 * MIB;
    set_limit(libc::RLIMIT_AS, limit);
    let tx = namespace.begin(Deadline::never()).unwrap();
    for result in [
        namespace.get(&key("large")),
        pinned.get(&key("large")),
        tx.get(&key("large")),
        pinned
            .iter()
            .unwrap()
            .map(|pair| pair.map(|(_, value)| Some(value)))
            .next()
            .unwrap(),
    ] {
        let text = refused("copying 80 MiB", result).to_string();
        assert!(
            text.contains("83886080") && text.contains(&format!("RLIMIT_AS is {limit} bytes")),
            "{text}"
        );
    }
    drop(tx);
    assert_eq!(namespace.get(&key("small")).unwrap().unwrap().bytes(), [7; 3000]);
    assert!(namespace.contains(&key("large")).unwrap());
    model::commit(&namespace, &[put("another", 2000)], Deadline::never()).unwrap();
    lift_limit(libc::RLIMIT_AS);
    assert!(namespace.get(&key("large")).unwrap().unwrap().bytes() == vec![7; 80 << 20]);
}

/// Around the least address space with which an arena can be opened, each limit gives an arena that works, or an error.
/// A thread that the library started to test the kernel had no room for its signal stack, and the panic in it ended
/// the process.
#[test]
fn just_enough_address_space_gives_an_arena_or_an_error_and_nothing_between() {
    alone("exact address space", None);
}

fn with_just_enough_address_space() {
    let capacity = 16 * MIB;
    let (mut worked, mut failed) = (0, 0);
    // Each in a process that has opened no arena before: the first one needs a page, a thread and its stack.
    for step in 0..1000 {
        let board = Board::new();
        let signal = fork(|| {
            let room = capacity - 64 * 1024 + step * 4096;
            set_limit(libc::RLIMIT_AS, sandbox::address_space() + room);
            let result = Arena::anonymous(&options(capacity));
            if let Err(error) = &result {
                let text = error.to_string();
                board.set(0, 1);
                assert!(text.contains("RLIMIT_AS"), "{text}");
                lift_limit(libc::RLIMIT_AS);
            }
            // Nothing of the failure is remembered.
            let arena = result.or_else(|_| Arena::anonymous(&options(capacity))).unwrap();
            let namespace = arena.namespace("n").unwrap();
            model::commit(&namespace, &[put("a", 100)], Deadline::never()).unwrap();
            board.set(1, 1 - board.get(0));
        });
        assert_eq!(signal, None, "with {step} pages more, less 16, than the capacity");
        failed += board.get(0);
        worked += board.get(1);
    }
    eprintln!("  {failed} limits too tight, {worked} wide enough");
    assert!(failed > 5 && worked > 5, "{failed} {worked}");
}

#[test]
fn every_number_of_free_descriptors_opens_an_arena_or_leaves_no_trace() {
    let name = Name::new("fds");
    let arena = Arena::create(&name, &options(4 * MIB)).unwrap();
    let namespace = arena.namespace("n").unwrap();
    model::commit(&namespace, &[put("a", 100)], Deadline::never()).unwrap();
    let board = Board::new();
    let mut command = Kid::command("descriptors", 0, Some(&arena), &board);
    Kid::spawn(command.env("LIMITS_NAME", &*name)).succeeds();
    assert_eq!(Words::of(arena.fd().unwrap()).participants(), [std::process::id()]);
    assert_clean(&arena);
}

fn with_few_descriptors(role: &Role) {
    let name = std::env::var("LIMITS_NAME").unwrap();
    let words = std::fs::File::from(role.arena_fd());
    let own = Name::new("fds-own");
    let mut least = [u64::MAX; 3];
    let before = sandbox::descriptors();
    for limit in 3..40 {
        for (call, least) in least.iter_mut().enumerate() {
            // In a copy, so that each call is the first of its process.
            let board = Board::new();
            let signal = fork(|| {
                let before = sandbox::descriptors();
                set_limit(libc::RLIMIT_NOFILE, limit);
                let result = match call {
                    0 => Arena::open(&name),
                    1 => Arena::create(&own, &options(4 * MIB)),
                    _ => Arena::anonymous(&options(4 * MIB)),
                };
                let Err(error) = result else {
                    let namespace = result.unwrap().namespace("n").unwrap();
                    let change = [put("b", 50 + limit as usize)];
                    model::commit(&namespace, &change, Deadline::never()).unwrap();
                    drop(namespace);
                    assert_eq!(sandbox::descriptors(), before, "of an arena that was closed");
                    board.set(0, 1);
                    return;
                };
                let text = error.to_string();
                assert!(text.contains(&format!("RLIMIT_NOFILE is {limit}")), "{limit}: {text}");
                assert_eq!(sandbox::descriptors(), before, "{limit}: {text}");
                lift_limit(libc::RLIMIT_NOFILE);
                assert!(!own.path().exists(), "{limit}: half an arena is left");
                let arena = Arena::open(&name).unwrap();
                let all = Words::of(arena.fd().unwrap()).participants();
                let me = std::process::id();
                assert_eq!(
                    all.iter().filter(|pid| **pid == me).count(),
                    1,
                    "{limit}: attached once"
                );
                assert_clean(&arena);
            });
            assert_eq!(signal, None, "call {call}, {limit} descriptors");
            if board.get(0) == 1 {
                *least = (*least).min(limit);
            }
            drop(std::fs::remove_file(own.path()));
        }
    }
    assert_eq!(sandbox::descriptors(), before);
    eprintln!(
        "  of {} open descriptors, the least limits that worked: {least:?}",
        before.len()
    );
    assert!(least.iter().all(|least| *least < 40), "{least:?}");
    drop(words);
}

#[test]
fn where_no_thread_can_be_started_opening_is_an_error_and_works_later() {
    alone("threads", None);
}

fn without_threads() {
    if sandbox::is_root() && !sandbox::become_nobody() {
        return skipped(
            "RLIMIT_NPROC",
            "the limit does not bind root, and this process cannot become somebody else",
        );
    }
    set_limit(libc::RLIMIT_NPROC, 0);
    let error = refused("opening without threads", Arena::anonymous(&options(MIB)));
    let text = error.to_string();
    assert!(text.contains("thread") && text.contains("RLIMIT_NPROC is 0"), "{text}");
    lift_limit(libc::RLIMIT_NPROC);
    let arena = Arena::anonymous(&options(MIB)).unwrap();
    // From now on no thread is needed.
    set_limit(libc::RLIMIT_NPROC, 0);
    drop(Arena::anonymous(&options(MIB)).unwrap());
    fill(&arena, MIB);
}

#[test]
fn no_memory_need_be_locked() {
    alone("locked memory", None);
}

fn without_locked_memory() {
    let before = get_limit(libc::RLIMIT_MEMLOCK).rlim_cur;
    set_limit(libc::RLIMIT_MEMLOCK, 0);
    if sandbox::is_root() && !sandbox::become_nobody() {
        return skipped(
            "RLIMIT_MEMLOCK",
            "the limit does not bind root, and this process cannot become somebody else",
        );
    }
    let arena = Arena::anonymous(&options(4 * MIB)).unwrap();
    let namespace = arena.namespace("n").unwrap();
    let pinned = namespace.pin().unwrap();
    fill(&arena, 4 * MIB);
    assert_eq!(model::contents_of(&pinned), Model::new());
    assert!(namespace.get(&key("absent")).unwrap().is_none());
    eprintln!("  RLIMIT_MEMLOCK 0 instead of {before}");
}
