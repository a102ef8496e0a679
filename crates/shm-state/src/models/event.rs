//! Events: a sleeper sleeps through no commit that it waits for, whoever of the others dies.
//!
//! Sleepers run `wait::wait`, which arms the event, looks at `seq` and sleeps, or the same steps by hand (`sleep`); the
//! writer runs a whole commit. A canceller ends a wait, whenever it comes. Nobody may need the end of a slice, but for
//! the sleepers of a writer that died.

use std::sync::atomic::AtomicBool;

use super::fixture::{Dict, key, set};
use super::*;
use crate::cancel::{Cancel, CancelWord};
use crate::event::{SLICE, SleeperBits};
use crate::layout::PLACES;
use crate::sleep::{Events, Sleep};
use crate::sync::{Word, Word32};
use crate::wait::{Ended, On, Strategy};
use crate::{Deadline, Namespace};

fn dict() -> Arc<Dict> {
    Dict::new(2, |namespace| set(namespace, "a", 1))
}

/// Sleeps until commit `until` is there.
fn sleeper(namespace: Namespace, until: u64) -> impl FnOnce() {
    move || {
        let hashes = [key("a").hash()];
        let cancel = AtomicBool::new(false);
        let check = |seq| Ok((seq >= until).then_some(seq));
        let ended = namespace.wait(On::Keys(&hashes), Strategy::Block, Deadline::never(), &cancel, check);
        let seq = ended.expect("no damage").expect("nobody cancels");
        claim(seq >= until, || format!("woken at commit {seq}, not {until}"));
    }
}

/// First the sleepers (threads 1 and up), then the writer, who commits so often.
fn scene(dict: &Arc<Dict>, sleepers: usize, commits: u64) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let base = space.seq();
        for n in 0..sleepers {
            spawn(sleeper(
                Namespace::new(Arc::clone(&space), 10 + n as u32),
                base + commits,
            ));
        }
        let writer = Namespace::new(Arc::clone(&space), 1);
        spawn(move || (0..commits).for_each(|n| set(&writer, "a", 2 + n)));
        join();
        claim(jumps() == 0, || {
            format!("a wake-up was lost: everybody slept {} times", jumps())
        });
        // What a dead sleeper left is cleared by the next commit, and costs nothing from then on.
        let place = |choice| SleeperBits::of(key("a").hash(), choice);
        let (futex, _) = place(0).words(space.control());
        let writer = Namespace::new(Arc::clone(&space), 1);
        set(&writer, "a", 10);
        let bumped = futex.load(Ordering::Relaxed);
        set(&writer, "a", 11);
        let is_empty = |choice| place(choice).words(space.control()).1.load(Ordering::Relaxed) == 0;
        let idle = (0..PLACES).all(is_empty) && futex.load(Ordering::Relaxed) == bumped;
        claim(idle, || "a dead sleeper still costs wake-ups".into());
    }
}

/// A word outside of the arena, which outlives the search.
fn word() -> &'static CancelWord {
    Box::leak(Box::new(CancelWord::new()))
}

/// Thread 1 waits for what never comes, or for a commit of thread 3; thread 2 cancels, and takes it back at once.
fn cancelled(dict: &Arc<Dict>, word: &'static CancelWord, commits: bool) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let base = space.seq();
        let seen = word.watch().seen();
        let (waiter, writer) = (Namespace::new(Arc::clone(&space), 10), Namespace::new(space, 1));
        spawn(move || {
            let hashes = [key("a").hash()];
            let (closed, words) = (AtomicBool::new(false), [word.watched_since(seen)]);
            let cancel = Cancel {
                closed: &closed,
                words: &words,
            };
            let check = |seq| Ok((seq > base).then_some(seq));
            let ended = waiter.wait(On::Keys(&hashes), Strategy::Block, Deadline::never(), cancel, check);
            let ended = ended.expect("no damage");
            let right = ended == Err(Ended::Cancelled(0)) || commits && ended == Ok(base + 1);
            claim(right, || format!("{ended:?}"));
        });
        spawn(move || {
            word.cancel();
            word.reset();
        });
        if commits {
            spawn(move || set(&writer, "a", 2));
        }
        join();
        claim(jumps() == 0, || {
            format!("a cancel was missed: everybody slept {} times", jumps())
        });
    }
}

/// Sleeps by hand on the event of a key and on a bell, as one does who watches several namespaces, and arms again only
/// what has moved.
fn by_hand(dict: &Arc<Dict>, bell: &'static CancelWord, commits: u64) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let until = space.seq() + commits;
        let (sleeper, writer) = (Namespace::new(Arc::clone(&space), 10), Namespace::new(space, 1));
        spawn(move || {
            let (mut events, mut sleep) = (Events::new(), Sleep::new());
            events.add(On::Keys(&[key("a").hash()]));
            let mut seen = 0;
            while seen < until {
                let bell = bell.watch();
                if seen == 0 || sleeper.has_moved(&events) {
                    seen = sleeper.arm(&mut events);
                }
                if seen < until {
                    sleep.clear();
                    sleep.add(&sleeper, &events);
                    sleep.add_word(&bell);
                    sleep.until(Deadline::never());
                }
            }
        });
        spawn(move || (0..commits).for_each(|n| set(&writer, "a", 2 + n)));
        join();
        claim(jumps() == 0, || {
            format!("a wake-up was lost: everybody slept {} times", jumps())
        });
    }
}

