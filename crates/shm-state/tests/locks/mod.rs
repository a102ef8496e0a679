//! What the tests that attack the writer lock share: a detector of two writers, ways to lose the kernel's mark, and
//! PID namespaces of their own.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

pub mod calls;
pub mod inside;
pub mod mutex;
pub mod spaces;
pub mod trace;

use std::time::{Duration, Instant};

use shm_state::{Arena, ArenaOptions, Deadline, Error, History, Namespace, Transaction};

use crate::common::PATIENCE;
use crate::common::process::{Board, Role, end_of};

/// Places on the board that all roles use; tests have those from [`FREE`] on for themselves.
pub const READY: u64 = 0;
/// The roles go on when it is set.
pub const GO_ON: u64 = 1;
/// The thread that holds the lock.
pub const TID: u64 = 2;
/// The first place without a meaning.
pub const FREE: u64 = 8;

/// Long enough that a waiter asks several times for a proof of the owner's death: its slices are 4, 8, 16, 32 … ms.
pub const SEVERAL_PROOFS: Duration = Duration::from_millis(300);

/// A small arena without a name.
pub fn arena() -> Arena {
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

/// The role of this process, if it has one. In a process that is to begin a PID namespace it does not return.
pub fn role() -> Option<Role> {
    let role = Role::of_this_process()?;
    spaces::begin_if_told(&role);
    Some(role)
}

/// The test harness runs roles in a thread that does not lead its process. From here on the caller is the only thread of
/// a forked copy, which it leads; the process that was waits for it, and ends as it does.
pub fn lead_a_process() {
    fork_and_lead(|| ());
}

/// As [`lead_a_process`], with this id; in a PID namespace of the tests' own.
pub fn lead_process(id: u32) {
    fork_and_lead(|| spaces::next_id(id));
    assert_eq!(std::process::id(), id);
}

fn fork_and_lead(before: impl FnOnce()) {
    before();
    // SAFETY: the copy goes on with what a role does, and leaves without returning to the harness.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        die_with_parent();
        assert_eq!(tid(), std::process::id());
        return;
    }
    std::process::exit(end_of(pid).code().unwrap_or(1));
}

/// This process is killed when its parent ends.
pub fn die_with_parent() {
    // SAFETY: a plain request to the kernel.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Not forever: a hang is to end as a failure.
pub fn soon() -> Deadline {
    Deadline::after(PATIENCE / 2)
}

/// The calling thread, as the kernel knows it.
pub fn tid() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// Begins a transaction with the patience of a test.
#[track_caller]
pub fn begin(namespace: &Namespace) -> Transaction<'_> {
    namespace.begin(soon()).unwrap()
}

/// Waits for the lock, and says on stderr and in its result how long that took.
#[track_caller]
pub fn enters_after(what: &str, namespace: &Namespace) -> Duration {
    let start = Instant::now();
    begin(namespace).commit().unwrap();
    let took = start.elapsed();
    eprintln!("{what}: {:.1} ms", took.as_secs_f64() * 1e3);
    took
}

/// Nobody may come in while the process `pid` holds the lock, however often a proof of its death is asked for.
#[track_caller]
pub fn is_not_robbed(namespace: &Namespace, pid: u32) {
    let error = namespace
        .begin(Deadline::after(SEVERAL_PROOFS))
        .err()
        .expect("a living owner was robbed");
    assert!(
        matches!(error, Error::LockTimeout { pid: named, .. } if named == pid),
        "{error}"
    );
}

/// Deaths of owners that were noticed in a namespace: by the kernel's mark, or by proof.
pub fn takeovers(arena: &Arena, name: &str) -> u64 {
    let stats = arena.stats().unwrap();
    stats.namespaces.iter().find(|n| n.name == name).unwrap().takeovers
}

/// Says that this thread holds the lock, and waits to be told to go on.
pub fn hold(board: &Board) {
    board.set(TID, u64::from(tid()));
    board.set(READY, 1);
    board.wait_for(GO_ON, 1);
}

/// Ends only the calling thread, without anything that the C library does at its end.
pub fn exit_thread() -> ! {
    // SAFETY: nothing of this thread runs after it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Says clearly that a test did not run.
pub fn did_not_run(test: &str, why: &str) {
    eprintln!("DID NOT RUN: {test}: {why}");
}
