//! Counters at the end of their range. Each is put just below a power of two at which something might wrap, as if the
//! arena had been used for years, and then used across it: by the model, by watchers, under pins, by writers that are
//! killed. Where it can be, the same work is done beside it in a fresh arena, and both must do the same.

mod common;
mod limit;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::model::{self, Change, put, remove};
use common::process::{Board, Kid, Role};
use common::{Random, assert_clean, eventually, key};
use limit::words::{self, Words, control};
use shm_state::{Arena, ArenaOptions, Deadline, Error, Filter, History, Namespace, Next, On, Strategy};

/// Commits left before the wrap when a test begins, and about half of those that it makes.
const BEFORE: u64 = 400;

fn arena() -> Arena {
    let history = History {
        count: 8,
        bytes: 128 * 1024,
    };
    Arena::anonymous(&ArenaOptions {
        capacity: 4 << 20,
        history,
        ..ArenaOptions::default()
    })
    .unwrap()
}

fn words(arena: &Arena) -> Words {
    Words::of(arena.fd().unwrap())
}

/// An arena whose namespace "n" has some keys, and is at commit `seq`.
fn arena_at(seq: u64) -> Arena {
    let arena = arena();
    let namespace = arena.namespace("n").unwrap();
    for number in 0..10 {
        model::commit(&namespace, &[put(format!("old {number}"), number)], Deadline::never()).unwrap();
    }
    drop(namespace);
    words(&arena).move_to(0, seq);
    assert_clean(&arena);
    arena
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let arena = role.arena();
    match role.name.as_str() {
        "writer" => write_until_killed(&arena, &role.board),
        "sleeper" => sleep_for_each_round(&arena, &role),
        "pinner" => {
            let namespace = arena.namespace("n").unwrap();
            let pinned = namespace.pin().unwrap();
            role.board.set(role.number, 1 + pinned.seq());
            role.board.wait_for(63, 1);
        }
        "counter" => count(&arena, 2),
        other => panic!("no role {other}"),
    }
}

fn changes(random: &mut Random) -> Vec<Change> {
    let change = |random: &mut Random| {
        let key = format!("{}{}", "key ".repeat(random.below(8) as usize), random.below(40));
        let most = if random.below(12) == 0 { 5000 } else { 60 };
        match random.below(20) {
            0..=11 => put(key, random.below(most) as usize),
            12..=17 => remove(key),
            18 => Change::Pop,
            _ => Change::Clear,
        }
    };
    let count = if random.below(8) == 0 { 30 } else { 3 };
    (0..=random.below(count)).map(|_| change(random)).collect()
}

/// Commit numbers, birth and retirement of blocks, places in the log, pins, the marker of a decided commit.
#[test]
fn across_a_power_of_two_a_namespace_does_what_a_fresh_one_does() {
    for wrap in [1 << 16, 1 << 31, 1 << 32, 1 << 44, 1 << 53, 1 << 61] {
        let from = wrap - BEFORE;
        let (old, fresh) = (arena_at(from), arena_at(10));
        let (far, near) = (old.namespace("n").unwrap(), fresh.namespace("n").unwrap());
        let mut model = model::contents(&near);
        let mut random = Random::new(wrap);
        let (mut cursor, mut pins) = (from, Vec::new());
        for round in 0..2 * BEFORE {
            let changes = changes(&mut random);
            let made = model::commit(&far, &changes, Deadline::never()).unwrap();
            assert_eq!(
                made - from,
                model::commit(&near, &changes, Deadline::never()).unwrap() - 10
            );
            model = model::after(&model, &changes);
            assert_eq!(
                (far.seq() - from, far.floor() - from),
                (near.seq() - 10, near.floor() - 10)
            );
            follow(&far, &mut cursor);
            if round % 50 == 20 {
                pins.push((far.pin().unwrap(), near.pin().unwrap(), model.clone()));
            }
            if pins.len() == 3 {
                let (one, other, expected) = pins.remove(0);
                model::assert_same(&model::contents_of(&one), &expected, "a snapshot across the wrap");
                assert_eq!(one.seq() - from, other.seq() - 10);
            }
            if round % 100 == 0 {
                let both = [&old, &fresh].map(|arena| arena.stats().unwrap().namespaces.remove(0));
                assert_eq!(
                    (
                        both[0].history,
                        both[0].keys,
                        both[0].live_bytes,
                        both[0].retired_bytes,
                        both[0].free_bytes
                    ),
                    (
                        both[1].history,
                        both[1].keys,
                        both[1].live_bytes,
                        both[1].retired_bytes,
                        both[1].free_bytes
                    ),
                );
                model::check(&old, &far, &model, "across the wrap");
            }
        }
        assert!(far.seq() > wrap, "{} is beyond {wrap}", far.seq());
        assert!(far.pin_at(far.seq()).unwrap().is_some() && far.pin_at(from).unwrap().is_none());
        pins.clear();
        model::check(&old, &far, &model, "at the end");
        assert_clean(&fresh);
    }
}

