//! Threads and processes that share the thread-local state of another: made by a bare `clone`, or by `vfork`, or a signal
//! handler that interrupts its own thread. They are not supported. What is shown here is what happens all the same: an
//! error where it can be noticed, never two writers, and never a hang beyond the deadline.

mod common;
mod locks;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::process::{Board, Kid, Role};
use common::{assert_clean, key};
use locks::inside::Detector;
use locks::{FREE, GO_ON, READY, TID, arena, begin, calls, enters_after, exit_thread, is_not_robbed, soon, tid};
use shm_state::{Arena, Deadline, Error, Namespace};

/// What became of an attempt to lock.
const RESULT: u64 = FREE;
const GOT_IN: u64 = 1;
const DEADLOCK: u64 = 2;
const UNSUPPORTED: u64 = 3;
/// The bare thread is inside, or has ended there.
const BARE: u64 = FREE + 1;

/// A thread as the kernel sees it, but the C library does not know of it.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;
const VFORK: i32 = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;

fn open(role: &Role) -> &'static Namespace {
    let arena: &'static Arena = Box::leak(Box::new(role.arena()));
    Box::leak(Box::new(arena.namespace("n").unwrap()))
}

fn result(of: &Result<(), Error>) -> u64 {
    match of {
        Ok(()) => GOT_IN,
        Err(Error::Deadlock) => DEADLOCK,
        Err(Error::Unsupported(_)) => UNSUPPORTED,
        Err(other) => panic!("{other}"),
    }
}

fn tries(namespace: &Namespace) -> u64 {
    result(&namespace.begin(Deadline::at_once()).map(drop))
}

static NAMESPACE: OnceLock<&'static Namespace> = OnceLock::new();
static DETECTOR: OnceLock<Detector> = OnceLock::new();
static IN_HANDLER: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Locks, whatever it interrupts.
extern "C" fn locks_in_a_handler(_: i32) {
    let result = match NAMESPACE.get().unwrap().begin(Deadline::at_once()) {
        Ok(tx) => {
            DETECTOR.get().unwrap().visit(|| ());
            result(&tx.commit().map(drop))
        }
        Err(Error::LockTimeout { .. }) => 0,
        Err(error) => result(&Err(error)),
    };
    IN_HANDLER[result as usize].fetch_add(1, Ordering::Relaxed);
}

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    let role: &'static Role = Box::leak(Box::new(role));
    let (namespace, board) = (open(role), &role.board);
    match role.name.as_str() {
        "its first lock" => {
            calls::clone(THREAD, move || {
                board.set(RESULT, tries(namespace));
                exit_thread()
            });
            board.wait_for(RESULT, 1);
            // Who is supported goes on.
            begin(namespace).commit().unwrap();
        }
        "while its other self holds" => {
            let mut tx = begin(namespace);
            tx.put(&key("mine"), 1, b"value").unwrap();
            let flags = if role.number == 0 { THREAD } else { VFORK };
            calls::clone(flags, move || {
                board.set(RESULT, tries(namespace));
                exit_thread()
            });
            board.wait_for(RESULT, 1);
            tx.commit().unwrap();
        }
        "holds beside its other self" => {
            begin(namespace).commit().unwrap();
            board.set(TID, u64::from(tid()));
            calls::clone(THREAD, move || {
                let mut tx = begin(namespace);
                tx.put(&key("mine"), 1, b"value").unwrap();
                board.set(BARE, 1);
                board.wait_for(GO_ON, 1);
                tx.commit().unwrap();
                board.set(BARE, 2);
                exit_thread()
            });
            board.wait_for(BARE, 1);
            board.set(RESULT, tries(namespace));
            board.set(READY, 1);
            board.wait_for(BARE, 2);
            begin(namespace).commit().unwrap();
        }
        "ends inside" => {
            let held = std::thread::spawn(move || {
                begin(namespace).commit().unwrap();
                board.set(TID, u64::from(tid()));
                let flags = if role.number == 0 { THREAD } else { VFORK };
                calls::clone(flags, move || {
                    let mut tx = begin(namespace);
                    tx.put(&key("unfinished"), 1, b"value").unwrap();
                    std::mem::forget(tx);
                    board.set(BARE, 1);
                    exit_thread()
                });
                board.wait_for(BARE, 1);
                board.set(RESULT, tries(namespace));
                board.set(READY, 1);
                board.wait_for(GO_ON, 1);
            });
            held.join().unwrap();
            board.wait_for(GO_ON, 2);
        }
        "interrupted" => {
            NAMESPACE.set(namespace).ok().unwrap();
            DETECTOR.set(Detector::of_parent()).ok().unwrap();
            let detector = DETECTOR.get().unwrap();
            let handler = locks_in_a_handler as extern "C" fn(i32);
            // SAFETY: the handler is a function of this program; that it is not async-signal-safe is the point.
            unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
            let (pid, me) = (std::process::id(), tid());
            std::thread::spawn(move || {
                loop {
                    // SAFETY: sends a signal to a thread of this process.
                    unsafe { libc::syscall(libc::SYS_tgkill, pid, me, libc::SIGUSR1) };
                    std::thread::sleep(Duration::from_micros(20));
                }
            });
            while board.get(GO_ON) == 0 {
                for _ in 0..100 {
                    let mut tx = begin(namespace);
                    detector.visit(|| _ = tx.put(&key("main"), 1, b"8 bytes.").unwrap());
                    tx.commit().unwrap();
                }
                for (place, count) in (FREE..).zip(&IN_HANDLER) {
                    board.set(place, count.load(Ordering::Relaxed));
                }
            }
            // Without the destructors that a handler might interrupt.
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        other => panic!("no role {other}"),
    }
}

