//! The lock between threads and processes, with owners that are killed, stopped, forked and forgotten.

pub(crate) mod harness;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::thread;
use super::word::LockState;
use super::{LockError, LockGuard};
use crate::participant::Attachment;
use crate::sync::{Ordering, Word};
use crate::sys::time::Deadline;
use crate::sys::{fork, process};
use harness::{Shared, role};

// What the words of the shared memory mean.
const COUNTER: usize = 0;
const READY: usize = 1;
const STOP: usize = 2;
const INSIDE: usize = 3;
const BROKEN: usize = 4;
const ENTRIES: usize = 5;
#[cfg(feature = "kill-points")]
const DEADLY: usize = 6;

const ROUNDS: u64 = 20_000;

fn in_ms(ms: u64) -> Deadline {
    Deadline::after(Duration::from_millis(ms))
}

fn lock<'a>(attachment: &'a Attachment, shared: &'a Shared, index: usize) -> LockGuard<'a> {
    attachment.lock(shared.lock(index), in_ms(20_000)).unwrap()
}

/// Not a test: what the spawned processes do.
#[test]
fn plays_its_role() {
    let Some((role, shared)) = role() else { return };
    let attachment = shared.attach();
    match role.as_str() {
        "count" => count(&attachment, &shared),
        "hold" => hold(&attachment, &shared, false),
        "hold unmarked" => hold(&attachment, &shared, true),
        "hold two" => {
            let _first = lock(&attachment, &shared, 1);
            hold(&attachment, &shared, false);
        }
        "hold after another" => {
            let _held = lock(&attachment, &shared, 0);
            lock(&attachment, &shared, 1).unlock_undisturbed();
            shared.set(READY, u64::from(process::tid()));
            sleep_forever();
        }
        "attach" => {
            shared.set(READY, u64::from(attachment.slot()) + 1);
            sleep_forever();
        }
        "loop" => while_running(&shared, || drop(lock(&attachment, &shared, 0))),
        "visit" => {
            let mut round = u64::from(std::process::id());
            while_running(&shared, || {
                round += 1;
                visit(&attachment, &shared, round.is_multiple_of(8));
            });
        }
        #[cfg(feature = "kill-points")]
        "die" => {
            shared.set(READY, 1);
            crate::sync::kill_at(shared.get(DEADLY));
            drop(lock(&attachment, &shared, 0));
            crate::sync::kill_at(u64::MAX);
        }
        other => panic!("no role {other:?}"),
    }
}

fn sleep_forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn while_running(shared: &Shared, mut step: impl FnMut()) {
    shared.word(READY).fetch_add(1, Ordering::AcqRel);
    while shared.get(STOP) == 0 {
        step();
    }
}

fn hold(attachment: &Attachment, shared: &Shared, unmarked: bool) {
    let _guard = lock(attachment, shared, 0);
    if unmarked {
        thread::with(thread::Thread::lose_mark);
    }
    shared.set(READY, u64::from(process::tid()));
    sleep_forever();
}

fn count(attachment: &Attachment, shared: &Shared) {
    for _ in 0..ROUNDS {
        let _guard = lock(attachment, shared, 0);
        let old = shared.word(COUNTER).load(Ordering::Relaxed);
        shared.word(COUNTER).store(old + 1, Ordering::Relaxed);
    }
}

/// Enters and leaves, and notices if somebody else is inside.
fn visit(attachment: &Attachment, shared: &Shared, unmarked: bool) {
    let me = u64::from(process::tid());
    let guard = lock(attachment, shared, 0);
    if unmarked {
        thread::with(thread::Thread::lose_mark);
    }
    let inside = shared.word(INSIDE);
    if let Err(found) = inside.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
        if !guard.took_over() {
            shared.set(BROKEN, found);
        }
        inside.store(me, Ordering::Relaxed);
    }
    for _ in 0..50 {
        std::hint::spin_loop();
    }
    if inside
        .compare_exchange(me, 0, Ordering::Relaxed, Ordering::Relaxed)
        .is_err()
    {
        shared.set(BROKEN, me);
    }
    shared.word(ENTRIES).fetch_add(1, Ordering::Relaxed);
    drop(guard);
}