/// Reads all commits up to the newest; each must be there, in order.
fn follow(namespace: &Namespace, cursor: &mut u64) {
    while *cursor < namespace.seq() {
        let expected = *cursor + 1;
        let next = namespace
            .next_match(cursor, namespace.seq(), Filter::Any, true, None)
            .unwrap();
        assert_eq!(next, Next::Match(expected));
        assert_eq!(namespace.record(expected).unwrap().unwrap().seq, expected);
    }
}

/// The highest bit of the marker stands for maintenance, so no commit may have a number that reaches it. Half of that
/// range takes 36,000 years at four million commits a second; a namespace that claims to be beyond is damaged.
#[test]
fn a_namespace_beyond_all_commits_is_refused() {
    let last = (1 << 62) - 1;
    let arena = arena_at(last);
    let namespace = arena.namespace("n").unwrap();
    let mut model = model::contents(&namespace);
    // Who has it open works on.
    for number in 0..100 {
        let change = [put(format!("new {number}"), 20)];
        model::commit(&namespace, &change, Deadline::never()).unwrap();
        model = model::after(&model, &change);
    }
    model::check(&arena, &namespace, &model, "beyond");
    drop(namespace);
    for seq in [last + 1, 1 << 63, u64::MAX] {
        words(&arena).set(words(&arena).control(0) + control::SEQ, seq);
        match arena.namespace("n") {
            Err(Error::Corrupt { what }) => assert!(what.contains(&seq.to_string()), "{what}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("commit {seq} was believed"),
        }
    }
}

/// Retired granules are counted over all commits: after 256 GiB of them 32 bits would not do.
#[test]
fn the_limit_of_history_bytes_holds_when_the_total_of_retired_granules_wraps() {
    for wrap in [1u64 << 31, 1 << 32, 1 << 58, 1 << 63, 0] {
        let (old, fresh) = (arena_at(10), arena_at(10));
        let at = words(&old).retired_total(0);
        words(&old).set(at, wrap.wrapping_sub(2000));
        let namespaces = [&old, &fresh].map(|arena| arena.namespace("n").unwrap());
        let mut trimmed = 0;
        for round in 0..200 {
            let len = [9000, 30_000, 100, 60_000][round % 4] + round;
            let floors = namespaces.each_ref().map(|namespace| {
                model::commit(namespace, &[put(format!("k{}", round % 8), len)], Deadline::never()).unwrap();
                namespace.floor()
            });
            assert_eq!(floors[0], floors[1], "round {round}, wrap {wrap}");
            trimmed += u64::from(namespaces[0].seq() - floors[0] < 8);
        }
        assert!(
            trimmed > 100,
            "only {trimmed} times the bytes were what limited the history"
        );
        let total = words(&old).get(words(&old).retired_total(0));
        assert!(total.wrapping_sub(wrap) < 1 << 30, "{total} has passed {wrap}");
        assert_clean(&old);
    }
}

/// Two identities in a row were the same when the low 32 bits of their counter wrapped: a watcher left out the updates
/// of the other, taking them for its own.
#[test]
fn identities_stay_different_when_their_counter_wraps() {
    for wrap in [1u64 << 31, 1 << 32, 1 << 40, 0] {
        let arena = arena_at(50);
        words(&arena).set(words::NEXT_IDENTITY, wrap.wrapping_sub(20));
        let all: Vec<Namespace> = (0..40).map(|_| arena.namespace("n").unwrap()).collect();
        let mut identities: Vec<u32> = all.iter().map(Namespace::identity).collect();
        assert!(!identities.contains(&0), "0 is nobody's: {identities:?}");
        for pair in all.windows(2) {
            let mut cursor = pair[0].seq();
            let seq = model::commit(&pair[1], &[put("a", 8)], Deadline::never()).unwrap();
            let own = Some(pair[0].identity());
            let next = pair[0].next_match(&mut cursor, seq, Filter::Any, true, own).unwrap();
            assert_eq!(next, Next::Match(seq), "{identities:?}");
        }
        identities.sort_unstable();
        identities.dedup();
        assert_eq!(identities.len(), 40, "two are the same: {identities:?}");
    }
}

/// The generation of the index says whether a place still is that of its key.
#[test]
fn places_are_noticed_to_be_stale_when_the_generation_of_the_index_wraps() {
    for wrap in [1u64 << 32, 1 << 63, 0] {
        let arena = arena_at(1000);
        let generation = words(&arena).control(0) + control::GENERATION;
        words(&arena).set(generation, wrap.wrapping_sub(3));
        let namespace = arena.namespace("n").unwrap();
        let mut stale = 0;
        for round in 0..6000 {
            let name = format!("key {}", round % 50);
            model::commit(&namespace, &[put(&*name, round % 30)], Deadline::never()).unwrap();
            let place = namespace.place(&key(&name)).unwrap().unwrap();
            let before = words(&arena).get(generation);
            model::commit(&namespace, &[remove(&*name)], Deadline::never()).unwrap();
            model::commit(&namespace, &[put(format!("other {round}"), 1)], Deadline::never()).unwrap();
            model::commit(&namespace, &[remove(format!("other {round}"))], Deadline::never()).unwrap();
            assert_eq!(place.is_current(), before == words(&arena).get(generation));
            assert!(
                !matches!(place.peek(|_, _| ()), Some(Some(()))),
                "a removed key has a value"
            );
            stale += u64::from(!place.is_current());
        }
        assert!(stale > 6, "the index was made anew {stale} times");
        assert!(words(&arena).get(generation).wrapping_sub(wrap) < 1 << 20);
        assert_clean(&arena);
    }
}

/// Every counter that the statistics show, and the event words, with writers that are killed at any instant.
#[test]
fn killed_writers_are_finished_while_all_counters_wrap() {
    for wrap in [1u64 << 32, 1 << 61] {
        let arena = arena_at(wrap - BEFORE);
        let words = words(&arena);
        let at = words.control(0);
        for word in [
            control::LOCK_TAKEOVERS,
            control::RECOVERIES,
            control::WAKES,
            control::WAKEUPS,
        ] {
            words.set(at + word, u64::MAX - 2);
        }
        let namespace = arena.namespace("n").unwrap();
        let (mut last, mut cursor, mut random) = (0, namespace.seq(), Random::new(wrap));
        let mut kills = 0;
        while namespace.seq() < wrap + BEFORE || kills < 30 {
            let board = Board::new();
            let writer = Kid::start("writer", 0, Some(&arena), &board);
            board.wait_for(0, 1);
            std::thread::sleep(Duration::from_micros(random.below(3000)));
            writer.kill();
            kills += 1;
            // Whoever comes next finishes the commit; all four keys are those of one commit.
            let values = ["a", "b", "c", "d"].map(|name| {
                let tx = namespace.begin(Deadline::after(Duration::from_secs(10))).unwrap();
                tx.get(&key(name)).unwrap().map(shm_state::Payload::into_bytes)
            });
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            let Some(value) = &values[0] else { continue };
            let now = u64::from_le_bytes(value[..8].try_into().unwrap());
            assert!(now >= last && now >= board.get(0), "a commit that returned is lost");
            last = now;
            // In order, and what fell out is counted.
            while cursor < namespace.seq() {
                let before = cursor;
                match namespace
                    .next_match(&mut cursor, namespace.seq(), Filter::Any, true, None)
                    .unwrap()
                {
                    Next::Match(seq) => assert_eq!(seq, before + 1),
                    Next::Lagged(missed) => assert_eq!(before + missed, cursor),
                    Next::Nothing => panic!("commit {before} + 1 is not there"),
                }
            }
            assert_clean(&arena);
        }
        let stats = arena.stats().unwrap().namespaces.remove(0);
        let passed = [stats.takeovers, stats.recoveries, stats.wakes, stats.wakeups];
        assert!(
            stats.commits > wrap && passed[..2].iter().any(|count| *count < 1 << 20),
            "{passed:?}"
        );
    }
}

fn write_until_killed(arena: &Arena, board: &Board) {
    let namespace = arena.namespace("n").unwrap();
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    let last = tx
        .get(&key("a"))
        .unwrap()
        .map_or(0, |value| u64::from_le_bytes(value.bytes()[..8].try_into().unwrap()));
    for number in last + 1.. {
        let mut value = number.to_le_bytes().to_vec();
        value.resize(8 + (number as usize * 37) % 3000, number as u8);
        for name in ["a", "b", "c", "d"] {
            tx.put(&key(name), 1, &value).unwrap();
        }
        tx.commit().unwrap();
        board.set(0, number);
        tx = namespace.begin(Deadline::never()).unwrap();
    }
}

/// A wake-up moves the futex; whoever falls asleep compares 32 bits of it.
#[test]
fn no_wake_up_is_lost_when_the_futex_words_wrap() {
    const ROUNDS: u64 = 40;
    for wrap in [1u32 << 31, 0] {
        let arena = arena_at(100);
        let words = words(&arena);
        let at = words.control(0);
        (0..512)
            .for_each(|event| words.set_half(at + control::EVENTS + event * 8, wrap.wrapping_sub(ROUNDS as u32 / 2)));
        words.set_half(at + control::ANY, wrap.wrapping_sub(ROUNDS as u32 / 2));
        let namespace = arena.namespace("n").unwrap();
        let board = Board::new();
        // Number 0 sleeps on any key, the others on one each.
        let kids: Vec<Kid> = (0..4)
            .map(|number| Kid::start("sleeper", number, Some(&arena), &board))
            .collect();
        let before = arena.stats().unwrap().namespaces[0].wakeups;
        for round in 1..=ROUNDS {
            for (number, kid) in kids.iter().enumerate() {
                board.wait_for(number as u64, round);
                eventually("a sleeper to sleep", || sleeps(kid.pid()));
            }
            let all: Vec<Change> = (1..4)
                .map(|number| put(format!("watched {number}"), round as usize))
                .collect();
            model::commit(&namespace, &all, Deadline::never()).unwrap();
        }
        kids.into_iter().for_each(Kid::succeeds);
        let woken = arena.stats().unwrap().namespaces[0].wakeups - before;
        // A sleep that a second's slice ends at that very instant is no wake-up.
        assert!(
            woken >= 4 * ROUNDS - ROUNDS / 4,
            "only {woken} of {} sleepers were woken",
            4 * ROUNDS
        );
        assert!(
            words.half(at + control::ANY).wrapping_sub(wrap) < 1 << 20,
            "the word has wrapped"
        );
    }
}

/// Whether the only thread of a process that does anything is in a futex call that sleeps.
fn sleeps(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().any(|task| {
        let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.trim() == "child" && call.split(' ').next() == Some(&libc::SYS_futex.to_string())
    })
}

fn sleep_for_each_round(arena: &Arena, role: &Role) {
    let namespace = arena.namespace("n").unwrap();
    let hash = [key(&format!("watched {}", role.number)).hash()];
    let on = if role.number == 0 { On::Any } else { On::Keys(&hash) };
    let mut seen = namespace.seq();
    for round in 1..=40 {
        let cancel = AtomicBool::new(false);
        role.board.set(role.number, round);
        let newer = |now| Ok((now > seen).then_some(now));
        let deadline = Deadline::after(common::PATIENCE);
        seen = namespace
            .wait(on, Strategy::Block, deadline, &cancel, newer)
            .unwrap()
            .expect("a wake-up was lost");
    }
}

/// Threads that take locks are told apart by 20 bits of a number that their process's slot counts.
#[test]
fn the_lock_keeps_writers_apart_when_the_numbers_of_threads_wrap() {
    for wrap in [1u64 << 20, 1 << 32, 0] {
        let arena = arena_at(100);
        let board = Board::new();
        let kids: Vec<Kid> = (0..2)
            .map(|number| Kid::start("counter", number, Some(&arena), &board))
            .collect();
        // Those of all slots, this process's too.
        (0..8).for_each(|slot| words(&arena).set(words::PARTICIPANTS + slot * 64 + 16, wrap.wrapping_sub(10)));
        count(&arena, 2);
        kids.into_iter().for_each(Kid::succeeds);
        let namespace = arena.namespace("n").unwrap();
        let count = namespace.get(&key("count")).unwrap().unwrap();
        assert_eq!(count.bytes(), (3 * 2 * 20 * 25u64).to_le_bytes());
        assert!(
            words(&arena).get(words::PARTICIPANTS + 16).wrapping_sub(wrap) < 1 << 16,
            "it wrapped"
        );
        assert_clean(&arena);
    }
}

/// Counts 25 up in each of 20 threads, `rounds` times.
fn count(arena: &Arena, rounds: usize) {
    for _ in 0..rounds {
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let namespace = arena.namespace("n").unwrap();
                    for _ in 0..25 {
                        let mut tx = namespace.begin(Deadline::never()).unwrap();
                        let now = tx.get(&key("count")).unwrap();
                        let now = now.map_or(0, |now| u64::from_le_bytes(now.bytes().try_into().unwrap()));
                        tx.put(&key("count"), 1, &(now + 1).to_le_bytes()).unwrap();
                        tx.commit().unwrap();
                    }
                });
            }
        });
    }
}

