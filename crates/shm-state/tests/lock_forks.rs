//! Processes that fork, in every way, while they hold the writer lock: the child neither has the lock nor ends it, and
//! keeps nothing of its parent's when that is dead.

mod common;
mod locks;

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::process::Command;

use common::process::{Board, Kid, Role, end_of, start_fork};
use common::{PATIENCE, assert_clean, key};
use locks::mutex::lose_mark;
use locks::{FREE, GO_ON, READY, arena, begin, calls, enters_after, is_not_robbed};
use shm_state::{Arena, Deadline, Error, Namespace, Transaction};

/// Where a forked child that outlives its parent says who it is.
const ORPHAN: u64 = FREE;
/// Set when the child, however it was made, has ended.
const CHILD_ENDED: u64 = FREE + 1;

thread_local! {
    /// Dropped by the C library's `exit`, in a child too.
    static OPEN: RefCell<Option<Transaction<'static>>> = const { RefCell::new(None) };
}

fn namespace(role: &Role) -> &'static Namespace {
    let arena: &'static Arena = Box::leak(Box::new(role.arena()));
    Box::leak(Box::new(arena.namespace("n").unwrap()))
}

/// A copy of this process, made by the bare system call: no handler of the C library runs.
fn raw_fork(child: impl FnOnce()) -> i32 {
    // SAFETY: like fork; the child runs engine code and leaves by `_exit`.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } as i32;
    assert!(pid >= 0);
    if pid == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    pid
}

fn sleep_forever() {
    loop {
        // SAFETY: sleeps until a signal.
        unsafe { libc::pause() };
    }
}