#[test]
fn threads_and_processes_exclude_each_other() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let players = [shared.spawn("count"), shared.spawn("count")];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| count(&attachment, &shared));
        }
    });
    for player in players {
        player.succeeds();
    }
    assert_eq!(shared.get(COUNTER), 4 * ROUNDS);
    assert_eq!(attachment.holder(shared.lock(0)), None);
    assert_eq!(shared.lock(0).takeovers(), 0);
}

/// Has a process hold the lock, waits for it in a thread, kills the process: how long until the thread is in?
fn takes_over_from(role: &str) -> Duration {
    let shared = Shared::new();
    let attachment = shared.attach();
    let mut player = shared.spawn(role);
    let tid = shared.await_word(READY);
    assert_eq!(
        attachment.holder(shared.lock(0)),
        Some((player.pid(), u32::try_from(tid).unwrap()))
    );
    let took = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = lock(&attachment, &shared, 0);
            assert!(guard.took_over());
            Instant::now()
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        let killed = Instant::now();
        player.kill();
        waiter.join().unwrap().duration_since(killed)
    });
    assert!(!lock(&attachment, &shared, 0).took_over(), "told once");
    assert_eq!(shared.lock(0).takeovers(), 1);
    took
}

#[test]
fn the_next_owner_learns_that_the_last_one_was_killed() {
    let took = takes_over_from("hold");
    eprintln!("marked by the kernel: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_death_that_the_kernel_did_not_mark_is_proved() {
    let took = takes_over_from("hold unmarked");
    eprintln!("proved: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn of_two_locks_of_a_dead_process_both_are_taken_over() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let player = shared.spawn("hold two");
    shared.await_word(READY);
    player.kill_and_reap();
    assert!(lock(&attachment, &shared, 0).took_over());
    assert!(lock(&attachment, &shared, 1).took_over(), "the kernel marks only one");
}

/// The kernel is told of one lock only: the one still held, when the one taken last was given back without looking.
#[test]
fn a_lock_under_one_that_was_given_back_is_marked_by_the_kernel() {
    let shared = Shared::new();
    let player = shared.spawn("hold after another");
    shared.await_word(READY);
    player.kill_and_reap();
    let state = |index| LockState::read(&shared.lock(index).word);
    assert!(state(0).owner_died());
    assert_eq!(state(1), LockState::FREE);
}

#[test]
fn a_guard_that_was_forgotten_is_in_the_way_until_its_attachment_has_gone() {
    let shared = Shared::new();
    let (first, second) = (shared.attach(), shared.attach());
    std::mem::forget(lock(&first, &shared, 5));
    drop(lock(&second, &shared, 0));
    assert!(second.take_at_hand(shared.lock(0)).is_none());
    drop(first);
    drop(lock(&second, &shared, 0));
    let taken = second.take_at_hand(shared.lock(0)).expect("nothing is in the way");
    LockGuard::new(&second, shared.lock(0), taken).unlock();
    assert!(second.holder(shared.lock(0)).is_none());
}

#[test]
fn a_stopped_owner_is_never_robbed_and_is_named() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let player = shared.spawn("hold unmarked");
    let owner_tid = shared.await_word(READY);
    player.signal(Signal::SIGSTOP);
    match attachment.lock(shared.lock(0), in_ms(300)).map_err(|error| *error) {
        Err(LockError::TimedOut { pid, tid }) => assert_eq!((pid, u64::from(tid)), (player.pid(), owner_tid)),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("robbed"),
    }
    let tried = attachment
        .lock(shared.lock(0), Deadline::at_once())
        .map_err(|error| *error);
    assert!(matches!(tried, Err(LockError::TimedOut { .. })));
    player.signal(Signal::SIGCONT);
    player.kill_and_reap();
    assert!(lock(&attachment, &shared, 0).took_over());
}

#[test]
fn locking_twice_is_an_error_also_through_another_mapping() {
    let shared = Shared::new();
    let other = shared.again();
    let (attachment, through_other) = (shared.attach(), other.attach());
    let guard = lock(&attachment, &shared, 0);
    assert!(matches!(
        attachment
            .lock(shared.lock(0), Deadline::never())
            .map_err(|error| *error),
        Err(LockError::Deadlock)
    ));
    assert!(matches!(
        through_other
            .lock(other.lock(0), Deadline::never())
            .map_err(|error| *error),
        Err(LockError::Deadlock)
    ));
    drop(guard);
    drop(lock(&through_other, &other, 0));
    drop(lock(&attachment, &shared, 0));
}

/// A signal handler that locked when its thread had just got the lock, and had not noted it yet, took it for that of a dead
/// thread of the same TID, and in the end let go of it.
#[test]
fn a_lock_in_ones_own_name_is_never_taken_over() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let guard = lock(&attachment, &shared, 0);
    thread::with(thread::Thread::lose_records);
    let again = attachment.lock(shared.lock(0), in_ms(300)).map_err(|error| *error);
    assert!(matches!(again, Err(LockError::Deadlock)));
    assert!(guard.is_held());
    drop(guard);
    assert!(!lock(&attachment, &shared, 0).took_over());
}

