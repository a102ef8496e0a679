//! Thread ids of two PID namespaces do not mean the same: whoever is in another one than the arena is refused with the
//! reason, however it came by the arena, and nothing that it does or suffers touches a lock.

mod common;
mod locks;

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};

use common::process::{Board, Kid, Role, end_of, start_fork};
use common::{Name, assert_clean, key};
use locks::mutex::lose_mark;
use locks::{FREE, GO_ON, READY, TID, arena, begin, did_not_run, enters_after, is_not_robbed, spaces, tid};
use shm_state::{Arena, ArenaOptions, Deadline, Error, Namespace};

/// The role could not play; the parent says so.
const DENIED: u64 = FREE;
/// A part of it has ended.
const DONE: u64 = FREE + 1;
/// A process that outlives who made it.
const INNER: u64 = FREE + 2;

static DIE_IN_FORK: AtomicBool = AtomicBool::new(false);

/// Runs in a forked child, before what the engine has registered.
extern "C" fn die_in_fork() {
    if DIE_IN_FORK.load(Ordering::Relaxed) {
        // SAFETY: ends this process.
        unsafe { libc::raise(libc::SIGKILL) };
    }
}

/// Asks for a system call that this process may not be allowed. `false`: the parent is told.
fn is_allowed(role: &Role, result: std::io::Result<()>) -> bool {
    if let Err(error) = &result {
        eprintln!("denied: {error}");
        role.board.set(DENIED, 1);
        role.board.set(READY, 1);
    }
    result.is_ok()
}

/// What a process of another PID namespace gets from the arena that it was handed.
fn is_refused(inherited: &Arena) {
    let fd = inherited.fd().unwrap().try_clone_to_owned().unwrap();
    let error = Arena::from_fd(fd).err().expect("it is another PID namespace");
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    assert!(error.to_string().contains("PID namespace"), "{error}");
}

fn ends_well(pid: i32) {
    let status = end_of(pid);
    assert!(status.success(), "{status}");
}

/// Process 1 of the PID namespace that this process's children are in; it sleeps until it is killed.
fn start_process_one() -> i32 {
    start_fork(|| {
        locks::die_with_parent();
        loop {
            // SAFETY: sleeps.
            unsafe { libc::pause() };
        }
    })
}

