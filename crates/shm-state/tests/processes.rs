//! Processes that are stopped, killed or forked at a bad moment, and those who go on beside them.

mod common;

use std::mem::ManuallyDrop;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::model::{self, Model, put, remove};
use common::process::{Board, Kid, Role, fork};
use common::{assert_clean, eventually, key};
use shm_state::{Arena, ArenaOptions, Deadline, Ended, Error, History, On, Strategy};

/// Places on the board: what the child says, and what it is told.
const INSIDE: u64 = 0;
const GO_ON: u64 = 1;

fn arena() -> Arena {
    Arena::anonymous(&ArenaOptions {
        capacity: 8 << 20,
        history: History {
            count: 16,
            bytes: 1 << 20,
        },
        ..ArenaOptions::default()
    })
    .unwrap()
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "holder" => {
            let namespace = role.arena().namespace("n").unwrap();
            let mut tx = namespace.begin(Deadline::never()).unwrap();
            tx.put(&key("held"), 1, &role.number.to_le_bytes()).unwrap();
            tx.put(&key("large"), 1, &vec![7; 200_000]).unwrap();
            role.board.set(INSIDE, 1);
            role.board.wait_for(GO_ON, 1);
            tx.commit().unwrap();
        }
        "forks" => fork_with_an_open_arena(false),
        "forks raw" => fork_with_an_open_arena(true),
        other => panic!("no role {other}"),
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[test]
fn a_stopped_writer_stops_only_writers_who_learn_its_pid() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    model::commit(&namespace, &[put("a", 8)], Deadline::never()).unwrap();
    let before = model::contents(&namespace);
    let kid = Kid::start("holder", 5, Some(&arena), &board);
    board.wait_for(INSIDE, 1);
    kid.signal(libc::SIGSTOP);
    eventually("the child to stop", || is_stopped(kid.pid()));

    assert_eq!(namespace.lock_holder().unwrap().0, kid.pid());
    // Readers and watchers go on, writers learn who it is: long enough that a waiter asks more than once for a proof
    // of the owner's death.
    for _ in 0..4 {
        model::assert_same(&model::contents(&namespace), &before, "beside a stopped writer");
        let error = namespace
            .begin(Deadline::after(Duration::from_millis(400)))
            .err()
            .expect("the lock is taken");
        assert!(
            matches!(error, Error::LockTimeout { pid, tid } if pid == kid.pid() && tid != 0),
            "{error}"
        );
        assert!(error.to_string().contains(&kid.pid().to_string()), "{error}");
        let (soon, cancel) = (Deadline::after(Duration::from_millis(5)), AtomicBool::new(false));
        let seq = namespace.seq();
        let ended = namespace.wait(On::Any, Strategy::default(), soon, &cancel, |now| {
            Ok((now > seq).then_some(()))
        });
        assert_eq!(ended.unwrap(), Err(Ended::TimedOut));
    }
    assert!(namespace.begin(Deadline::at_once()).is_err());
    let waiter = std::thread::spawn({
        let arena = arena.clone();
        move || model::commit(&arena.namespace("n").unwrap(), &[put("waited", 8)], Deadline::never()).unwrap()
    });
    board.set(GO_ON, 1);
    kid.signal(libc::SIGCONT);
    kid.succeeds();
    assert_eq!(
        waiter.join().unwrap(),
        3,
        "the stopped writer committed before whoever waited"
    );
    assert_eq!(
        namespace.get(&key("held")).unwrap().unwrap().bytes(),
        5u64.to_le_bytes()
    );
    assert_eq!(arena.stats().unwrap().namespaces[0].recoveries, 0, "nothing was stolen");
    assert_clean(&arena);
}

#[test]
fn a_writer_that_is_killed_inside_leaves_nothing_and_the_next_goes_on() {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let mut model = Model::new();
    for round in 0..10usize {
        let change = [put("a", round), put(format!("k{round}"), 100)];
        model::commit(&namespace, &change, Deadline::never()).unwrap();
        model = model::after(&model, &change);
        let board = Board::new();
        let kid = Kid::start("holder", round as u64, Some(&arena), &board);
        board.wait_for(INSIDE, 1);
        // Killed while a waiter sleeps, and while nobody does.
        let waiter = (round % 2 == 0).then(|| {
            let arena = arena.clone();
            std::thread::spawn(move || drop(arena.namespace("n").unwrap().begin(Deadline::never()).unwrap()))
        });
        assert!(!kid.kill().success());
        waiter.into_iter().for_each(|thread| thread.join().unwrap());
        model::check(&arena, &namespace, &model, "after the kill");
        assert_eq!(arena.stats().unwrap().namespaces[0].recoveries, round as u64 + 1);
    }
}