#[test]
fn a_thread_whose_nonce_is_that_of_an_owner_long_ago_does_not_take_its_lock() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let owner_of = |index| LockState::read(&shared.lock(index).word).owner();
    let _guard = lock(&attachment, &shared, 0);
    let (me, mine) = (process::tid(), owner_of(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..1 << 20).for_each(|_| _ = attachment.next_nonce());
            let tried = attachment.lock(shared.lock(0), in_ms(300)).map_err(|error| *error);
            assert!(matches!(tried, Err(LockError::TimedOut { tid, .. }) if tid == me));
            let _other = lock(&attachment, &shared, 1);
            assert_eq!(owner_of(1).raw() >> 32, mine.raw() >> 32, "the same slot and nonce");
        });
    });
}

#[test]
fn locks_nest_and_are_released_in_any_order() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let (one, two, three) = (
        lock(&attachment, &shared, 1),
        lock(&attachment, &shared, 2),
        lock(&attachment, &shared, 3),
    );
    drop(one);
    three.rearm();
    drop(two);
    drop(lock(&attachment, &shared, 1));
    three.unlock();
    let all: Vec<_> = (0..8).map(|index| lock(&attachment, &shared, index)).collect();
    assert!(matches!(
        attachment
            .lock(shared.lock(8), Deadline::never())
            .map_err(|error| *error),
        Err(LockError::TooManyHeld)
    ));
    drop(all);
    assert!((0..8).all(|index| attachment.holder(shared.lock(index)).is_none()));
}

#[test]
fn a_forked_child_does_not_release_its_parents_lock() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let guard = lock(&attachment, &shared, 0);
    // SAFETY: the child uses memory that the parent prepared, makes system calls, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(guard);
        let forked = attachment.is_forked()
            && matches!(
                attachment
                    .lock(shared.lock(1), Deadline::at_once())
                    .map_err(|error| *error),
                Err(LockError::Forked)
            );
        // A new epoch does not bring the old attachment back.
        let still = fork::renew().is_ok()
            && matches!(
                attachment
                    .lock(shared.lock(0), Deadline::at_once())
                    .map_err(|error| *error),
                Err(LockError::Forked)
            );
        drop(attachment);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!(forked && still))) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(
        attachment.holder(shared.lock(0)),
        Some((std::process::id(), process::tid()))
    );
    drop(guard);
    assert!(!lock(&attachment, &shared, 0).took_over());
}

#[test]
fn a_forked_child_can_attach_and_lock() {
    let shared = Shared::new();
    let attachment = shared.attach();
    drop(lock(&attachment, &shared, 0));
    // SAFETY: as above; the child also allocates, which glibc permits after fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let own = shared.attach();
        let works = own.slot() != attachment.slot() && own.lock(shared.lock(0), Deadline::at_once()).is_ok();
        // Dies with this one held: the kernel must find the child's own mark.
        std::mem::forget(own.lock(shared.lock(1), Deadline::at_once()).map_err(|error| *error));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!works)) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert!(
        attachment
            .lock(shared.lock(1), Deadline::at_once())
            .is_ok_and(|guard| guard.took_over())
    );
}

#[test]
fn a_thread_that_ends_with_locks_leaves_them_marked() {
    let shared = Shared::new();
    let attachment = shared.attach();
    std::thread::scope(|scope| {
        let forgetful = scope.spawn(|| (4..7).for_each(|index| std::mem::forget(lock(&attachment, &shared, index))));
        // The scope by itself only waits for the closure, not for the thread's destructors.
        forgetful.join().unwrap();
    });
    for index in 4..7 {
        let guard = attachment.lock(shared.lock(index), Deadline::at_once()).unwrap();
        assert!(guard.took_over());
    }
}

