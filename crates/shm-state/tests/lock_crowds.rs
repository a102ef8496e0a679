//! Many who want the writer lock, some of whom die, sleep, or ask twice; and slots that have new users.

mod common;
mod locks;

use std::time::{Duration, Instant};

use common::process::{Board, Kid, Role};
use common::{Random, assert_clean, eventually, key, number_from_env};
use locks::inside::Detector;
use locks::mutex::lose_mark;
use locks::{FREE, GO_ON, READY, TID, arena, begin, calls, enters_after, hold, is_not_robbed, soon, tid};
use shm_state::{Arena, Deadline, Error, Namespace, Transaction};

/// The vfork child, whose parent sleeps without being interruptible.
const VFORKED: u64 = FREE;
/// Words of the detector's page: commits that returned, by process.
const COMMITTED: usize = 0;
const PROCESSES: u64 = 16;
const THREADS: u64 = 4;

fn open(role: &Role) -> &'static Namespace {
    let arena: &'static Arena = Box::leak(Box::new(role.arena()));
    Box::leak(Box::new(arena.namespace("n").unwrap()))
}

#[test]
fn child() {
    let Some(role) = locks::role() else { return };
    let board = &role.board;
    match role.name.as_str() {
        "crowd" => {
            let namespace = open(&role);
            let detector: &'static Detector = Box::leak(Box::new(Detector::of_parent()));
            for thread in 0..THREADS {
                let random = Random::new(role.number * THREADS + thread);
                let place = COMMITTED + (role.number % PROCESSES) as usize;
                std::thread::spawn(move || visits(namespace, detector, random, place));
            }
            board.wait_for(GO_ON, 1);
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        "holds" => {
            let namespace = open(&role);
            let mut tx = begin(namespace);
            tx.put(&key("unfinished"), 1, &vec![1; 100_000]).unwrap();
            if role.number == 1 {
                lose_mark();
            }
            hold(board);
            tx.commit().unwrap();
        }
        "waits" => {
            let namespace = open(&role);
            board.set(READY + 2, 1);
            drop(begin(namespace));
        }
        "sleeps uninterruptibly" => {
            let namespace = open(&role);
            let tx = begin(namespace);
            lose_mark();
            board.set(TID, u64::from(tid()));
            board.set(READY, 1);
            calls::clone(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, move || {
                // SAFETY: no arguments.
                role.board
                    .set(VFORKED, unsafe { libc::syscall(libc::SYS_getpid) } as u64);
                loop {
                    // SAFETY: sleeps.
                    unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
                }
            });
            drop(tx);
        }
        other => panic!("no role {other}"),
    }
}

/// Counts in the namespace, in a transaction of which another thread may not see anything before its end.
fn visit<'n>(namespace: &'n Namespace, detector: &Detector, inside: impl FnOnce(&mut Transaction<'n>)) {
    let mut tx = begin(namespace);
    detector.visit(|| {
        let old = namespace.get(&key("count")).unwrap();
        let old = old.map_or(0, |value| u64::from_le_bytes(value.bytes().try_into().unwrap()));
        tx.put(&key("count"), 1, &(old + 1).to_le_bytes()).unwrap();
        inside(&mut tx);
    });
    tx.commit().unwrap();
}

fn visits(namespace: &Namespace, detector: &Detector, mut random: Random, place: usize) {
    use std::sync::atomic::Ordering;
    loop {
        let (marked, spins) = (random.below(8) != 0, random.below(300));
        visit(namespace, detector, |_| {
            if !marked {
                lose_mark();
            }
            (0..spins).for_each(|_| std::hint::spin_loop());
        });
        detector.own(place).fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn sixty_four_waiters_of_whom_processes_are_killed_all_the_time() {
    use std::sync::atomic::Ordering;
    let seconds = number_from_env("SHM_STATE_KILL_SECONDS").unwrap_or(2);
    let (arena, board, detector) = (arena(), Board::new(), Detector::new());
    let namespace = arena.namespace("n").unwrap();
    let mut number = 0;
    let mut start = || {
        let mut command = Kid::command("crowd", number, Some(&arena), &board);
        number += 1;
        Kid::spawn(detector.show_to(&mut command))
    };
    let mut kids: Vec<Kid> = (0..PROCESSES).map(|_| start()).collect();
    eventually("the crowd to be there", || detector.entries() > PROCESSES * THREADS);
    let (mut random, end) = (Random::new(11), Instant::now() + Duration::from_secs(seconds));
    let (mut kills, mut longest, mut own) = (0u64, Duration::ZERO, 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        let victim = random.below(PROCESSES) as usize;
        kids[victim].signal(libc::SIGKILL);
        kills += 1;
        let since = Instant::now();
        visit(&namespace, &detector, |_| ());
        longest = longest.max(since.elapsed());
        own += 1;
        kids[victim] = start();
    }
    kids.clear();
    enters_after("after the crowd", &namespace);
    let (entries, takeovers) = (detector.entries(), locks::takeovers(&arena, "n"));
    eprintln!(
        "64 waiters: {kills} processes killed, {entries} visits, {takeovers} deaths inside, longest wait {:.1} ms",
        longest.as_secs_f64() * 1e3
    );
    detector.assert_never_two();
    // The count is a read-modify-write through the engine. Each commit that returned is in it; one that was decided and
    // did not return may be.
    let returned: u64 = (0..PROCESSES as usize)
        .map(|kid| detector.own(COMMITTED + kid).load(Ordering::SeqCst))
        .sum::<u64>()
        + own;
    let count = namespace.get(&key("count")).unwrap().unwrap();
    let count = u64::from_le_bytes(count.bytes().try_into().unwrap());
    assert!(
        (returned..=returned + kills * THREADS).contains(&count),
        "{returned} returned, {count} counted"
    );
    assert_clean(&arena);
}

/// Waiters that are next for the lock, or about to be, or have just been woken for it, are killed while it is held and
/// while it is let go. Whoever comes after them is not held up.
#[test]
fn waiters_killed_at_any_moment_hold_nobody_up() {
    let (mut random, mut longest) = (Random::new(5), Duration::ZERO);
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    for round in 0..40 {
        let (held, waiting) = (Board::new(), Board::new());
        let holder = Kid::start("holds", 0, Some(&arena), &held);
        held.wait_for(READY, 1);
        let waiters: Vec<_> = (0..3).map(|_| Kid::start("waits", 0, Some(&arena), &waiting)).collect();
        waiting.wait_for(READY + 2, 1);
        // Up to when the first is next (after 4 ms), and beyond.
        std::thread::sleep(Duration::from_micros(random.below(12_000)));
        let before = round % 2 == 0;
        if before {
            waiters.iter().for_each(|kid| kid.signal(libc::SIGKILL));
        }
        held.set(GO_ON, 1);
        if !before {
            std::thread::sleep(Duration::from_micros(random.below(300)));
            waiters.iter().for_each(|kid| kid.signal(libc::SIGKILL));
        }
        let since = Instant::now();
        begin(&namespace).commit().unwrap();
        longest = longest.max(since.elapsed());
        holder.succeeds();
    }
    eprintln!(
        "behind killed waiters: longest wait {:.1} ms",
        longest.as_secs_f64() * 1e3
    );
    assert_clean(&arena);
}

#[test]
fn a_second_transaction_in_one_thread_is_an_error_and_the_first_goes_on() {
    let arena = arena();
    let (namespace, again) = (arena.namespace("n").unwrap(), arena.namespace("n").unwrap());
    let fork = namespace.fork().unwrap();
    let mut tx = begin(&namespace);
    tx.put(&key("a"), 1, b"value").unwrap();
    for other in [&namespace, &again, &fork] {
        for deadline in [Deadline::never(), Deadline::at_once(), soon()] {
            assert!(matches!(other.begin(deadline), Err(Error::Deadlock)));
            assert!(matches!(
                other.put(&key("b"), None, 1, b"value", deadline),
                Err(Error::Deadlock)
            ));
        }
    }
    assert!(matches!(arena.verify(), Err(Error::Deadlock)));
    tx.commit().unwrap();
    assert!(again.contains(&key("a")).unwrap() && !again.contains(&key("b")).unwrap());
    assert_clean(&arena);
}

/// As in a system call that hangs: neither a signal nor a scheduler brings it on. It lives, and is named.
#[test]
fn an_owner_in_uninterruptible_sleep_is_not_robbed_and_its_death_is_noticed() {
    let (arena, board) = (arena(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    let owner = Kid::start("sleeps uninterruptibly", 0, Some(&arena), &board);
    board.wait_for(VFORKED, 1);
    let vforked = calls::Orphan::new(board.get(VFORKED));
    let stat = format!("/proc/{}/task/{}/stat", owner.pid(), board.get(TID));
    eventually("the owner to sleep in D", || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    });
    is_not_robbed(&namespace, owner.pid());
    // Killed, but its memory lives on in the vfork child.
    owner.signal(libc::SIGKILL);
    enters_after("killed in uninterruptible sleep", &namespace);
    assert!(vforked.lives());
    assert_clean(&arena);
}

/// A new process gets the slot of a dead one. The lock that still names the slot is marked first, so nobody takes the new
/// user for its owner.
#[test]
fn a_new_user_of_a_slot_does_not_inherit_the_lock_of_the_old_one() {
    let (arena, board, next) = (arena(), Board::new(), Board::new());
    let namespace = arena.namespace("n").unwrap();
    for _ in 0..10 {
        let owner = Kid::start("holds", 1, Some(&arena), &board);
        board.wait_for(READY, 1);
        owner.kill();
        board.set(READY, 0);
        let heir = Kid::start("holds", 0, Some(&arena), &next);
        next.wait_for(READY, 1);
        assert_eq!(namespace.lock_holder().unwrap().0, heir.pid());
        assert!(!namespace.contains(&key("unfinished")).unwrap());
        is_not_robbed(&namespace, heir.pid());
        heir.kill();
        next.set(READY, 0);
        enters_after("the heir of a slot was killed", &namespace);
    }
    assert_eq!(locks::takeovers(&arena, "n"), 20);
    assert_clean(&arena);
}
