//! Owners of the writer lock that end inside it, in every way that a thread or a process can end. Whoever waits goes on
//! within the documented bound, what the owner had begun is gone, and its process, where it lives on, keeps nothing.

mod common;
mod locks;

use std::mem::forget;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::process::{Board, Kid, Role};
use common::{assert_clean, eventually, key};
use locks::mutex::lose_mark;
use locks::{READY, TID, arena, begin, enters_after, exit_thread, tid};
use shm_state::{Arena, Namespace, Transaction};

/// The number of a role is made of these: how many locks it holds, and whether the kernel still knows of one.
const TWO_LOCKS: u64 = 1;
const MARK_LOST: u64 = 2;

const ALL: [(u64, &str); 4] = [
    (0, "marked"),
    (MARK_LOST, "mark lost"),
    (TWO_LOCKS, "two locks"),
    (TWO_LOCKS | MARK_LOST, "two locks, marks lost"),
];

/// The role's arena and namespaces, which must outlive every lock.
fn namespaces(role: &Role) -> &'static [Namespace; 2] {
    let arena: &'static Arena = Box::leak(Box::new(role.arena()));
    Box::leak(Box::new(["a", "b"].map(|name| arena.namespace(name).unwrap())))
}

/// Holds what the role's number says, says so, and returns with it.
fn held<'n>(role: &Role, namespaces: &'n [Namespace; 2]) -> Vec<Transaction<'n>> {
    let count = if role.number & TWO_LOCKS != 0 { 2 } else { 1 };
    let mut all: Vec<_> = namespaces[..count].iter().map(begin).collect();
    for tx in &mut all {
        tx.put(&key("unfinished"), 1, &vec![1; 100_000]).unwrap();
    }
    if role.number & MARK_LOST != 0 {
        lose_mark();
    }
    role.board.set(TID, u64::from(tid()));
    all
}

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    let name = match role.name.strip_prefix("the leader: ") {
        Some(name) => {
            locks::lead_a_process();
            name
        }
        None => &role.name,
    };
    let namespaces = namespaces(&role);
    // The end of a thread; the process lives on.
    let in_thread = |end: fn(Vec<Transaction<'static>>)| {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| end(held(&role, namespaces)));
            eventually("the thread to end", || thread.is_finished() || role.board.get(TID) != 0);
            role.board.set(READY, 1);
            std::thread::sleep(common::PATIENCE);
        });
    };
    // The end of the process while this thread holds locks.
    let ready = |role: &Role| {
        forget(held(role, namespaces));
        role.board.set(READY, 1);
    };
    match name {
        "a thread returns" => in_thread(forget),
        "a thread panics" => in_thread(|_held| panic_quietly()),
        "a thread exits raw" => in_thread(|held| {
            forget(held);
            exit_thread();
        }),
        "pthread_exit" => pthread_exit_with_locks(&role, namespaces),
        "exit raw" => {
            std::thread::scope(|scope| {
                // Keeps the process alive.
                scope.spawn(|| std::thread::sleep(common::PATIENCE));
                ready(&role);
                exit_thread();
            });
        }
        "exit" => {
            ready(&role);
            std::process::exit(3);
        }
        "exit in another thread" => {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    role.board.wait_for(READY, 1);
                    std::process::exit(3);
                });
                ready(&role);
                std::thread::sleep(common::PATIENCE);
            });
        }
        "_exit" => {
            ready(&role);
            // SAFETY: ends this process.
            unsafe { libc::_exit(3) };
        }
        "abort" => {
            // No core file of a process that ends as it should.
            // SAFETY: a plain request to the kernel.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            ready(&role);
            std::process::abort();
        }
        "panic" => {
            let _held = held(&role, namespaces);
            role.board.set(READY, 1);
            panic_quietly();
        }
        "kill itself" => {
            ready(&role);
            // SAFETY: ends this process.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        "exec" => {
            ready(&role);
            panic!("exec: {}", sleep().exec());
        }
        "exec in another thread" => {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    role.board.wait_for(READY, 1);
                    panic!("exec: {}", sleep().exec());
                });
                ready(&role);
                std::thread::sleep(common::PATIENCE);
            });
        }
        "pin and exec" => {
            forget(namespaces[0].pin().unwrap());
            role.board.set(READY, 1);
            panic!("exec: {}", sleep().exec());
        }
        other => panic!("no role {other}"),
    }
}

/// Unwinds without a message.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("60");
    command
}