#[test]
fn child() {
    // SAFETY: registers a function of this program.
    unsafe { libc::pthread_atfork(None, None, Some(die_in_fork)) };
    let Some(role) = locks::role() else { return };
    let board = &role.board;
    if role.name != "creates an arena as process 1" {
        locks::lead_a_process();
        board.set(TID, u64::from(tid()));
    }
    match role.name.as_str() {
        "sends its children away" => {
            let arena = role.arena();
            let namespace = arena.namespace("n").unwrap();
            let mut tx = ManuallyDrop::new(begin(&namespace));
            tx.put(&key("mine"), 1, b"it").unwrap();
            if !is_allowed(&role, spaces::unshare(libc::CLONE_NEWPID)) {
                std::process::exit(0);
            }
            ends_well(start_fork(|| in_another_namespace(&arena, &namespace, true)));
            // This process stayed where it was: its lock, its commits, the proofs about it.
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            ManuallyDrop::into_inner(tx).commit().unwrap();
            begin(&namespace).commit().unwrap();
        }
        "joins a namespace for its children" => {
            let arena = role.arena();
            let namespace = arena.namespace("n").unwrap();
            let tx = ManuallyDrop::new(begin(&namespace));
            let maker = start_fork(|| {
                locks::die_with_parent();
                if is_allowed(&role, spaces::unshare(libc::CLONE_NEWPID)) {
                    board.set(INNER, start_process_one() as u64);
                    board.wait_for(GO_ON, 1);
                }
            });
            common::eventually("a namespace", || board.get(INNER) + board.get(DENIED) != 0);
            if board.get(DENIED) != 0 {
                std::process::exit(0);
            }
            if !is_allowed(&role, spaces::send_children_to(board.get(INNER) as i32)) {
                std::process::exit(0);
            }
            ends_well(start_fork(|| in_another_namespace(&arena, &namespace, true)));
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            ManuallyDrop::into_inner(tx).commit().unwrap();
            ends_well(maker);
        }
        "has a namesake" => {
            let arena = role.arena();
            let namespace = arena.namespace("n").unwrap();
            let mut tx = ManuallyDrop::new(begin(&namespace));
            tx.put(&key("mine"), 1, b"it").unwrap();
            let name = tid();
            if !is_allowed(&role, spaces::unshare(libc::CLONE_NEWPID)) {
                std::process::exit(0);
            }
            ends_well(start_fork(|| {
                spaces::next_id(name);
                let namesake = start_fork(|| {
                    assert_eq!(tid(), name, "the same TID as the owner of the lock");
                    is_refused(&arena);
                    // SAFETY: ends this process.
                    unsafe { libc::raise(libc::SIGKILL) };
                });
                assert_eq!(end_of(namesake).code(), None);
            }));
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            ManuallyDrop::into_inner(tx).commit().unwrap();
        }
        "has a namesake that dies in fork" => {
            let arena = role.arena();
            let namespace = arena.namespace("n").unwrap();
            if !is_allowed(&role, spaces::unshare(libc::CLONE_NEWPID)) {
                std::process::exit(0);
            }
            let name = tid();
            // Process 1 chooses the id of the next child, and stays.
            let one = start_fork(|| {
                locks::die_with_parent();
                spaces::next_id(name);
                board.set(DONE, 1);
                loop {
                    // SAFETY: sleeps.
                    unsafe { libc::pause() };
                }
            });
            board.wait_for(DONE, 1);
            let mut tx = ManuallyDrop::new(begin(&namespace));
            tx.put(&key("mine"), 1, b"it").unwrap();
            DIE_IN_FORK.store(true, Ordering::Relaxed);
            let namesake = start_fork(|| unreachable!());
            assert_eq!(end_of(namesake).code(), None);
            DIE_IN_FORK.store(false, Ordering::Relaxed);
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            // SAFETY: a child of this process.
            unsafe { libc::kill(one, libc::SIGKILL) };
            ManuallyDrop::into_inner(tx).commit().unwrap();
        }
        "creates an arena as process 1" => {
            assert_eq!(std::process::id(), 1);
            let arena = Arena::create(&name_of_inner(role.number), &ArenaOptions::default()).unwrap();
            let namespace = arena.namespace("n").unwrap();
            let tx = begin(&namespace);
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            tx.commit().unwrap();
        }
        "opens an arena under the parents' /proc" => {
            if !is_allowed(&role, spaces::unshare(libc::CLONE_NEWPID)) {
                std::process::exit(0);
            }
            ends_well(start_fork(|| {
                assert_eq!(std::process::id(), 1);
                let arena = locks::arena();
                let namespace = arena.namespace("n").unwrap();
                let owner = start_fork(|| {
                    let own = Arena::from_fd(arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
                    std::mem::forget(begin(&own.namespace("n").unwrap()));
                    lose_mark();
                });
                ends_well(owner);
                enters_after("owner dead, under the /proc of another namespace", &namespace);
            }));
        }
        "has no /proc" => {
            let (open, name) = (role.arena(), name_of_inner(role.number));
            let namespace = open.namespace("n").unwrap();
            if !is_allowed(
                &role,
                spaces::unshare(libc::CLONE_NEWNS).and_then(|()| spaces::hide_proc()),
            ) {
                std::process::exit(0);
            }
            for result in [Arena::open(&name), Arena::create("never", &ArenaOptions::default())] {
                let error = result.err().expect("opening needs /proc").to_string();
                eprintln!("without /proc: {error}");
                assert!(error.contains("/proc"), "{error}");
            }
            // Who had it open goes on, and can even prove deaths.
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            enters_after("owner dead, seen without /proc", &namespace);
            open.namespace("another").unwrap();
        }
        "has a hiding /proc" => {
            let fd = role.arena_fd();
            if !is_allowed(
                &role,
                spaces::unshare(libc::CLONE_NEWNS).and_then(|()| spaces::mount_hiding_proc()),
            ) {
                std::process::exit(0);
            }
            let open = Arena::from_fd(fd).unwrap();
            let namespace = open.namespace("n").unwrap();
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            enters_after("owner dead, seen with a hiding /proc", &namespace);
        }
        "holds" => {
            let arena = role.arena();
            let namespace = arena.namespace("n").unwrap();
            let _tx = begin(&namespace);
            lose_mark();
            board.set(INNER, 1);
            board.wait_for(DONE, 1);
        }
        other => panic!("no role {other}"),
    }
    // Without the harness, of which this process is a copy of one thread.
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) };
}

fn name_of_inner(number: u64) -> String {
    format!("shm-state-test-inner-{number}")
}

