//! Processes that may not, or cannot, ask the kernel who is dead: behind a filter of system calls, without descriptors,
//! or with descriptors that are something else by now. They find another proof, or wait for their deadline and are told
//! for whom; they never take a living owner's lock.

mod common;
mod locks;

use std::fs::File;
use std::time::Duration;

use common::process::{Board, Kid, Role};
use common::{assert_clean, key};
use locks::mutex::lose_mark;
use locks::{FREE, GO_ON, READY, arena, begin, calls, enters_after, exit_thread, hold, is_not_robbed};
use shm_state::{Arena, Deadline, Error};

/// What became of the waiter.
const RESULT: u64 = FREE;
const GOT_IN: u64 = 1;
const TIMED_OUT: u64 = 2;
const REFUSED: u64 = 3;
/// The waiter is there.
const WAITS: u64 = FREE + 1;
/// Set when the owner has ended.
const OWNER_ENDED: u64 = FREE + 2;
/// The waiter was not let in while the owner lived.
const HAS_TRIED: u64 = FREE + 3;

fn deny_descriptors() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel reads a limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) }, 0);
    File::open("/dev/null").expect_err("no descriptor is left");
}

/// Closes every descriptor, of the engine too, but the board's; and opens as many others, under the same numbers.
fn replace_descriptors(board: &Board) {
    let keep = board.descriptor();
    // SAFETY: closes descriptors of this process; nothing here uses another one than the board's afterwards.
    unsafe { libc::syscall(libc::SYS_close_range, 3, keep - 1, 0) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0) };
    for _ in 0..64 {
        let other = nix::sys::memfd::memfd_create("other", nix::sys::memfd::MFdFlags::empty()).unwrap();
        std::mem::forget(other);
    }
}