fn start(role: &str, number: u64) -> (Arena, Board, Kid) {
    let (arena, board) = (arena(), Board::new());
    arena.namespace("n").unwrap();
    let kid = Kid::start(role, number, Some(&arena), &board);
    (arena, board, kid)
}

#[test]
fn a_bare_thread_that_locks_first_is_refused() {
    let (arena, board, kid) = start("its first lock", 0);
    kid.succeeds();
    assert_eq!(board.get(RESULT), UNSUPPORTED);
    assert_clean(&arena);
}

#[test]
fn a_bare_thread_or_a_vfork_child_does_not_come_in_beside_whose_state_it_shares() {
    for vfork in [0, 1] {
        let (arena, board, kid) = start("while its other self holds", vfork);
        kid.succeeds();
        assert_eq!(board.get(RESULT), UNSUPPORTED);
        assert!(arena.namespace("n").unwrap().contains(&key("mine")).unwrap());
        assert_clean(&arena);
    }
}

/// It locks under the name of the thread whose state it shares, so that one is told that it has the lock already.
#[test]
fn a_bare_thread_that_holds_the_lock_keeps_everybody_out() {
    let (arena, board, kid) = start("holds beside its other self", 0);
    board.wait_for(READY, 1);
    assert_eq!(board.get(RESULT), DEADLOCK);
    let namespace = arena.namespace("n").unwrap();
    is_not_robbed(&namespace, kid.pid());
    board.set(GO_ON, 1);
    kid.succeeds();
    assert!(namespace.contains(&key("mine")).unwrap());
    assert_clean(&arena);
}

/// Nobody can know: its TID is not in the lock. The thread under whose name it locked is named, and frees the lock when
/// it ends.
#[test]
fn a_bare_thread_or_a_vfork_child_that_ends_inside_leaves_the_lock_to_whose_state_it_shared() {
    for vfork in [0, 1] {
        let (arena, board, kid) = start("ends inside", vfork);
        board.wait_for(READY, 1);
        assert_eq!(board.get(RESULT), DEADLOCK);
        let namespace = arena.namespace("n").unwrap();
        is_not_robbed(&namespace, kid.pid());
        board.set(GO_ON, 1);
        enters_after(
            "a bare thread ended inside, and whose state it shared after it",
            &namespace,
        );
        assert!(!namespace.contains(&key("unfinished")).unwrap());
        board.set(GO_ON, 2);
        kid.succeeds();
        assert_clean(&arena);
    }
}

/// A handler that interrupted its thread just when that had the lock, but had not noted it yet, found a lock in the
/// thread's own name, took it for a dead namesake's, and let go of it in the end: another process came in beside the
/// thread.
#[test]
fn a_signal_handler_that_locks_never_lets_two_in() {
    let (arena, board, detector) = (arena(), Board::new(), Detector::new());
    let namespace = arena.namespace("n").unwrap();
    let mut command = Kid::command("interrupted", 0, Some(&arena), &board);
    let kid = Kid::spawn(detector.show_to(&mut command));
    let seconds = common::number_from_env("SHM_STATE_KILL_SECONDS").unwrap_or(2);
    let (start, seconds) = (Instant::now(), Duration::from_secs(seconds));
    // On a loaded machine it takes longer until handlers came at all moments.
    let seen_enough = || [1, 2].iter().all(|result| board.get(FREE + result) >= 10);
    while start.elapsed() < seconds || !seen_enough() {
        assert!(start.elapsed() < seconds + common::PATIENCE, "too few signals");
        let tx = namespace.begin(soon()).unwrap();
        detector.visit(|| ());
        tx.commit().unwrap();
    }
    board.set(GO_ON, 1);
    kid.succeeds();
    let [late, inside, deadlock, unsupported] = [0, 1, 2, 3].map(|at| board.get(FREE + at));
    eprintln!(
        "{} visits; handlers: {inside} inside, {deadlock} told of a deadlock, {late} too late",
        detector.entries()
    );
    detector.assert_never_two();
    assert_eq!(unsupported, 0);
    assert_clean(&arena);
}
