//! The lock between processes that die: a waiter before each of its stores, and an owner while others sleep.
//!
//! The slices in which waiters sleep would hide a lost wake-up behind a few milliseconds, so here they last for minutes
//! (`without_backstops`): whoever is not woken hangs, and is seen to. Each point has an arena of its own.

use std::time::Duration;

use shm_state::{Deadline, kill_at, kill_points_passed, without_backstops};

use super::scenario::{Template, World};
use super::sleeper::sleeps;
use super::{end_within, operations};
use crate::common::model::{self, Change, put};
use crate::common::process::{Board, end_of, start_fork};
use crate::common::{assert_clean, eventually};

/// Longer than a waiter sleeps before it wants to be next (4 ms).
const TO_STARVE: Duration = Duration::from_millis(8);
/// The seconds after which a process that should have been woken counts as asleep for ever.
const HANG: u32 = 20;

// On the board.
const STARTED: u64 = 0;
const GO: u64 = 1;
const STORES: u64 = 2;

/// A process that sets a key. With `kill`, it dies before that store, counted from the begin of its transaction.
fn start_writer(world: &World, key: &'static str, kill: Option<u64>, board: &Board) -> i32 {
    let pid = start_fork(|| {
        // SAFETY: a plain request to the kernel: this process ends with its parent.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        end_within(HANG);
        let (_arena, namespace) = world.open();
        board.set(STARTED, 1);
        kill_at(kill.unwrap_or(u64::MAX));
        model::commit(&namespace, &[put(key, 8)], Deadline::never()).unwrap();
        board.set(STORES, kill_points_passed());
        // SAFETY: ends this process before it closes anything.
        unsafe { libc::_exit(0) };
    });
    board.wait_for(STARTED, 1);
    pid
}

/// A process that has the lock, waits to be told, and then commits and unlocks, unless it is killed on the way.
fn start_owner(world: &World, kill: u64, board: &Board) -> i32 {
    let pid = start_fork(|| {
        end_within(3 * HANG);
        let (_arena, namespace) = world.open();
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        board.set(STARTED, 1);
        board.wait_for(GO, 1);
        kill_at(kill);
        model::apply_in(&mut tx, &put("owner", 8)).unwrap();
        tx.commit().unwrap();
        board.set(STORES, kill_points_passed());
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    });
    board.wait_for(STARTED, 1);
    pid
}

/// Ends with success, or by the SIGKILL that was meant for it. Whoever hangs ends by SIGALRM instead.
fn killed(pid: i32, what: &str) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let status = end_of(pid);
    match status.signal() {
        None => assert!(status.success(), "{what}: {status}"),
        Some(signal) => assert_eq!(signal, libc::SIGKILL, "{what} was not woken"),
    }
    status.signal().is_some()
}

fn falls_asleep_or_ends(pid: i32) {
    eventually("a waiter to sleep", || sleeps(pid) || ended(pid));
}

/// A zombie is what a child is that was not waited for.
fn ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// All who were not killed have committed, perhaps those who were, and nothing is broken.
fn check(world: &World, certain: &[&str], possible: &[&str]) {
    let changes = |keys: &[&str]| -> Vec<Change> { keys.iter().map(|key| put(*key, 8)).collect() };
    let mut tx = world.namespace.begin(Deadline::at_once()).expect("the lock is free");
    let mut found = model::contents_in(&tx);
    model::apply_in(&mut tx, &put("last", 8)).unwrap();
    tx.commit().unwrap();
    // In which order they came in is up to the lock.
    let mut all = model::after(&world.model, &changes(certain));
    for key in possible.iter().filter(|key| found.contains_key(key.as_bytes())) {
        all = model::after(&all, &changes(&[*key]));
    }
    found.sort_keys();
    all.sort_keys();
    model::assert_same(&found, &all, "after the deaths");
    assert_clean(&world.arena);
}

/// A waiter is killed while this process has the lock, or when it gets it, or when it gives it back; another waiter was
/// there before it (and is starving), or came after it. Returns whether the waiter was killed.
fn a_waiter_dies(template: &Template, at: u64, comes_first: bool) -> bool {
    end_within(4 * HANG);
    let world = template.copy();
    let (victims, others) = (Board::new(), Board::new());
    let mut tx = world.namespace.begin(Deadline::never()).unwrap();
    let start_other = || {
        let pid = start_writer(&world, "other", None, &others);
        falls_asleep_or_ends(pid);
        std::thread::sleep(TO_STARVE);
        pid
    };
    let early = (!comes_first).then(start_other);
    let victim = start_writer(&world, "victim", Some(at), &victims);
    falls_asleep_or_ends(victim);
    std::thread::sleep(TO_STARVE);
    let other = early.unwrap_or_else(start_other);
    model::apply_in(&mut tx, &put("owner", 8)).unwrap();
    tx.commit().unwrap();
    let was_killed = killed(victim, "the victim");
    assert!(!killed(other, "the other waiter"));
    if was_killed {
        check(&world, &["owner", "other"], &["victim"]);
    } else {
        check(&world, &["owner", "other", "victim"], &[]);
    }
    was_killed
}

/// The owner is killed while two others sleep.
fn an_owner_dies(template: &Template, at: u64) -> bool {
    end_within(4 * HANG);
    let world = template.copy();
    let boards = [Board::new(), Board::new(), Board::new()];
    let owner = start_owner(&world, at, &boards[0]);
    let waiters = [("first", &boards[1]), ("second", &boards[2])].map(|(key, board)| {
        let pid = start_writer(&world, key, None, board);
        falls_asleep_or_ends(pid);
        std::thread::sleep(TO_STARVE);
        pid
    });
    boards[0].set(GO, 1);
    let was_killed = killed(owner, "the owner");
    waiters.iter().for_each(|pid| assert!(!killed(*pid, "a waiter")));
    if was_killed {
        check(&world, &["first", "second"], &["owner"]);
    } else {
        check(&world, &["owner", "first", "second"], &[]);
    }
    was_killed
}

/// Kills somebody before a store; returns whether it came to that.
type Case = fn(&Template, u64) -> bool;

/// The cases, each from point to point until the victim survives.
const CASES: [(&str, Case); 3] = [
    ("a waiter that came first", |template, at| {
        a_waiter_dies(template, at, true)
    }),
    ("a waiter that came second", |template, at| {
        a_waiter_dies(template, at, false)
    }),
    ("an owner", an_owner_dies),
];

/// The state that all cases begin with.
fn template() -> Template {
    Template::of(&operations::named("overwrite"))
}

/// Sweeps all cases.
pub fn run() {
    without_backstops();
    let template = template();
    let mut summary = Vec::new();
    for (what, visit) in CASES {
        let mut at = 0;
        while visit(&template, at) {
            at += 1;
        }
        assert!(at > 20, "{what} has only {at} stores");
        summary.push(format!("{what} at {at} points"));
    }
    println!("\nswept contended: {}", summary.join(", "));
}

/// For a planted fault: where it first shows, if `fails` says that a point fails.
#[cfg(feature = "planted-faults")]
pub fn shows(fails: impl Fn(&mut dyn FnMut()) -> bool) -> Option<String> {
    without_backstops();
    let template = template();
    CASES.iter().find_map(|(what, visit)| {
        let mut points = (0..60).step_by(6);
        let at = points.find(|at| {
            fails(&mut || {
                visit(&template, *at);
            })
        })?;
        Some(format!("{what}, at {at}"))
    })
}
