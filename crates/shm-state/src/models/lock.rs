//! The writer lock between threads that die: one owner at a time, no waiter forgotten, the dead one's lock handed on.
//!
//! This is the whole lock: the word, the contended path, the names of threads, the guard. Each thread takes the lock, checks
//! and changes two words that it guards, and gives the lock back. Only system calls and clocks are models (see
//! `kernel`). The stores inside the section are relaxed, so what an owner sees of the one before it comes through the lock.

use super::fixture::Dict;
use super::*;
use crate::space::Space;
use crate::sync::{Word, Word64};
use crate::sys::time::Deadline;

/// How long others stand back for a waiter that is next, and how long a first sleep is (`contend::PATIENCE`).
const PATIENCE_NS: u64 = 4_000_000;

struct Guarded {
    dict: Arc<Dict>,
    /// Two words that only the owner of the lock changes, both to the same.
    first: Word64,
    second: Word64,
}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            dict: Dict::new(2, |_| ()),
            first: Word64::new(0),
            second: Word64::new(0),
        })
    }

    /// Takes the lock, checks and changes what it guards, gives it back.
    fn visit(&self, space: &Space) {
        let guard = space.lock(Deadline::never()).expect("it is free sooner or later");
        let (mut count, second) = (self.first.load(Ordering::Relaxed), self.second.load(Ordering::Relaxed));
        claim(count == second || guard.took_over(), || {
            format!("a section was seen half done: {count}, {second}")
        });
        count += 1;
        self.first.store(count, Ordering::Relaxed);
        let now = self.first.load(Ordering::Relaxed);
        claim(count == now, || "two owners".into());
        self.second.store(count, Ordering::Relaxed);
        // Both ways that it is given back where nothing went wrong.
        if count.is_multiple_of(2) {
            guard.unlock();
        } else {
            guard.unlock_undisturbed();
        }
    }
}

/// What a scene allows.
#[derive(Clone, Copy)]
struct Allowed {
    /// Times that nobody could run before a sleep was over.
    jumps: usize,
    /// The longest of them.
    longest: u64,
    /// Visits that may not have come to their end.
    unfinished: usize,
}

/// Everybody is woken in time, and finishes.
const NOTHING: Allowed = Allowed {
    jumps: 0,
    longest: 0,
    unfinished: 0,
};

/// One thread for each number, which visits so often.
fn visitors(guarded: &Arc<Guarded>, visits: &'static [usize], allowed: Allowed) -> impl Fn() + Send + Sync + 'static {
    let guarded = Arc::clone(guarded);
    move || {
        let space = guarded.dict.fresh();
        for visits in visits {
            let (guarded, space) = (Arc::clone(&guarded), Arc::clone(&space));
            spawn(move || (0..*visits).for_each(|_| guarded.visit(&space)));
        }
        join();
        let (jumps, longest) = (jumps(), longest_jump());
        claim(jumps <= allowed.jumps && longest <= allowed.longest, || {
            format!("everybody slept {jumps} times, for up to {longest} ns")
        });
        let (count, total) = (guarded.first.load(Ordering::Relaxed) as usize, visits.iter().sum());
        let fits = (total - allowed.unfinished..=total).contains(&count);
        claim(fits, || format!("{count} of {total} visits left their trace"));
    }
}

#[test]
fn there_is_one_owner_and_everybody_gets_in() {
    let guarded = Guarded::new();
    let setup = Setup::default();
    holds("lock, 1 and 1 visits", &setup, visitors(&guarded, &[1, 1], NOTHING));
    holds("lock, 2 and 2 visits", &setup, visitors(&guarded, &[2, 2], NOTHING));
    holds(
        "lock, 1, 1 and 1 visits",
        &setup,
        visitors(&guarded, &[1, 1, 1], NOTHING),
    );
}

/// With one waiter nobody sleeps in vain. With two there is one way to: the owner unlocks and dies before it wakes the
/// first, and the second, who never slept and so tells nobody of sleepers, has the lock when the kernel looks.
#[test]
fn a_dead_owners_lock_is_handed_on() {
    let guarded = Guarded::new();
    let setup = Setup::default();
    let one = Allowed {
        unfinished: 2,
        ..NOTHING
    };
    let two = Allowed {
        jumps: 1,
        longest: PATIENCE_NS,
        unfinished: 1,
    };
    let visits = visitors(&guarded, &[2, 1], one);
    holds_at_each_death("lock, 2 and 1 visits", &setup, 1, true, visits);
    let visits = visitors(&guarded, &[1, 1, 1], two);
    holds_at_each_death("lock, 1, 1 and 1 visits", &setup, 1, true, visits);
}

/// Waiters then prove the death, and race for the lock with each other.
#[test]
fn a_dead_owners_lock_is_taken_over_when_the_mark_is_lost() {
    let guarded = Guarded::new();
    let setup = Setup::default();
    // A slice of a waiter, and sleeps of one that is next.
    let allowed = |unfinished| Allowed {
        jumps: 12,
        longest: PATIENCE_NS,
        unfinished,
    };
    holds_at_each_death(
        "lock without a mark, 2 and 1 visits",
        &setup,
        1,
        false,
        visitors(&guarded, &[2, 1], allowed(2)),
    );
    holds_at_each_death(
        "lock without a mark, 1, 1 and 1 visits",
        &setup,
        1,
        false,
        visitors(&guarded, &[1, 1, 1], allowed(1)),
    );
}

/// The sleeps of some threads are over at once: they ask whether the owner is dead while it lives, and become next while
/// others come and go. A thread that read the name of the next one, and falls asleep after that one has come and gone, is
/// called by nobody: it sleeps until it has stood back long enough.
#[test]
fn an_impatient_waiter_robs_nobody_and_holds_nobody_up() {
    let guarded = Guarded::new();
    let allowed = Allowed {
        jumps: 1,
        longest: PATIENCE_NS,
        unfinished: 0,
    };
    for hasty in [vec![(1, 0)], vec![(1, 0), (2, 0)], vec![(1, 0), (1, 1), (1, 2)]] {
        let setup = Setup {
            hasty,
            ..Setup::default()
        };
        let what = |visits: &str| format!("lock, {visits} visits, sleeps {:?} are short", setup.hasty);
        holds(&what("1 and 2"), &setup, visitors(&guarded, &[1, 2], allowed));
        holds(&what("1, 1 and 1"), &setup, visitors(&guarded, &[1, 1, 1], allowed));
    }
}

#[test]
fn weaker_locks_are_found() {
    let guarded = Guarded::new();
    let setup = Setup::default();
    let word = at(guarded.dict.space().control().lock.words().0);
    let relaxed = |order| [Fault::Relaxed(Kind::Exchange, order, word)];
    let visitors = || visitors(&guarded, &[1, 1], NOTHING);
    finds(
        "the lock is released relaxed",
        &setup,
        &relaxed(Ordering::Release),
        visitors(),
    );
    finds(
        "the lock is taken relaxed",
        &setup,
        &relaxed(Ordering::AcqRel),
        visitors(),
    );
    finds("nobody is woken", &setup, &[Fault::NoWake], visitors());
    // The kernel wakes nobody after a death: only a sleep's end helps the waiter.
    let allowed = Allowed {
        unfinished: 1,
        ..NOTHING
    };
    let scene = super::lock::visitors(&guarded, &[1, 1], allowed);
    finds_at_some_death("nobody is woken after a death", &[Fault::NoWake], 1, scene);
}