/// Ends some time after everything else, if nobody kills it before.
fn sleep_as_orphan() {
    // SAFETY: the default action of the signal ends the process.
    unsafe { libc::alarm(2 * PATIENCE.as_secs() as u32) };
    sleep_forever();
}

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    let namespace = namespace(&role);
    let board = &role.board;
    let mut tx = begin(namespace);
    tx.put(&key("parent"), 1, &vec![1; 100_000]).unwrap();
    let tx = ManuallyDrop::new(tx);
    // A copy of the transaction, as a forked child has it.
    let inherited = || {
        // SAFETY: only a child uses it, whose memory is another.
        unsafe { std::ptr::read(&raw const *tx) }
    };
    let ended = |pid| {
        let status = end_of(pid);
        assert!(status.success(), "{}: {status}", role.name);
    };
    match role.name.as_str() {
        "fork, _exit" => ended(start_fork(|| ())),
        "fork, drop" => ended(start_fork(|| drop(inherited()))),
        "fork, commit" => ended(start_fork(|| {
            assert!(matches!(inherited().commit(), Err(Error::Forked)));
        })),
        "fork, exit" => ended(start_fork(|| {
            OPEN.with(|open| *open.borrow_mut() = Some(inherited()));
            std::process::exit(0);
        })),
        "fork, panic" => {
            let child = start_fork(|| {
                let _tx = inherited();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert_eq!(end_of(child).code(), Some(1));
        }
        "fork, kill" => {
            // SAFETY: ends the child.
            let child = start_fork(|| _ = unsafe { libc::raise(libc::SIGKILL) });
            assert_eq!(end_of(child).code(), None);
        }
        "fork, open, lock, exit" => ended(start_fork(|| {
            let own = Box::leak(Box::new(role.arena())).namespace("n").unwrap();
            let error = own.begin(Deadline::at_once()).err().unwrap();
            // SAFETY: no arguments.
            let parent = unsafe { libc::getppid() };
            assert!(matches!(error, Error::LockTimeout { pid, .. } if pid == parent.cast_unsigned()));
        })),
        "raw fork, _exit" => ended(raw_fork(|| ())),
        "raw fork, drop" => ended(raw_fork(|| drop(inherited()))),
        "raw fork, commit" => ended(raw_fork(|| {
            assert!(matches!(inherited().commit(), Err(Error::Forked)));
        })),
        "vfork" => ended(calls::clone(
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            // SAFETY: ends the child, which shares this process's memory.
            || unsafe { libc::syscall(libc::SYS_exit, 0) as i32 },
        )),
        "spawn" => assert!(Command::new("true").status().unwrap().success()),
        "fork in another thread" => std::thread::scope(|scope| {
            // It knows of no lock, and its copy is the child's only thread.
            scope.spawn(|| ended(start_fork(|| ())));
        }),
        "leave an orphan" | "leave an orphan by a raw fork" => {
            // Keeps all versions from here on.
            let _pinned = ManuallyDrop::new(namespace.pin().unwrap());
            if role.number == 1 {
                lose_mark();
            }
            let orphan = || {
                board.set(ORPHAN, u64::from(std::process::id()));
                sleep_as_orphan();
            };
            let _ = if role.name == "leave an orphan" {
                start_fork(orphan)
            } else {
                raw_fork(orphan)
            };
            board.wait_for(ORPHAN, 1);
            board.set(READY, 1);
            sleep_forever();
        }
        other => panic!("no role {other}"),
    }
    board.set(CHILD_ENDED, 1);
    board.set(READY, 1);
    board.wait_for(GO_ON, 1);
    if role.number == 0 {
        ManuallyDrop::into_inner(tx).commit().unwrap();
    } else {
        sleep_forever();
    }
}

/// Has a process fork inside. It still has the lock when the child has ended, and can commit, or die and be succeeded.
fn the_lock_stays_the_parents(way: &str) {
    for dies in [false, true] {
        let (arena, board) = (arena(), Board::new());
        let namespace = arena.namespace("n").unwrap();
        let kid = Kid::start(way, u64::from(dies), Some(&arena), &board);
        board.wait_for(READY, 1);
        assert_eq!(board.get(CHILD_ENDED), 1, "{way}");
        is_not_robbed(&namespace, kid.pid());
        assert!(namespace.is_empty().unwrap(), "{way}: nothing was committed");
        let takeovers = u64::from(dies);
        board.set(GO_ON, 1);
        if dies {
            assert!(!kid.kill().success());
            enters_after(&format!("{way}, then the parent is killed"), &namespace);
        } else {
            kid.succeeds();
            enters_after(&format!("{way}, then the parent commits"), &namespace);
        }
        assert_eq!(namespace.contains(&key("parent")).unwrap(), !dies, "{way}");
        assert_eq!(locks::takeovers(&arena, "n"), takeovers, "{way}");
        assert_clean(&arena);
    }
}

#[test]
fn a_forked_child_that_ends_leaves_the_lock_alone() {
    the_lock_stays_the_parents("fork, _exit");
}

#[test]
fn a_forked_child_that_drops_the_transaction_leaves_the_lock_alone() {
    the_lock_stays_the_parents("fork, drop");
}

#[test]
fn a_forked_child_cannot_commit_its_parents_transaction() {
    the_lock_stays_the_parents("fork, commit");
}

/// `exit` runs the destructors of thread-locals, ours among them, which gives up the locks that a thread holds.
#[test]
fn a_forked_child_that_exits_properly_leaves_the_lock_alone() {
    the_lock_stays_the_parents("fork, exit");
}

#[test]
fn a_forked_child_that_panics_leaves_the_lock_alone() {
    the_lock_stays_the_parents("fork, panic");
}

#[test]
fn a_forked_child_that_is_killed_leaves_the_lock_alone() {
    the_lock_stays_the_parents("fork, kill");
}

#[test]
fn a_forked_child_that_opens_the_arena_waits_for_its_parent_like_anybody() {
    the_lock_stays_the_parents("fork, open, lock, exit");
}

#[test]
fn a_child_of_the_bare_system_call_leaves_the_lock_alone() {
    the_lock_stays_the_parents("raw fork, _exit");
    the_lock_stays_the_parents("raw fork, drop");
    the_lock_stays_the_parents("raw fork, commit");
}

/// It shares the memory, and so the thread-local state, of the thread that waits for it.
#[test]
fn a_vfork_child_that_only_ends_leaves_the_lock_alone() {
    the_lock_stays_the_parents("vfork");
}

#[test]
fn a_program_that_is_started_inside_leaves_the_lock_alone() {
    the_lock_stays_the_parents("spawn");
}

#[test]
fn a_fork_in_another_thread_leaves_the_lock_alone() {
    the_lock_stays_the_parents("fork in another thread");
}

/// A forked child had copies of its parent's descriptors, and so the byte that says that the parent lives. When that was
/// dead and collected, its lock (if the mark was lost), its pins and its slot stayed until the child ended.
#[test]
fn a_forked_child_keeps_nothing_of_its_dead_parent() {
    for way in ["leave an orphan", "leave an orphan by a raw fork"] {
        for mark_lost in [false, true] {
            let (arena, board) = (arena(), Board::new());
            let namespace = arena.namespace("n").unwrap();
            namespace
                .put(&key("large"), None, 1, &[0; 1000], locks::soon())
                .unwrap();
            let kid = Kid::start(way, u64::from(mark_lost), Some(&arena), &board);
            board.wait_for(READY, 1);
            let orphan = calls::Orphan::new(board.get(ORPHAN));
            is_not_robbed(&namespace, kid.pid());
            assert!(!kid.kill().success());
            let what = if mark_lost { "mark lost" } else { "marked" };
            enters_after(&format!("{way}, {what}, parent collected"), &namespace);
            // Ten times what fits beside the dead pin.
            for round in 0..80u8 {
                namespace
                    .put(&key("large"), None, 1, &vec![round; 1 << 20], locks::soon())
                    .expect("the dead pin is dropped");
            }
            assert!(arena.stats().unwrap().namespaces[0].pins.is_empty());
            assert_clean(&arena);
            assert!(orphan.lives());
        }
    }
}