/// `pthread_exit` unwinds by force, which Rust code does not survive: so the thread is one of the C library, and has
/// nothing to unwind.
fn pthread_exit_with_locks(role: &Role, namespaces: &'static [Namespace; 2]) {
    struct Both<'a>(&'a Role, &'static [Namespace; 2]);
    extern "C" fn start(both: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the creator keeps it until the thread was joined.
        let both = unsafe { &*both.cast::<Both<'_>>() };
        forget(held(both.0, both.1));
        // The C library calls this very function when a thread returns; what it unwinds is this frame only.
        std::ptr::null_mut()
    }
    extern "C-unwind" fn start_and_leave(both: *mut libc::c_void) -> *mut libc::c_void {
        start(both);
        unsafe extern "C-unwind" {
            fn pthread_exit(value: *mut libc::c_void) -> !;
        }
        // SAFETY: this frame has nothing to drop, and the next is the C library's.
        unsafe { pthread_exit(std::ptr::null_mut()) }
    }
    let both = Both(role, namespaces);
    let mut thread = 0;
    // SAFETY: an unwinding function is as good as one that is not: the C library expects both.
    let start = unsafe {
        std::mem::transmute::<
            extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void,
            extern "C" fn(*mut libc::c_void) -> *mut libc::c_void,
        >(start_and_leave)
    };
    // SAFETY: `both` lives until the thread was joined.
    let error = unsafe {
        libc::pthread_create(
            &raw mut thread,
            std::ptr::null(),
            start,
            (&raw const both).cast_mut().cast(),
        )
    };
    assert_eq!(error, 0);
    // SAFETY: the thread made above.
    assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    role.board.set(READY, 1);
    std::thread::sleep(common::PATIENCE);
}

#[derive(PartialEq, Clone, Copy)]
enum After {
    /// The process goes on, perhaps as another program.
    Lives,
    /// It ended, and was collected or not.
    Ended,
}

/// Lets a process end so, or one of its threads, and goes in.
fn goes_on_after(role: &str, after: After) {
    for (number, what) in ALL {
        for reaped in [false, true] {
            if reaped && after == After::Lives {
                continue;
            }
            let (arena, board) = (arena(), Board::new());
            let namespaces = ["a", "b"].map(|name| arena.namespace(name).unwrap());
            for namespace in &namespaces {
                namespace.put(&key("before"), None, 1, b"it", locks::soon()).unwrap();
            }
            let mut kid = Kid::start(role, number, Some(&arena), &board);
            board.wait_for(READY, 1);
            let mut kid = if reaped {
                kid.wait();
                None
            } else {
                if after == After::Lives {
                    assert!(kid.is_running(), "{role}: it should live on");
                }
                Some(kid)
            };
            let how = if reaped { ", collected" } else { "" };
            for namespace in &namespaces {
                enters_after(&format!("{role}, {what}{how}, {}", namespace.name()), namespace);
                assert!(!namespace.contains(&key("unfinished")).unwrap());
                assert!(namespace.contains(&key("before")).unwrap());
            }
            assert_clean(&arena);
            if let Some(kid) = &mut kid
                && after == After::Lives
            {
                assert!(kid.is_running(), "{role}: its end was waited for");
            }
        }
    }
}

#[test]
fn a_thread_that_returns_inside() {
    goes_on_after("a thread returns", After::Lives);
}

#[test]
fn a_thread_that_panics_inside() {
    goes_on_after("a thread panics", After::Lives);
}

#[test]
fn a_thread_that_leaves_by_pthread_exit_inside() {
    goes_on_after("pthread_exit", After::Lives);
}

/// No destructor runs, so only the kernel's mark is left, and a proof where that is lost.
#[test]
fn a_thread_that_leaves_by_the_bare_system_call_inside() {
    goes_on_after("a thread exits raw", After::Lives);
}

/// The leader stays as a zombie while other threads run: its id is not free, and signals to it succeed.
#[test]
fn a_leader_that_leaves_while_its_process_lives() {
    goes_on_after("the leader: exit raw", After::Lives);
}

#[test]
fn a_process_that_calls_exit_inside() {
    goes_on_after("exit", After::Ended);
}

#[test]
fn a_process_whose_other_thread_calls_exit() {
    goes_on_after("exit in another thread", After::Ended);
}

#[test]
fn a_process_that_calls_the_bare_exit_inside() {
    goes_on_after("_exit", After::Ended);
}

#[test]
fn a_process_that_aborts_inside() {
    goes_on_after("abort", After::Ended);
}

#[test]
fn a_process_that_panics_inside() {
    goes_on_after("panic", After::Ended);
}

#[test]
fn a_process_that_is_killed_inside() {
    goes_on_after("kill itself", After::Ended);
    goes_on_after("the leader: kill itself", After::Ended);
}

/// The leader's process has the pid and the identity that it had, and a living thread of the same TID: where the kernel had
/// not marked the lock (of two, it marks one) it looked like a living owner until the new program ended.
#[test]
fn a_leader_that_executes_another_program_inside() {
    goes_on_after("the leader: exec", After::Lives);
}

/// The thread becomes the leader and takes its TID, before the kernel looks for the old TID in the lock.
#[test]
fn a_thread_that_executes_another_program_inside() {
    goes_on_after("exec", After::Lives);
}

/// The new program runs under the TID of the leader, which held the lock and was ended by the exec.
#[test]
fn a_leader_whose_process_executes_another_program() {
    goes_on_after("the leader: exec in another thread", After::Lives);
    goes_on_after("exec in another thread", After::Lives);
}

/// The pins of a process that executed another program stayed until that program ended.
#[test]
fn a_program_keeps_no_pins_of_the_one_that_executed_it() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("a").unwrap();
    namespace
        .put(&key("large"), None, 1, &[0; 1000], locks::soon())
        .unwrap();
    let mut kid = Kid::start("pin and exec", 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    eventually("the kid to execute sleep", || {
        std::fs::read_to_string(format!("/proc/{}/comm", kid.pid())).is_ok_and(|name| name == "sleep\n")
    });
    // Ten times what fits beside the pinned snapshot.
    for round in 0..80u8 {
        namespace
            .put(&key("large"), None, 1, &vec![round; 1 << 20], locks::soon())
            .expect("the dead pin is dropped");
    }
    assert!(arena.stats().unwrap().namespaces[0].pins.is_empty());
    assert!(kid.is_running());
    assert_clean(&arena);
}