fn deny(role: &Role, how: &str) {
    match how {
        "nothing" => {}
        "pidfds" => calls::deny(libc::SYS_pidfd_open, libc::EPERM),
        "pidfds, as an old kernel" => calls::deny(libc::SYS_pidfd_open, libc::ENOSYS),
        "pidfds, with an odd error" => calls::deny(libc::SYS_pidfd_open, libc::EINVAL),
        "locks of files" => calls::deny(libc::SYS_fcntl, libc::EPERM),
        "pidfds and locks of files" => {
            calls::deny(libc::SYS_pidfd_open, libc::EPERM);
            calls::deny(libc::SYS_fcntl, libc::EPERM);
        }
        "descriptors" => deny_descriptors(),
        "its own descriptors" => replace_descriptors(&role.board),
        "its own descriptors and pidfds" => {
            calls::deny(libc::SYS_pidfd_open, libc::EPERM);
            replace_descriptors(&role.board);
        }
        "robust lists" => calls::deny(libc::SYS_get_robust_list, libc::EPERM),
        other => panic!("cannot deny {other}"),
    }
}

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    let board = &role.board;
    if let Some(how) = role.name.strip_prefix("waits without ") {
        let arena = role.arena();
        let namespace = arena.namespace("n").unwrap();
        deny(&role, how);
        board.set(WAITS, 1);
        // The owner lives.
        let error = namespace.begin(Deadline::after(locks::SEVERAL_PROOFS)).err();
        match error {
            Some(Error::LockTimeout { .. }) => {}
            Some(Error::Unsupported(why)) => {
                eprintln!("without {how}: {why}");
                return board.set(RESULT, REFUSED);
            }
            other => panic!("without {how}: {other:?}"),
        }
        board.set(HAS_TRIED, 1);
        board.wait_for(OWNER_ENDED, 1);
        let result = match namespace.begin(Deadline::after(Duration::from_secs(2))) {
            Ok(tx) => {
                tx.commit().unwrap();
                GOT_IN
            }
            Err(Error::LockTimeout { pid, tid }) if u64::from(pid) == role.number && tid != 0 => TIMED_OUT,
            Err(other) => panic!("without {how}: {other}"),
        };
        board.set(RESULT, result);
        // Its descriptors may be others' by now.
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    if let Some(how) = role.name.strip_prefix("opens without ") {
        let fd = role.arena_fd();
        deny(&role, how);
        let error = Arena::from_fd(fd).err().expect("it is denied");
        eprintln!("opening without {how}: {error}");
        assert!(error.to_string().contains("pidfd"), "{error}");
        return;
    }
    let arena = role.arena();
    let namespace = arena.namespace("n").unwrap();
    match role.name.as_str() {
        "holds" => {
            let _tx = begin(&namespace);
            lose_mark();
            hold(board);
        }
        "holds without its own descriptors" => {
            let _tx = begin(&namespace);
            let _pin = namespace.pin().unwrap();
            lose_mark();
            replace_descriptors(board);
            hold(board);
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        "loses a thread inside" => std::thread::scope(|scope| {
            scope.spawn(|| {
                let tx = begin(&namespace);
                lose_mark();
                std::mem::forget(tx);
                board.set(READY, 1);
                board.wait_for(GO_ON, 1);
                exit_thread();
            });
            board.wait_for(GO_ON, 2);
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }),
        other => panic!("no role {other}"),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// Killed, and not collected.
    Zombie,
    /// Killed and collected.
    Collected,
    /// Only the thread that holds the lock.
    Thread,
}

/// What becomes of a waiter without something, when the owner ends so, with its mark lost.
fn waits_without(how: &str, end: End) -> u64 {
    let (arena, board, owners) = (arena(), Board::new(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let role = if end == End::Thread {
        "loses a thread inside"
    } else {
        "holds"
    };
    let owner = Kid::start(role, 0, Some(&arena), &owners);
    owners.wait_for(READY, 1);
    let number = u64::from(owner.pid());
    let waiter = Kid::start(&format!("waits without {how}"), number, Some(&arena), &board);
    board.wait_for(WAITS, 1);
    common::eventually("the waiter to have tried", || {
        board.get(HAS_TRIED) + board.get(RESULT) != 0
    });
    let pid = owner.pid();
    let mut owner = Some(owner);
    match end {
        End::Zombie => owner.as_ref().unwrap().signal(libc::SIGKILL),
        End::Collected => drop(owner.take().unwrap().kill()),
        End::Thread => {
            owners.set(GO_ON, 1);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    board.set(OWNER_ENDED, 1);
    waiter.succeeds();
    let result = board.get(RESULT);
    if result == TIMED_OUT {
        eprintln!("without {how}: process {pid} is named at the deadline");
    }
    if end == End::Thread {
        owners.set(GO_ON, 2);
    }
    enters_after(&format!("without {how}, and then somebody else"), &namespace);
    drop(owner);
    assert_clean(&arena);
    result
}

#[test]
fn without_pidfds_the_end_of_the_owners_memory_proves_its_death() {
    for how in ["pidfds", "pidfds, as an old kernel", "pidfds, with an odd error"] {
        assert_eq!(waits_without(how, End::Zombie), GOT_IN, "{how}");
        assert_eq!(waits_without(how, End::Collected), GOT_IN, "{how}");
    }
}

#[test]
fn without_pidfds_nothing_is_proved_of_a_thread_whose_process_lives() {
    assert_eq!(waits_without("pidfds", End::Thread), TIMED_OUT);
}

#[test]
fn without_locks_of_files_the_pidfd_proves_a_death_until_it_is_collected() {
    assert_eq!(waits_without("locks of files", End::Zombie), GOT_IN);
    assert_eq!(waits_without("locks of files", End::Collected), TIMED_OUT);
    assert_eq!(waits_without("locks of files", End::Thread), GOT_IN);
}

#[test]
fn without_any_proof_a_waiter_is_told_for_whom_it_waited() {
    for end in [End::Zombie, End::Collected, End::Thread] {
        assert_eq!(waits_without("pidfds and locks of files", end), TIMED_OUT);
    }
}

/// Opening a pidfd then fails, but the lock file is open.
#[test]
fn without_a_free_descriptor_deaths_are_proved_all_the_same() {
    assert_eq!(waits_without("descriptors", End::Zombie), GOT_IN);
    assert_eq!(waits_without("descriptors", End::Collected), GOT_IN);
}

/// The number of the lock file is that of another file, where all bytes are free: which would prove everybody's death.
#[test]
fn a_waiter_whose_lock_file_is_another_file_by_now_believes_nothing_that_it_says() {
    assert_eq!(waits_without("its own descriptors", End::Zombie), GOT_IN);
    assert_eq!(waits_without("its own descriptors", End::Collected), TIMED_OUT);
    assert_eq!(waits_without("its own descriptors and pidfds", End::Zombie), TIMED_OUT);
}

#[test]
fn without_a_view_of_its_robust_list_a_thread_is_refused() {
    assert_eq!(waits_without("robust lists", End::Collected), REFUSED);
}

#[test]
fn opening_without_pidfds_is_refused_with_the_reason() {
    let (arena, board) = (arena(), Board::new());
    for how in ["pidfds", "pidfds, as an old kernel"] {
        Kid::start(&format!("opens without {how}"), 0, Some(&arena), &board).succeeds();
    }
}

/// Daemons close all descriptors. The lock file was among them, and with it the byte that says that they live.
#[test]
fn an_owner_that_closed_its_descriptors_keeps_its_lock_its_pins_and_its_slot() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    namespace.put(&key("pinned"), None, 1, b"value", locks::soon()).unwrap();
    let owner = Kid::start("holds without its own descriptors", 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    is_not_robbed(&namespace, owner.pid());
    // Who can only ask for bytes is not let in either.
    let (waiters, others) = (Board::new(), Board::new());
    let waiter = Kid::start("waits without pidfds", u64::from(owner.pid()), Some(&arena), &waiters);
    waiters.wait_for(HAS_TRIED, 1);
    // Nor does a new process get its slot, and sweep its lock.
    let other = Kid::start("waits without nothing", u64::from(owner.pid()), Some(&arena), &others);
    others.wait_for(HAS_TRIED, 1);
    is_not_robbed(&namespace, owner.pid());
    owner.kill();
    waiters.set(OWNER_ENDED, 1);
    others.set(OWNER_ENDED, 1);
    waiter.succeeds();
    other.succeeds();
    assert_eq!((waiters.get(RESULT), others.get(RESULT)), (GOT_IN, GOT_IN));
    enters_after("after an owner without descriptors", &namespace);
    assert_clean(&arena);
}

/// Who never waits was told for ever that the dead owner holds the lock: only waiters asked for a proof.
#[test]
fn a_dead_owner_whose_mark_was_lost_is_noticed_without_waiting_too() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let owner = Kid::start("holds", 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    for _ in 0..3 {
        let refused = namespace.begin(Deadline::at_once()).err();
        assert!(
            matches!(refused, Some(Error::LockTimeout { pid, .. }) if pid == owner.pid()),
            "it lives: {refused:?}"
        );
    }
    owner.kill();
    drop(namespace.begin(Deadline::at_once()).expect("it is dead"));
    assert_clean(&arena);
}