/// What a process of another namespace tries, with what it inherited, and with what it opens; one below it, too.
fn in_another_namespace(arena: &Arena, namespace: &Namespace, nested: bool) {
    assert!(matches!(namespace.begin(Deadline::at_once()), Err(Error::Forked)));
    assert!(matches!(arena.namespace("n"), Err(Error::Forked)));
    is_refused(arena);
    if nested {
        spaces::unshare(libc::CLONE_NEWPID).unwrap();
        ends_well(start_fork(|| in_another_namespace(arena, namespace, false)));
    }
}

/// Has a process of this namespace hold the lock while others, of another one, do what its role says.
fn the_owner_keeps_its_lock(test: &str, role: &str) {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let kid = Kid::start(role, 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    if board.get(DENIED) != 0 {
        return did_not_run(test, "this process may not make PID namespaces");
    }
    is_not_robbed(&namespace, board.get(TID) as u32);
    board.set(GO_ON, 1);
    kid.succeeds();
    enters_after(role, &namespace);
    assert_eq!(locks::takeovers(&arena, "n"), 0, "nobody died inside");
    assert_clean(&arena);
}

#[test]
fn children_in_another_namespace_are_refused_with_what_they_inherit_and_what_they_open() {
    the_owner_keeps_its_lock("unshare", "sends its children away");
}

#[test]
fn a_process_that_joined_another_namespace_is_refused() {
    the_owner_keeps_its_lock("setns", "joins a namespace for its children");
}

/// The kernel marks a lock that holds the TID of the thread that ends, whatever namespace the TID is of.
#[test]
fn a_dead_process_of_the_same_tid_in_another_namespace_costs_the_owner_nothing() {
    the_owner_keeps_its_lock("the same TID in two namespaces", "has a namesake");
}

/// The C library registers the robust list of a forked child before it runs handlers, and the list still named the
/// parent's lock. A child that died just there, as the owner's namesake in another PID namespace, had the kernel mark
/// the lock of its living parent, and a second writer came in.
#[test]
fn a_namesake_that_dies_in_the_middle_of_fork_costs_the_owner_nothing() {
    the_owner_keeps_its_lock("death in fork", "has a namesake that dies in fork");
}

#[test]
fn an_arena_of_an_inner_namespace_is_refused_outside() {
    let board = Board::new();
    let number = u64::from(std::process::id());
    // Removes the file in the end.
    let name = Name::of(&name_of_inner(number));
    let denied = std::thread::scope(|scope| {
        let inner = scope.spawn(|| spaces::play_as_process_one("creates an arena as process 1", number, &board));
        common::eventually("process 1 to hold the lock", || {
            inner.is_finished() || board.get(READY) != 0
        });
        if board.get(READY) != 0 {
            let error = Arena::open(&name).err().expect("it is another PID namespace");
            assert!(error.to_string().contains("PID namespace"), "{error}");
            eprintln!("{error}");
        }
        board.set(GO_ON, 1);
        inner.join().unwrap()
    });
    if let Err(why) = denied {
        did_not_run("an arena of an inner namespace", &why);
    }
}

#[test]
fn an_inner_namespace_works_under_the_proc_of_its_parent() {
    let board = Board::new();
    Kid::start("opens an arena under the parents' /proc", 0, None, &board).succeeds();
    if board.get(DENIED) != 0 {
        did_not_run(
            "the /proc of another namespace",
            "this process may not make PID namespaces",
        );
    }
}

/// An owner whose mark is lost dies while `role` looks at it through its own `/proc`.
fn sees_a_death(role: &str, number: u64) {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let viewer = Kid::start(role, number, Some(&arena), &board);
    board.wait_for(READY, 1);
    if board.get(DENIED) != 0 {
        return did_not_run(role, "this process may not make mount namespaces");
    }
    let owner = Kid::start("holds", 0, Some(&arena), &board);
    board.wait_for(INNER, 1);
    is_not_robbed(&namespace, board.get(TID) as u32);
    owner.kill();
    board.set(GO_ON, 1);
    viewer.succeeds();
    assert_clean(&arena);
}

#[test]
fn without_proc_opening_is_refused_with_the_reason_and_who_has_it_open_goes_on() {
    let number = u64::from(std::process::id()) + (1 << 32);
    let name = Name::of(&name_of_inner(number));
    let _arena = Arena::create(&name, &ArenaOptions::default()).unwrap();
    sees_a_death("has no /proc", number);
}

#[test]
fn a_proc_that_hides_other_users_is_enough() {
    sees_a_death("has a hiding /proc", 0);
}