/// A transaction that was open when its process forked could be used in the child, which does not own the lock; and
/// when the child dropped it, the chunks that the parent had claimed were freed.
#[test]
fn a_forked_child_is_refused_and_its_parent_goes_on() {
    for role in ["forks", "forks raw"] {
        Kid::start(role, 0, None, &Board::new()).succeeds();
    }
}

fn is_forked<T>(result: shm_state::Result<T>) -> bool {
    matches!(result, Err(Error::Forked))
}

fn fork_with_an_open_arena(raw: bool) {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    let other = arena.namespace("other").unwrap();
    model::commit(&other, &[put("a", 8), put("large", 9000)], Deadline::never()).unwrap();
    let pinned = ManuallyDrop::new(other.pin().unwrap());
    let before = model::contents(&other);
    let mut tx = ManuallyDrop::new(namespace.begin(Deadline::never()).unwrap());
    tx.put(&key("small"), 1, b"parent").unwrap();
    tx.put(&key("large"), 1, &vec![1; 300_000]).unwrap();
    let in_child = || {
        assert!(is_forked(tx.put(&key("small"), 1, b"child")));
        assert!(is_forked(tx.remove(&key("small"))));
        assert!(is_forked(tx.clear()));
        assert!(is_forked(tx.pop_last()));
        // SAFETY: the parent's transaction is another process's memory; this copy is used once.
        assert!(is_forked(unsafe { std::ptr::read(&raw const *tx) }.commit()));
        // SAFETY: as above; dropping it again is what a child that unwinds would do.
        drop(unsafe { std::ptr::read(&raw const *tx) });
        // SAFETY: as above.
        drop(unsafe { std::ptr::read(&raw const *pinned) });
        assert!(is_forked(namespace.begin(Deadline::at_once())));
        assert!(is_forked(namespace.pin()) && is_forked(namespace.pin_at(0)) && is_forked(namespace.fork()));
        assert!(is_forked(namespace.put(&key("x"), None, 1, b"x", Deadline::at_once())));
        assert!(is_forked(namespace.check_fork()));
        let cancel = AtomicBool::new(false);
        assert!(is_forked(namespace.wait(
            On::Any,
            Strategy::Block,
            Deadline::at_once(),
            &cancel,
            |_| Ok(Some(()))
        )));
        assert!(is_forked(arena.namespace("n")) && is_forked(arena.namespace("new")) && is_forked(arena.verify()));
        // Plain reading needs nothing that the child lacks.
        assert_eq!(other.get(&key("a")).unwrap().unwrap().bytes().len(), 8);
        // A child that opens the arena itself is a process like any other.
        let own = Arena::from_fd(arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
        let own = own.namespace("other").unwrap();
        match model::commit(&own, &[put("child", 8), remove("a")], Deadline::never()) {
            // The C library does not know of the new process, so the kernel would not report its death.
            Err(Error::Unsupported(_)) if raw => {}
            other => drop(other.unwrap()),
        }
    };
    let signal = if raw { raw_fork(in_child) } else { fork(in_child) };
    assert_eq!(signal, None);

    assert!(
        namespace
            .lock_holder()
            .is_some_and(|(pid, _)| pid == std::process::id()),
        "the parent has its lock"
    );
    ManuallyDrop::into_inner(tx).commit().unwrap();
    assert_eq!(namespace.get(&key("small")).unwrap().unwrap().bytes(), b"parent");
    assert_eq!(namespace.get(&key("large")).unwrap().unwrap().bytes(), vec![1; 300_000]);
    for round in 0..100 {
        model::commit(&other, &[put("large", 9000 + round)], Deadline::never()).unwrap();
    }
    model::assert_same(&model::contents_of(&pinned), &before, "the parent's snapshot");
    drop(ManuallyDrop::into_inner(pinned));
    assert_eq!(
        (
            other.contains(&key("child")).unwrap(),
            other.contains(&key("a")).unwrap()
        ),
        (!raw, raw)
    );
    assert_clean(&arena);
}

/// As [`fork`], by the bare system call: no handler of the C library runs.
fn raw_fork(child: impl FnOnce()) -> Option<i32> {
    // SAFETY: like fork; this process has no other thread that does anything, and the child only runs engine code.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    assert!(pid >= 0);
    if pid == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    common::process::wait_for(pid as i32)
}