/// Threads 2 and 3 wish for something and ring; thread 1 sleeps on the bell until it has seen both wishes.
fn rung(bell: &'static CancelWord, wishes: [&'static Word32; 2]) -> impl Fn() + Send + Sync + 'static {
    move || {
        let before = wishes.map(|wish| wish.load(Ordering::Relaxed));
        spawn(move || {
            loop {
                let bell = bell.watch();
                let seen = wishes.map(|wish| wish.load(Ordering::Relaxed));
                if seen.iter().zip(before).all(|(seen, before)| *seen != before) {
                    return;
                }
                let mut sleep = Sleep::new();
                sleep.add_word(&bell);
                sleep.until(Deadline::never());
            }
        });
        for wish in wishes {
            spawn(move || {
                wish.fetch_add(1, Ordering::Relaxed);
                bell.interrupt();
            });
        }
        join();
        claim(jumps() == 0, || {
            format!("a ring was not heard: everybody slept {} times", jumps())
        });
    }
}

/// The writer is killed; if it has decided nothing, another one commits. The sleeper needs one slice at most.
fn dying_writer(dict: &Arc<Dict>) -> impl Fn() + Send + Sync + 'static {
    let dict = Arc::clone(dict);
    move || {
        let space = dict.fresh();
        let base = space.seq();
        let writer = Namespace::new(Arc::clone(&space), 1);
        let of_next = Arc::clone(&space);
        spawn(move || {
            if survives(|| set(&writer, "a", 2)) {
                return;
            }
            let marker = of_next.control().writer.marker.load(Ordering::Acquire);
            if marker == base {
                spawn(move || set(&Namespace::new(of_next, 2), "a", 3));
            }
        });
        spawn(sleeper(Namespace::new(space, 10), base + 1));
        join();
        let slice = u64::try_from(SLICE.as_nanos()).expect("one second");
        claim(jumps() <= 1 && longest_jump() <= slice, || {
            format!("everybody slept {} times, for up to {} ns", jumps(), longest_jump())
        });
    }
}

#[test]
fn no_wake_up_is_lost() {
    let dict = dict();
    let setup = Setup::default();
    holds("sleeper and commit", &setup, scene(&dict, 1, 1));
    holds("sleeper and two commits", &setup, scene(&dict, 1, 2));
    holds("two sleepers and a commit", &setup, scene(&dict, 2, 1));
}

#[test]
fn no_cancel_is_missed() {
    let (dict, setup) = (dict(), Setup::default());
    holds("sleeper and canceller", &setup, cancelled(&dict, word(), false));
    holds("sleeper, canceller and commit", &setup, cancelled(&dict, word(), true));
    finds(
        "nobody is woken by a cancel",
        &setup,
        &[Fault::NoWake],
        cancelled(&dict, word(), false),
    );
}

#[test]
fn no_wake_up_is_lost_by_those_who_sleep_by_hand() {
    let (dict, setup) = (dict(), Setup::default());
    holds("sleep by hand and commit", &setup, by_hand(&dict, word(), 1));
    holds("sleep by hand and two commits", &setup, by_hand(&dict, word(), 2));
    let sleepers = [
        Fault::NoFence(Ordering::SeqCst, 1),
        Fault::Relaxed(Kind::Load, Ordering::SeqCst, at(&dict.space().control().reader.seq)),
    ];
    finds(
        "no order of a sleeper by hand",
        &setup,
        &sleepers,
        by_hand(&dict, word(), 1),
    );
}

#[test]
fn no_ring_is_missed() {
    let (setup, bell) = (Setup::default(), word());
    let wishes = [(); 2].map(|()| -> &'static Word32 { Box::leak(Box::new(Word32::new(0))) });
    holds("two rings", &setup, rung(bell, wishes));
    finds(
        "nobody is woken by a ring",
        &setup,
        &[Fault::NoWake],
        rung(bell, wishes),
    );
    // Without it a wish may come after its ring.
    let ring = Fault::Relaxed(Kind::Exchange, Ordering::Release, at(bell));
    finds("no order of a ring", &setup, &[ring], rung(bell, wishes));
}

#[test]
fn a_dead_sleeper_costs_the_others_nothing() {
    let dict = dict();
    holds_at_each_death(
        "two sleepers and a commit",
        &Setup::default(),
        1,
        true,
        scene(&dict, 2, 1),
    );
}

#[test]
fn a_dead_writers_commit_is_found_after_a_slice() {
    let dict = dict();
    holds_at_each_death("writer and sleeper", &Setup::default(), 1, true, dying_writer(&dict));
}

#[test]
fn weaker_events_are_found() {
    let dict = dict();
    let setup = Setup::default();
    let space = dict.space();
    let futex = at(SleeperBits::of(key("a").hash(), 0).words(space.control()).0);
    let seq = at(&space.control().reader.seq);
    finds("nobody is woken", &setup, &[Fault::NoWake], scene(&dict, 1, 1));
    finds(
        "the futex is not bumped",
        &setup,
        &[Fault::NoStore(futex, None)],
        scene(&dict, 1, 1),
    );
    finds(
        "no fence of the writer",
        &setup,
        &[Fault::NoFence(Ordering::SeqCst, 2)],
        scene(&dict, 1, 1),
    );
    // Each of the two would do.
    let sleepers = [
        Fault::NoFence(Ordering::SeqCst, 1),
        Fault::Relaxed(Kind::Load, Ordering::SeqCst, seq),
    ];
    finds("no order of the sleeper", &setup, &sleepers, scene(&dict, 1, 1));
}