#[test]
fn a_forgotten_guard_does_not_outlive_the_mapping() {
    std::thread::spawn(|| {
        for _ in 0..20 {
            let shared = Shared::new();
            let attachment = shared.attach();
            std::mem::forget(lock(&attachment, &shared, 0));
        }
        // Now unmapped: neither the next lock nor the end of the thread may touch the old ones.
        let shared = Shared::new();
        let attachment = shared.attach();
        drop(lock(&attachment, &shared, 0));
    })
    .join()
    .unwrap();
}

#[test]
fn more_attachments_than_a_thread_remembers_work() {
    let all: Vec<_> = (0..20)
        .map(|_| Shared::new())
        .map(|shared| (shared.attach(), shared))
        .collect();
    for _ in 0..3 {
        for (attachment, shared) in &all {
            drop(lock(attachment, shared, 0));
        }
    }
}

#[test]
fn waiters_get_in_beside_threads_and_processes_in_tight_loops() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let players = [shared.spawn("loop"), shared.spawn("loop")];
    while shared.get(READY) < 2 {
        std::thread::yield_now();
    }
    let longest = std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut longest = Duration::ZERO;
                    for _ in 0..20 {
                        let start = Instant::now();
                        drop(lock(&attachment, &shared, 0));
                        longest = longest.max(start.elapsed());
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    longest
                })
            })
            .collect();
        waiters.into_iter().map(|waiter| waiter.join().unwrap()).max().unwrap()
    });
    shared.set(STOP, 1);
    for player in players {
        player.succeeds();
    }
    eprintln!("longest wait: {longest:?}");
    assert!(longest < Duration::from_secs(20), "{longest:?}");
}

#[test]
fn a_dead_starving_waiter_holds_nobody_up() {
    let shared = Shared::new();
    let attachment = shared.attach();
    let stale = 0x7fff_0001_0000_0001;
    shared.lock(0).starving.store(stale, Ordering::Relaxed);
    let start = Instant::now();
    drop(lock(&attachment, &shared, 0));
    assert!(start.elapsed() < Duration::from_secs(20), "it hung");
    assert_eq!(shared.lock(0).starving.load(Ordering::Relaxed), 0);
    shared.lock(0).starving.store(stale, Ordering::Relaxed);
    assert!(
        attachment.lock(shared.lock(0), Deadline::at_once()).is_ok(),
        "trying does not stand back"
    );
}

#[test]
fn random_kills_never_let_two_in_and_never_hang() {
    let seconds = std::env::var("SHM_STATE_KILL_SECONDS").map_or(1.0, |text| text.parse().unwrap());
    let shared = Shared::new();
    let attachment = shared.attach();
    let mut players: Vec<_> = (0..3).map(|_| shared.spawn("visit")).collect();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut kills, mut longest, mut random) = (0, Duration::ZERO, 0x9e37_79b9_7f4a_7c15_u64);
    while Instant::now() < end {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 8_000));
        let victim = (random >> 32) as usize % players.len();
        players[victim].kill();
        let start = Instant::now();
        visit(&attachment, &shared, false);
        longest = longest.max(start.elapsed());
        // Dropped, and so reaped, only after we were in.
        players[victim] = shared.spawn("visit");
        kills += 1;
    }
    shared.set(STOP, 1);
    drop(players);
    drop(lock(&attachment, &shared, 0));
    let (entries, takeovers) = (shared.get(ENTRIES), shared.lock(0).takeovers());
    eprintln!("{kills} kills, {entries} entries, {takeovers} deaths inside, longest wait {longest:?}");
    assert_eq!(shared.get(BROKEN), 0);
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[cfg(feature = "kill-points")]
#[test]
fn a_process_may_die_before_any_store_of_the_lock() {
    for busy in [false, true] {
        let survived = (0..40).find(|deadly| {
            let shared = Shared::new();
            let attachment = shared.attach();
            shared.set(DEADLY, *deadly);
            let guard = busy.then(|| lock(&attachment, &shared, 0));
            let player = shared.spawn("die");
            shared.await_word(READY);
            std::thread::sleep(Duration::from_millis(if busy { 10 } else { 0 }));
            drop(guard);
            let survived = player.survives();
            drop(attachment.lock(shared.lock(0), in_ms(5_000)).unwrap());
            survived
        });
        assert!(survived.is_some_and(|stores| stores >= 2), "{survived:?}");
    }
}