/// Seats name their owner by a slot and its generation: those of the dead are reaped, and nobody else's.
#[test]
fn seats_of_the_dead_are_told_from_those_of_the_living_when_generations_wrap() {
    let arena = arena_at(100);
    let generation = |slot: u64| words::PARTICIPANTS + slot * 64 + 24;
    // Slot 0 is this process's.
    (1..4).for_each(|slot| words(&arena).set(generation(slot), u64::from(u32::MAX - 1)));
    let namespace = arena.namespace("n").unwrap();
    for round in 0..4 {
        let board = Board::new();
        // The turn has come back to the slots of the round before.
        words(&arena).set(words::NEXT_SLOT, 1);
        let kids: Vec<Kid> = (0..3)
            .map(|number| Kid::start("pinner", number, Some(&arena), &board))
            .collect();
        (0..3).for_each(|number| board.wait_for(number, 1));
        let living = |count: usize| {
            let stats = arena.stats().unwrap().namespaces.remove(0);
            assert_eq!(
                stats.pins.iter().filter(|pin| pin.pid != 0).count(),
                count,
                "{:?}",
                stats.pins
            );
        };
        living(3);
        let mut kids = kids.into_iter();
        kids.next().unwrap().kill();
        // So many commits that the dead one's pin is looked for; the others' must hold.
        for number in 0..1200 {
            model::commit(&namespace, &[put("a", number % 30)], Deadline::never()).unwrap();
        }
        let stats = arena.stats().unwrap().namespaces.remove(0);
        assert_eq!(stats.pins.len(), 2, "round {round}: {:?}", stats.pins);
        living(2);
        board.set(63, 1);
        kids.for_each(Kid::succeeds);
    }
    let all: Vec<u64> = (1..4).map(|slot| words(&arena).get(generation(slot))).collect();
    assert!(all.iter().all(|generation| (1..100).contains(generation)), "{all:?}");
    assert_clean(&arena);
}
