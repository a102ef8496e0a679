//! Mutexes of the C library beside the writer lock: robust ones use the same field of a thread to tell the kernel what it
//! holds, and erase what the lock wrote there.
//!
//! Whether the kernel's mark was there is seen by a waiter that cannot prove any death: it may not open pidfds, and the
//! owner's memory, whose end would free the byte, is shared with a process that goes on. Only the mark lets it in.

mod common;
mod locks;

use std::time::Duration;

use common::process::{Board, Kid};
use common::{assert_clean, key};
use locks::mutex::Mutex;
use locks::{FREE, GO_ON, READY, arena, begin, calls, enters_after, exit_thread};
use shm_state::{Arena, Deadline, Error};

/// Who shares the owner's memory.
const SHARER: u64 = FREE;
/// What became of the waiter.
const WAITED: u64 = FREE + 1;
const GOT_IN: u64 = 1;
const TIMED_OUT: u64 = 2;

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    let board = &role.board;
    let arena: &'static Arena = Box::leak(Box::new(role.arena()));
    let namespace = arena.namespace("n").unwrap();
    let namespace = &namespace;
    if role.name == "waits without proofs" {
        calls::deny(libc::SYS_pidfd_open, libc::EPERM);
        board.set(READY + role.number, 1);
        board.wait_for(GO_ON, 1);
        let end = match namespace.begin(Deadline::after(Duration::from_millis(1500))) {
            Ok(tx) => {
                tx.commit().unwrap();
                GOT_IN
            }
            Err(Error::LockTimeout { .. }) => TIMED_OUT,
            Err(other) => panic!("{other}"),
        };
        board.set(WAITED, end);
        return;
    }
    board.set(SHARER, calls::start_sharing_memory() as u64);
    let (robust, inheriting, both) = (Mutex::robust(), Mutex::inheriting(false), Mutex::inheriting(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if role.name == "a mutex is held before" {
                robust.lock();
            }
            let damaged = (role.name == "the robust list is damaged").then(lock_a_mutex_that_vanishes);
            let mut tx = begin(namespace);
            tx.put(&key("unfinished"), 1, b"value").unwrap();
            match role.name.as_str() {
                "nothing" | "a mutex is held before" | "the robust list is damaged" => {}
                "a robust mutex" | "a robust mutex, rearmed" => {
                    robust.lock();
                    robust.unlock();
                }
                "an inheriting mutex" => {
                    inheriting.lock();
                    inheriting.unlock();
                }
                "a robust inheriting mutex" => {
                    both.lock();
                    both.unlock();
                }
                "a mutex is held after" | "a mutex is held after, rearmed" => robust.lock(),
                "a mutex is released inside" => {
                    robust.lock();
                    tx.rearm();
                    robust.unlock();
                }
                other => panic!("no role {other}"),
            }
            if role.name.ends_with("rearmed") {
                tx.rearm();
            }
            std::mem::forget((tx, damaged));
            board.set(READY, 1);
            board.wait_for(GO_ON, 1);
            exit_thread();
        });
        board.wait_for(WAITED, 1);
        if role.name.starts_with("a mutex is held") {
            assert!(robust.lock_after_death(), "the kernel marked the other mutex too");
        }
        std::thread::sleep(common::PATIENCE);
    });
}

/// A robust mutex in memory that is unmapped while it is held: the kernel stops at it, before it comes to our lock.
fn lock_a_mutex_that_vanishes() {
    // SAFETY: a new mapping.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    Mutex::robust().lock_a_copy_at(page.cast());
    // SAFETY: nobody but the kernel comes back to it.
    assert_eq!(unsafe { libc::munmap(page, 4096) }, 0);
}

/// Has a thread use a mutex so inside, and end. Says whether somebody who can prove nothing came in.
fn is_marked_after(way: &str) -> bool {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let owner = Kid::start(way, 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    let sharer = calls::Orphan::new(board.get(SHARER));
    let waiter = Kid::start("waits without proofs", 2, Some(&arena), &board);
    board.wait_for(READY + 2, 1);
    board.set(GO_ON, 1);
    waiter.succeeds();
    let marked = board.get(WAITED) == GOT_IN;
    eprintln!("{way}: {}", if marked { "marked" } else { "not marked" });
    // Whoever can prove the death comes in in any case, while the rest of the owner's process lives.
    enters_after(&format!("{way}, with proofs"), &namespace);
    assert!(!namespace.contains(&key("unfinished")).unwrap());
    assert!(sharer.lives());
    drop(owner);
    assert_clean(&arena);
    marked
}

#[test]
fn without_another_mutex_the_kernel_marks_the_lock() {
    assert!(is_marked_after("nothing"));
}

#[test]
fn a_robust_mutex_used_inside_costs_the_mark_which_a_proof_replaces() {
    assert!(!is_marked_after("a robust mutex"));
    assert!(!is_marked_after("a robust inheriting mutex"));
}

#[test]
fn arming_anew_after_a_robust_mutex_brings_the_mark_back() {
    assert!(is_marked_after("a robust mutex, rearmed"));
}

/// glibc erases the field for these too, another library may not: in any case somebody comes in.
#[test]
fn a_mutex_that_inherits_priorities_does_no_more_harm_than_a_robust_one() {
    is_marked_after("an inheriting mutex");
}

#[test]
fn a_robust_mutex_that_is_held_all_along_is_marked_beside_the_lock() {
    assert!(is_marked_after("a mutex is held before"));
}

#[test]
fn a_robust_mutex_that_is_taken_inside_and_held_is_marked_and_the_lock_with_it_if_armed_anew() {
    assert!(!is_marked_after("a mutex is held after"));
    assert!(is_marked_after("a mutex is held after, rearmed"));
}

#[test]
fn a_mark_brought_back_too_early_is_lost_again_and_replaced_by_a_proof() {
    assert!(!is_marked_after("a mutex is released inside"));
}

#[test]
fn a_robust_list_that_the_kernel_cannot_follow_costs_the_mark_which_a_proof_replaces() {
    assert!(!is_marked_after("the robust list is damaged"));
}

/// Nothing can be proved of a process that is collected while another shares its memory: with the mark lost, the lock
/// stays until that one ends. It is named, nobody hangs, and nobody comes in.
#[test]
fn a_process_that_shares_the_memory_of_a_dead_owner_prolongs_its_lock() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let owner = Kid::start("a robust mutex", 0, Some(&arena), &board);
    board.wait_for(READY, 1);
    let sharer = calls::Orphan::new(board.get(SHARER));
    let pid = owner.pid();
    owner.kill();
    locks::is_not_robbed(&namespace, pid);
    drop(sharer);
    enters_after("after the end of who shared the dead owner's memory", &namespace);
    assert_clean(&arena);
}
